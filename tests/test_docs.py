"""The files, tests, flags, losses, recipes and tables that the documentation names exist."""

from __future__ import annotations

import ast
import dataclasses
import re
import typing
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest

import hyperfocal.losses
from hyperfocal import config
from hyperfocal.config.flag_names import ALIASES
from hyperfocal.experiment import Experiment
from hyperfocal.recipes import describe, docstring
from hyperfocal.reproduce import TABLES

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "hyperfocal"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
DESCRIBED = [page for page in PAGES if page.name != "log.md"]  # the log tells of the past
BACKTICKED = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")


def words_of(page: Path) -> Iterator[str]:
    """The words in backticks."""
    yield from BACKTICKED.findall(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", DESCRIBED, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_that_are_named_exist(page: Path) -> None:
    places = [ROOT, SOURCE, SOURCE / "engine", ROOT / "docs", page.parent]
    named = {
        word.split("::")[0].split(":")[0]
        for word in words_of(page)
        if re.fullmatch(r"[\w./-]+\.(py|md|toml|ipynb|yml|yaml)(::?\s?\w+)?", word)
        and "/" in word
        and "NAME" not in word
    }
    missing = [name for name in sorted(named) if not any((p / name).exists() for p in places)]
    assert not missing


NAMED_ROOMS = ("distributed", "engine", "fine_tuning", "runs")
"""Packages of which the layout names each module."""


def test_the_package_layout_names_every_module() -> None:
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    layout = page.partition("## Package layout")[2].split("```")[1]
    named = set(re.findall(r"\w+", layout))
    present = {
        path.stem
        for path in chain.from_iterable((SOURCE / room).iterdir() for room in ("", *NAMED_ROOMS))
        if (path.suffix == ".py" or (path / "__init__.py").exists()) and path.stem != "__init__"
    }
    assert "loop" in present
    assert present <= named
    listed = re.findall(r"^  (\w+)(\.py|/) ", layout, re.MULTILINE)
    assert len(listed) > 15
    for name, kind in listed:
        assert (SOURCE / (name + kind)).exists(), name


def test_tests_that_are_named_exist() -> None:
    known = {
        node.name
        for file in (ROOT / "tests").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    }
    for page in DESCRIBED:
        for word in words_of(page):
            is_test = word.startswith("test_") and "." not in word.replace("...", "")
            if is_test and word != "test_resnet":  # a network of timm's
                start = word.partition("...")[0].partition("[")[0]
                exact = "..." not in word
                assert any(n == start if exact else n.startswith(start) for n in known), word


def flags_of(cls: type, prefix: str = "") -> Iterator[str]:
    """The dotted names of a Config's fields, those of every component that a field can hold."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        name = prefix + field.name.replace("_", "-")
        yield name
        for held in components(hints[field.name]):
            yield from flags_of(held, name + ".")


def components(hint: object) -> Iterator[type]:
    """The Config classes in an annotation: itself, a union's, or those of its role."""
    if isinstance(hint, type) and issubclass(hint, config.Config):
        yield from {hint, *subclasses(hint)}
    for part in typing.get_args(hint):
        yield from components(part)


def subclasses(cls: type) -> Iterator[type]:
    """The package's own: other tests define components too."""
    for sub in cls.__subclasses__():
        if sub.__module__.startswith("hyperfocal."):
            yield sub
        yield from subclasses(sub)


def known_flags() -> set[str]:
    """Flags of a training, with their short forms, and of every command and benchmark."""
    long = set(flags_of(Experiment))
    short = {name.removeprefix(p) for name in long for p in ("model.", "data.", "train.")}
    negated = {re.sub(r"(^|\.)([^.]+)$", r"\1no-\2", name) for name in long | short}
    files = [
        *(SOURCE / "commands").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py"),
        *(ROOT / "examples").glob("*.py"), *(ROOT / "docs").glob("*.py"),
    ]  # fmt: skip
    given = {flag for file in files for flag in re.findall(r'"--([a-z][\w.-]*)', file.read_text())}
    of_others = {  # torchrun, sbatch, pip
        "standalone", "nproc-per-node", "max-restarts", "nnodes", "rdzv-backend", "rdzv-id",
        "rdzv-endpoint", "master-port", "nodes", "ntasks-per-node", "gpus-per-node", "requeue",
        "signal",
    }  # fmt: skip
    others = of_others | outside_flags() | set(ALIASES) | {"help", "version"}
    return long | short | negated | given | others


def outside_flags() -> set[str]:
    """Flags for the settings of the components that docs/extend.md writes."""
    page = (ROOT / "docs" / "extend.md").read_text(encoding="utf-8")
    known = set()
    for section in page.split("\n## "):
        fields = re.findall(r"^ {4,8}(\w+): \w+ = ", section, re.MULTILINE)
        used = re.findall(r"--([a-z.-]+) my_parts:", section.partition("Command line:")[2])
        known |= {f"{flag}.{field}" for flag in used for field in fields}
    return known


def test_flags_that_are_named_exist() -> None:
    known = known_flags()
    texts = {page: page.read_text(encoding="utf-8") for page in DESCRIBED}
    texts |= {SOURCE / "recipes" / f"{name}.py": docstring(name) for name in describe()}
    texts |= {file: file.read_text() for file in (SOURCE / "losses").rglob("*.py")}
    wrong = {
        f"{page.relative_to(ROOT)}: --{flag}"
        for page, text in texts.items()
        for flag in re.findall(r"(?<![\w-])--([a-z][a-z0-9.-]*[a-z0-9])", text)
        if flag not in known
    }
    assert not wrong


def test_losses_that_are_named_exist() -> None:
    page = (ROOT / "docs" / "losses.md").read_text(encoding="utf-8")
    heads = re.findall(r"^## .+\n\n(`.+)$", page, re.MULTILINE)
    assert len(heads) > 15
    kinds = {c.kind for c in subclasses(config.Config) if hasattr(c, "kind")}
    named = set()
    for head in heads:
        for word in BACKTICKED.findall(head.partition("(")[0]):
            if word.startswith("--loss "):
                assert word.removeprefix("--loss ") in kinds, word
            elif re.fullmatch(r"[A-Za-z]\w+", word) and word not in kinds:
                named.add(word)
    assert named <= set(hyperfocal.losses.__all__)
    assert len(named) > 30


def test_recipes_and_tables_that_are_named_exist() -> None:
    names = set(describe())
    for page in DESCRIBED:
        text = page.read_text(encoding="utf-8")
        for table in re.findall(r"hyperfocal reproduce ([a-z0-9]+)\b", text):
            assert table in TABLES, f"{page}: {table}"
        for recipe in re.findall(r"`((?:retinanet|fcos|atss|paa|improved_baseline)_\w+)`", text):
            assert recipe in names, f"{page}: {recipe}"
    docstrings = {name: docstring(name) for name in names}
    for name, text in docstrings.items():
        for recipe in re.findall(r"\b((?:retinanet|fcos|atss|paa|improved_baseline)_r\w+)", text):
            assert recipe in names, f"{name}: {recipe}"


def test_examples_are_in_the_section_that_mkdocstrings_shows_as_code() -> None:
    heading = re.compile(r"^ *Example::?$", re.MULTILINE)
    wrong = [file for file in SOURCE.rglob("*.py") if heading.search(file.read_text())]
    assert not wrong, "write 'Examples:'"
