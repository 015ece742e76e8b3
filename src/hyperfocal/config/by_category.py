"""Settings by category name: ``--loss.alpha "cat=0.5,dog=0.2"``, or a file of them."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from hyperfocal.config.base import Config, did_you_mean, walk, with_field
from hyperfocal.files import is_file, load_json, read_text, shown
from hyperfocal.types import Category, ConfigError

ConfigT = TypeVar("ConfigT", bound=Config)

OTHERS = "*"
"""Stands for all categories that aren't named."""


def with_categories(config: ConfigT, categories: Sequence[Category]) -> ConfigT:
    """A config with every setting by category name turned into one value per category.

    Categories that aren't named get the value of ``*``, else the loss's default.

    Raises:
        ConfigError: a name that isn't a category, a value that isn't a number in [0, 1], or a
            category without a value.
    """
    names = [category.name for category in categories]
    result = config
    for path, part in walk(config):
        for field in part.by_category:
            text = getattr(part, field)
            if isinstance(text, str):
                setting = f"{path}.{field}"
                values = values_of(text, names, _default(part, field), setting)
                result = with_field(result, setting.split("."), values)
    return result


def values_of(
    text: str, names: Sequence[str], default: float | None, setting: str
) -> tuple[float, ...]:
    """One value per category from ``NAME=NUMBER,...``, JSON, or a file of one of these.

    Args:
        text: the pairs, or the path of a file. A text file has one pair per line.
        names: of the categories, in label order.
        default: value of categories that aren't named; None: every category must be named.
        setting: its name, for error messages.

    Raises:
        ConfigError: see `with_categories`.
    """
    given: dict[str, float] = {}
    for name, value in _pairs(text, setting):
        if name in given:
            raise ConfigError(f"{setting} names {shown(name)} twice")
        if name != OTHERS and name not in names:
            raise ConfigError(
                f"{setting} names {shown(name)}, which isn't a category "
                f"({did_you_mean(name, names)})"
            )
        given[name] = _number(value, f"{setting} of {shown(name)}")
    rest = given.get(OTHERS, default)
    missing = [name for name in names if name not in given]
    if missing and rest is None:
        raise ConfigError(
            f"{setting} has no value for {shown(missing[0])}, and this loss has no default: name "
            f"every category, or set all others with {OTHERS}=0.5"
        )
    return tuple(given.get(name, rest) for name in names)  # type: ignore[misc]


def _pairs(text: str, setting: str) -> Iterator[tuple[str, object]]:
    if text.lstrip().startswith("{"):
        try:
            data = json.loads(text)
        except (ValueError, RecursionError):
            raise ConfigError(f"{setting} = {shown(text)}: not readable as JSON") from None
        yield from data.items()
        return
    path = Path(text)
    if is_file(path):
        if path.suffix.lower() == ".json":
            data = load_json(path, ConfigError)
            if not isinstance(data, dict):
                raise ConfigError(f"{path}: expected an object of numbers by category name")
            yield from data.items()
            return
        parts = read_text(path, error=ConfigError).splitlines()
    elif "=" in text:
        parts = text.split(",")
    else:
        raise ConfigError(f"{setting} = {shown(text)}: not a number, NAME=NUMBER pairs or a file")
    for part in parts:
        name, equals, value = part.rpartition("=")  # a name may contain "=" too
        if equals:
            yield name.strip(), value.strip()
        elif part.strip():
            raise ConfigError(
                f"{setting}: {shown(part)} is not a NAME=NUMBER pair; for names with commas use a "
                "JSON file"
            )


def _number(value: object, what: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number <= 1:
        raise ConfigError(f"{what} is {shown(value)}, but it must be a number in [0, 1]")
    return number


def _default(config: Config, field: str) -> float | None:
    value: float | None = next(f.default for f in dataclasses.fields(config) if f.name == field)  # type: ignore[assignment]
    return value
