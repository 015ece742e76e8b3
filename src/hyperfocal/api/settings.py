"""The command line's flags as a Python dict, with the same checks and messages."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperfocal.config import ALIASES, Config, override
from hyperfocal.types import ConfigError

if TYPE_CHECKING:
    from hyperfocal.experiment import Experiment

Settings = Mapping[str, Any]
"""Flags by name, without the dashes: ``{"train.epochs": 15, "loss": "efl"}``. A component is given
by its name or its Config; one from another module also as ``"module:Class"``."""


def as_experiment(
    recipe: str | Path | Experiment, settings: Settings | None, trust: Sequence[str] = ()
) -> Experiment:
    """The experiment of a recipe with changed settings.

    Args:
        recipe: a name from ``hyperfocal recipes``, the path of a recipe file, or an `Experiment`.
        settings: the changes.
        trust: modules that the components of a run folder may come from.

    Raises:
        ConfigError: an unknown recipe or setting, or an impossible value; names the setting and the
            nearest match.
    """
    from hyperfocal.experiment import Experiment
    from hyperfocal.recipes import load_recipe

    experiment = recipe if isinstance(recipe, Experiment) else load_recipe(str(recipe), trust)
    settings = dict(settings or {})
    components = {
        name: value() if isinstance(value, type) else value
        for name, value in settings.items()
        if isinstance(value, Config) or (isinstance(value, type) and issubclass(value, Config))
    }
    for name, value in components.items():
        experiment = _replaced(experiment, name, value)
    rest = {name: value for name, value in settings.items() if name not in components}
    words = [word for name, value in rest.items() for word in _words(name, value)]
    return _parsed(experiment, words) if words else experiment


def _replaced(experiment: Experiment, name: str, component: Config) -> Experiment:
    """The experiment with a component's Config at a dotted name."""
    head, dot, rest = name.replace("-", "_").partition(".")
    path = f"{ALIASES.get(head, head)}{dot}{rest}".split(".")
    holders: list[Config] = [experiment]
    for part in path[:-1]:
        inner = getattr(holders[-1], part, None)
        if not isinstance(inner, Config):
            raise ConfigError(f"settings[{name!r}]: no such setting")
        holders.append(inner)
    value: Config = component
    for holder, field in zip(reversed(holders), reversed(path), strict=True):
        if field not in (f.name for f in dataclasses.fields(holder)):
            raise ConfigError(f"settings[{name!r}]: {type(holder).__name__} has no {field!r}")
        value = dataclasses.replace(holder, **{field: value})
    assert isinstance(value, type(experiment))
    return value


def _words(name: str, value: object) -> list[str]:
    """The words of ``--name value`` on a command line."""
    if not isinstance(name, str) or not name or name.startswith("-"):
        raise ConfigError(f"settings: {name!r} is not the name of a flag, such as 'train.lr'")
    if isinstance(value, bool):
        path, dot, last = name.rpartition(".")
        return [f"--{name}" if value else f"--{path}{dot}no-{last}"]
    if value is None:
        return [f"--{name}", "None"]
    if isinstance(value, str | int | float | os.PathLike):
        return [f"--{name}", str(value)]
    if isinstance(value, tuple | list):
        return [f"--{name}", *map(str, value)]
    if isinstance(value, Mapping):  # numbers by category
        return [f"--{name}", json.dumps(dict(value))]
    raise ConfigError(
        f"settings[{name!r}] = {value!r}: expected a number, text, bool, None, path, list, dict or "
        "the Config of a component"
    )


def _parsed(experiment: Experiment, words: list[str]) -> Experiment:
    """`override`, with the parser's error output as a `ConfigError`."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(printed):
            return override(experiment, words, prog="hyperfocal train RECIPE")
    except SystemExit:
        frame = str.maketrans("", "", "╭╮╰╯│─")
        lines = [line.translate(frame).strip() for line in printed.getvalue().splitlines()]
        text = " ".join(line for line in lines if line)
        raise ConfigError(f"settings: {text}") from None
