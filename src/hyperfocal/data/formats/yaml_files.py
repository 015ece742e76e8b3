"""Safe reading of YAML files: limited in size, without code execution, values as written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from hyperfocal.files import one_line, read_text
from hyperfocal.types import DataError, HyperfocalError

MAX_YAML = 1 << 20
"""Bytes of a YAML file; its parser takes seconds a megabyte."""


def load_yaml(path: Path, error: type[HyperfocalError] = DataError) -> Any:
    """Decode a YAML file with all values as text, as written: ``yes`` is ``"yes"``.

    YAML converts words such as ``on``, ``2020-01-01`` and ``012``, which are category names here,
    to booleans, dates and numbers. Tags that create objects are refused, and so are aliases,
    because a few nested ones can expand to billions of values.

    Raises:
        HyperfocalError: (of class ``error``) the file is too large or isn't valid YAML. A missing
            file is a `FileNotFoundError`.
    """
    text = read_text(path, MAX_YAML, error)
    try:
        return yaml.load(text, _PlainLoader)
    except RecursionError:
        raise error(f"{path}: not readable as YAML (nested too deeply)") from None
    # Its constructors raise various exceptions for invalid dates, numbers and keys.
    except Exception as reason:
        raise error(f"{path}: not readable as YAML ({one_line(reason)})") from None


class _PlainLoader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012, every plain value stays text

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not allowed; write the value out")
        return super().compose_node(parent, index)
