"""Recipes: one module each, whose ``recipe()`` returns a complete `Experiment`.

The first line of a recipe's docstring says what it is for; the rest opens with its command and
tells the accuracy and time to expect. A person's own recipe is a file of the same shape::

    # my_recipe.py: Cracks in weld seams, 5 categories.
    import dataclasses
    from hyperfocal.recipes import retinanet_mobilenet

    def recipe():
        base = retinanet_mobilenet.recipe()
        return dataclasses.replace(base, seed=7)

``hyperfocal train my_recipe.py --data.train.annotations ...`` runs it.
"""

from __future__ import annotations

import ast
import difflib
import pkgutil
import runpy
from importlib import import_module
from pathlib import Path

from hyperfocal.engine.experiment import Experiment
from hyperfocal.types import ConfigError


def load_recipe(name: str) -> Experiment:
    """The experiment of a recipe by name, or of a person's file by its path.

    Raises:
        ConfigError: there is no such recipe or file, or the file doesn't make an `Experiment`.
    """
    if name.endswith(".py"):
        return _from_file(Path(name))
    if name not in describe():
        close = difflib.get_close_matches(name, describe(), n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(describe())}"
        raise ConfigError(f"no recipe {name!r}; {hint} (your own recipe: a path ending in .py)")
    experiment: Experiment = import_module(f"hyperfocal.recipes.{name}").recipe()
    return experiment


def describe() -> dict[str, str]:
    """Every recipe's name and the first line of its docstring, without importing any."""
    folder = Path(__file__).parent
    names = sorted(module.name for module in pkgutil.iter_modules([str(folder)]))
    return {name: _first_line(folder / f"{name}.py") for name in names}


def _first_line(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0]


def _from_file(path: Path) -> Experiment:
    if not path.is_file():
        raise ConfigError(f"{path}: no such recipe file")
    make = runpy.run_path(str(path)).get("recipe")
    experiment = make() if callable(make) else None
    if not isinstance(experiment, Experiment):
        raise ConfigError(f"{path}: must define recipe() returning a hyperfocal Experiment")
    return experiment
