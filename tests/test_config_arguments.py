"""A component's Config and its constructor have the same settings with the same defaults."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from typing import Any

import pytest

import hyperfocal.experiment  # noqa: F401, imports all components of the package
from hyperfocal.config import Config


def subclasses(cls: type) -> set[type]:
    return {found for sub in cls.__subclasses__() for found in (sub, *subclasses(sub))}


def owners() -> list[tuple[type[Any], type[Config]]]:
    """Components of the package with a nested Config, and that Config."""
    found = []
    for config in subclasses(Config):
        module, _, name = config.__qualname__.rpartition(".")
        if name == "Config" and module and config.__module__.startswith("hyperfocal."):
            found.append((getattr(sys.modules[config.__module__], module), config))
    return sorted(found, key=lambda pair: pair[0].__qualname__)


OWNERS = owners()


@pytest.mark.parametrize(("owner", "config"), OWNERS, ids=lambda v: v.__qualname__)
def test_defaults_are_those_of_the_constructor(owner: type[Any], config: type[Config]) -> None:
    defaults = {
        f.name: f.default if f.default_factory is dataclasses.MISSING else f.default_factory()
        for f in dataclasses.fields(config)
    }
    arguments = inspect.signature(owner).parameters
    for name, argument in arguments.items():
        if defaults.get(name) is None:
            continue  # computed from other settings
        if name in defaults and argument.default is not inspect.Parameter.empty:
            assert argument.default == defaults[name], name


def test_they_are_found() -> None:
    names = {owner.__qualname__ for owner, _ in OWNERS}
    assert len(names) > 35
    assert {"EqualizedFocalLoss", "DenseHead", "FPN", "ATSSAssigner", "RoIHead"} <= names


def test_arguments_are_the_fields_with_changes() -> None:
    from hyperfocal.losses import SigmoidFocalLoss

    config = SigmoidFocalLoss.Config(alpha=0.3)
    assert config.arguments() == {"alpha": 0.3, "gamma": 2.0}
    assert config.arguments("alpha", backend="plain") == {"gamma": 2.0, "backend": "plain"}
    assert config.arguments(gamma=1.0) == {"alpha": 0.3, "gamma": 1.0}


def test_older_files_name_the_divisor_normalizer() -> None:
    from hyperfocal.config import dump, load
    from hyperfocal.models import RetinaNet

    saved = dump(RetinaNet.Config(divisor="per_image"))
    old = {"normalizer" if name == "divisor" else name: v for name, v in saved.items()}
    assert load(RetinaNet.Config, old) == RetinaNet.Config(divisor="per_image")
