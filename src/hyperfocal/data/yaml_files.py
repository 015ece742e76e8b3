"""YAML files from other people: bounded in size, executed never, values as written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from hyperfocal.files import one_line, read_text
from hyperfocal.types import DataError, HyperfocalError

MAX_YAML = 1 << 20
"""Bytes of a YAML file; its parser takes seconds a megabyte."""


def load_yaml(path: Path, error: type[HyperfocalError] = DataError) -> Any:
    """Decode a YAML file whose values all stay text, as written: ``yes`` is ``"yes"``.

    YAML makes booleans, dates and numbers of words such as ``on``, ``2020-01-01`` and ``012``,
    which are category names here. Tags that make objects, and aliases, are refused: a few nested
    aliases stand for billions of values, and nothing here needs them.

    Raises:
        HyperfocalError: of class ``error``: too large, or not such YAML. A missing file is a
            `FileNotFoundError`.
    """
    text = read_text(path, MAX_YAML, error)
    try:
        return yaml.load(text, _PlainLoader)
    except RecursionError:
        raise error(f"{path}: not readable as YAML (nested too deeply)") from None
    # Its constructors raise whatever odd dates, numbers and keys lead them to.
    except Exception as reason:
        raise error(f"{path}: not readable as YAML ({one_line(reason)})") from None


class _PlainLoader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012, every plain value stays text

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not allowed; write the value out")
        return super().compose_node(parent, index)
