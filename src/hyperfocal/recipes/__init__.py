"""Recipes: one module each, whose ``recipe()`` returns a complete `Experiment`.

The first line of a recipe's docstring is its purpose; the rest starts with its command and has the
expected accuracy and time. A user's recipe is a file of the same form:

    # my_recipe.py: Cracks in weld seams, 5 categories.
    import dataclasses
    from hyperfocal.recipes import retinanet_mobilenet

    def recipe():
        base = retinanet_mobilenet.recipe()
        return dataclasses.replace(base, seed=7)

``hyperfocal train my_recipe.py --data.train.annotations ...`` runs it. The file may define custom
components, such as a loss (docs/extend.md). A run folder is also a recipe, for fine-tuning its
detector with its settings.

A docstring may have a table of published results, one ``row | flags | numbers`` per line: each row
is the recipe's command with its flags. Words in capitals are abbreviations, defined below the
table.
"""

from __future__ import annotations

import ast
import dataclasses
import pkgutil
import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from hyperfocal.config import did_you_mean, import_file
from hyperfocal.data import Split
from hyperfocal.experiment import Experiment
from hyperfocal.runs.folder import RunFolder
from hyperfocal.types import ConfigError


def load_recipe(name: str, trust: Sequence[str] = ()) -> Experiment:
    """The experiment of a recipe, by name, or by path of a recipe file or run folder.

    Args:
        name: name or path. A recipe file is executed, so it needs no ``trust``.
        trust: trusted modules for components of a run from outside the package.

    Raises:
        ConfigError: the recipe or file doesn't exist, or the file doesn't return an `Experiment`.
    """
    if name.endswith(".py"):
        return _from_file(Path(name))
    if name not in describe() and Path(name).is_dir():
        return _from_run(Path(name), trust)
    _find(name)
    experiment: Experiment = import_module(f"hyperfocal.recipes.{name}").recipe()
    return experiment


def load_run(path: Path, trust: Sequence[str] = ()) -> Experiment:
    """The experiment of a run, to resume it in its own folder.

    Args:
        path: the run folder.
        trust: trusted modules for components from outside the package.

    Raises:
        ConfigError: it isn't a run folder, or has components that aren't trusted.
    """
    found = RunFolder(path).read_experiment(trust)
    return dataclasses.replace(
        found, out=path, resume=True, overwrite=False, accept_changed_data=False
    )


class PublishedRow(NamedTuple):
    """One row of a published table.

    Attributes:
        name: name of the row.
        flags: flags of the recipe's command for this row.
        columns: headers of the numbers.
        numbers: published numbers.
    """

    name: str
    flags: tuple[str, ...]
    columns: tuple[str, ...]
    numbers: tuple[float, ...]


def docstring(name: str) -> str:
    """The documentation of a recipe, without importing it.

    Raises:
        ConfigError: the recipe doesn't exist.
    """
    _find(name)
    return _docstring(Path(__file__).parent / f"{name}.py")


def published_rows(text: str) -> list[PublishedRow]:
    """The rows of the table in a recipe's docstring, with abbreviations expanded."""
    table = [line.split("|") for line in text.splitlines() if line.count("|") == 2]
    joined = text.replace("\\\n", " ")
    stands_for = {
        word: tuple(flags.split())
        for word, flags in re.findall(r"^    ([A-Z][A-Z0-9-]+) +(--.+)$", joined, re.MULTILINE)
    }
    return [
        PublishedRow(
            name.strip(),
            tuple(flag for word in flags.split() for flag in stands_for.get(word, (word,))),
            tuple(table[0][2].split()),
            tuple(map(float, numbers.split())),
        )
        for name, flags, numbers in table[1:]
    ]


def describe() -> dict[str, str]:
    """Name and first line of the docstring of all recipes, without importing them."""
    folder = Path(__file__).parent
    names = sorted(module.name for module in pkgutil.iter_modules([str(folder)]))
    return {name: _docstring(folder / f"{name}.py").partition("\n")[0] for name in names}


def _find(name: str) -> None:
    if name not in describe():
        hint = did_you_mean(name, describe())
        raise ConfigError(
            f"no recipe {name!r}; {hint} (your own recipe: a path ending in .py; "
            "fine-tuning: a run folder)"
        )


def _docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def _from_run(path: Path, trust: Sequence[str]) -> Experiment:
    """The settings of a run for fine-tuning its weights, without data."""
    found = RunFolder(path).read_experiment(trust)
    data = dataclasses.replace(found.data, train=Split(), val=Split())
    return dataclasses.replace(
        found,
        model=dataclasses.replace(found.model.offline(), weights=path),
        data=data,
        out=Path("runs") / f"{path.resolve().name}_finetuned",
        resume=False,
        overwrite=False,
        accept_changed_data=False,
    )


def _from_file(path: Path) -> Experiment:
    if not path.is_file():
        raise ConfigError(f"{path}: no such recipe file")
    make = vars(import_file(path)).get("recipe")
    experiment = make() if callable(make) else None
    if not isinstance(experiment, Experiment):
        raise ConfigError(f"{path}: must define recipe() returning a hyperfocal Experiment")
    return experiment
