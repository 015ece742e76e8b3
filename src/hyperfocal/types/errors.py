"""Errors and warnings."""


class HyperfocalError(Exception):
    """An error that the user can fix; the message names the value, the file and the fix.

    The command line prints only the message and exits with status 2.
    """


class ConfigError(HyperfocalError, ValueError):
    """An invalid or unknown setting."""


class DataError(HyperfocalError, ValueError):
    """Annotations or images that can't be used."""


class HyperfocalWarning(UserWarning):
    """Input was corrected or skipped, or looks wrong; the run continues."""
