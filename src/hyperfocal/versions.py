"""Versions of installed packages."""

from __future__ import annotations

UNKNOWN = "unknown"


def version_of(package: str) -> str:
    """The installed version of a distribution; ``"unknown"`` if it isn't found.

    A source tree can run without being installed, and some builds of a library have another
    distribution name, so a missing version isn't an error.
    """
    from importlib import metadata

    try:
        # A damaged installation has metadata without a version, which is None.
        return metadata.version(package) or UNKNOWN
    except (metadata.PackageNotFoundError, KeyError):
        return UNKNOWN
