"""Settings by the names of categories: ``--loss.alpha "cat=0.5,dog=0.2"``, or a file of them."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from hyperfocal.config import Config, did_you_mean, walk, with_field
from hyperfocal.engine.experiment import Experiment
from hyperfocal.files import is_file, load_json, read_text, shown
from hyperfocal.types import Category, ConfigError

OTHERS = "*"
"""Stands for all categories that aren't named."""


def with_categories(experiment: Experiment, categories: Sequence[Category]) -> Experiment:
    """The experiment with every setting by names turned into one value a category.

    Categories that aren't named get the value of ``*``, else the loss's default.

    Raises:
        ConfigError: a name that is no category, something that is no number in [0, 1], or a
            category without a value.
    """
    names = [category.name for category in categories]
    result = experiment
    for path, part in walk(experiment):
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
    """One value a category from ``NAME=NUMBER,...``, JSON, or a file of one of these.

    Args:
        text: the pairs or a file's path. A text file has a pair a line.
        names: of the categories, in label order.
        default: of categories that aren't named; None: there must be none.
        setting: what errors call it.

    Raises:
        ConfigError: see `with_categories`.
    """
    given: dict[str, float] = {}
    for name, value in _pairs(text, setting):
        if name in given:
            raise ConfigError(f"{setting} names {shown(name)} twice")
        if name != OTHERS and name not in names:
            raise ConfigError(
                f"{setting} names {shown(name)}, which is no category ({did_you_mean(name, names)})"
            )
        given[name] = _number(value, f"{setting} of {shown(name)}")
    rest = given.get(OTHERS, default)
    missing = [name for name in names if name not in given]
    if missing and rest is None:
        raise ConfigError(
            f"{setting} says nothing of {shown(missing[0])}, and this loss has no default: name "
            f"every category, or give the others' value as {OTHERS}=0.5"
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
        raise ConfigError(
            f"{setting} = {shown(text)}: neither a number, nor NAME=NUMBER pairs, nor a file"
        )
    for part in parts:
        name, equals, value = part.rpartition("=")  # a name may have one itself
        if equals:
            yield name.strip(), value.strip()
        elif part.strip():
            raise ConfigError(
                f"{setting}: {shown(part)} is no NAME=NUMBER pair; names with commas go into a "
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
