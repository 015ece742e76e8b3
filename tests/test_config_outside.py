"""Components made outside the package: found by module and class, where the caller trusts them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hyperfocal import config
from hyperfocal.config import check_reloads, dump, import_file, kinds, load, modules_of, override
from hyperfocal.losses import ClassificationLossConfig, SigmoidFocalLoss
from hyperfocal.models import DetectorConfig, NeckConfig, RetinaNet
from hyperfocal.types import ConfigError

SOURCE = """
from __future__ import annotations
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch

from hyperfocal.losses import ClassificationLossConfig, SigmoidFocalLoss

Path(__file__).with_suffix(".executed").touch()

class MyLoss(torch.nn.Module):
    @dataclass(frozen=True)
    class Config(ClassificationLossConfig):
        kind: ClassVar[str] = "mine"
        power: float = 2.0
        mode: Literal["a", "b"] = "a"
        at: tuple[float, ...] = (0.5, 1.0)

        def build(self, num_classes, counts=None):
            return MyLoss()

@dataclass(frozen=True)
class Focal(SigmoidFocalLoss.Config):
    "Has its parent's kind."

class Forgotten(ClassificationLossConfig):
    power: float = 2.0

    def build(self, num_classes, counts=None):
        return MyLoss()

@dataclass(frozen=True)
class Unfinished(ClassificationLossConfig):
    power: float = 2.0

class Plain:
    pass
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file my_parts.py in the working folder, not on Python's path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", ".")])
    file = tmp_path / "my_parts.py"
    file.write_text(SOURCE)
    yield file
    for name in [n for n in sys.modules if n.partition(".")[0] in ("my_parts", "my_package")]:
        del sys.modules[name]


def executed(file: Path) -> bool:
    return file.with_suffix(".executed").exists()


def with_loss(**loss: object) -> dict[str, object]:
    return {"kind": "retinanet", "loss": loss}


MINE = {"kind": "mine", "class": "my_parts:MyLoss.Config", "power": 3.0}

# --------------------------------------------------------------------------- files


def test_a_file_cannot_make_the_program_import_a_module(module: Path) -> None:
    for trust in ((), ("my_part",), ("my_parts.inner",), ("parts",)):
        with pytest.raises(ConfigError) as caught:
            load(RetinaNet.Config, with_loss(**MINE), "config.json", trust)
        message = str(caught.value)
        assert message.startswith("config.json.loss.class: 'my_parts:MyLoss.Config' would execute")
        assert "--trust my_parts (in Python trust=['my_parts'])" in message
        assert len(message.splitlines()) == 1
    assert not executed(module)
    assert "my_parts" not in sys.modules


def test_a_trusted_module_is_imported(module: Path) -> None:
    found = load(RetinaNet.Config, with_loss(**MINE), "config.json", ["my_parts"])
    assert (found.loss.power, found.loss.mode) == (3.0, "a")
    assert executed(module)
    assert dump(found)["loss"] == {**MINE, "mode": "a", "at": [0.5, 1.0]}
    assert modules_of(found) == ("my_parts",)
    with pytest.raises(ConfigError):  # though it is imported now
        load(RetinaNet.Config, dump(found))


def test_a_package_stands_for_its_modules(module: Path) -> None:
    package = module.parent / "my_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "losses.py").write_text(SOURCE)
    data = with_loss(**{"class": "my_package.losses:MyLoss"})
    found = load(RetinaNet.Config, data, trust=["my_package"])
    assert dump(found)["loss"]["class"] == "my_package.losses:MyLoss.Config"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("my_parts:Plain", "isn't a ClassificationLossConfig"),
        ("my_parts:torch.nn.Linear", "isn't a ClassificationLossConfig"),
        ("my_parts:Path", "isn't a ClassificationLossConfig"),
        ("my_parts:absent", "isn't a ClassificationLossConfig"),
        ("my_parts:MyLoss.__init__.__globals__", "isn't a ClassificationLossConfig"),
        ("my_parts:ClassificationLossConfig", "is the base class"),
        ("my_parts:MyLoss.Config()", "must be module:Class"),
        ("my_parts", "must be module:Class"),
        ("my_parts:", "must be module:Class"),
        (":x", "must be module:Class"),
        ("..my_parts:MyLoss", "must be module:Class"),
        ("os:system", "would execute the module 'os'"),
        ({"a": 1}, "must be module:Class"),
        (None, "must be module:Class"),
    ],
)
def test_a_trusted_module_gives_components_of_the_role_alone(
    module: Path, name: object, said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(RetinaNet.Config, with_loss(**{"class": name}), "config.json", ["my_parts"])
    assert said in str(caught.value)


def test_a_module_that_is_not_there_is_named(module: Path) -> None:
    with pytest.raises(ConfigError, match=r"no module 'absent'.*--trust path/to/absent\.py"):
        load(RetinaNet.Config, with_loss(**{"class": "absent:A"}), trust=["absent"])


def test_a_kind_of_this_package_cannot_be_taken_over(module: Path) -> None:
    taken = import_file(module).MyLoss.Config
    taken.kind = "focal"
    assert kinds(ClassificationLossConfig)["focal"] is SigmoidFocalLoss.Config
    assert type(load(RetinaNet.Config, with_loss(kind="focal")).loss) is SigmoidFocalLoss.Config


# --------------------------------------------------------------------------- flags


@dataclass(frozen=True)
class Top(config.Config):
    model: DetectorConfig = field(default_factory=RetinaNet.Config)


@pytest.mark.parametrize(
    "name", ["my_parts:MyLoss", "my_parts:MyLoss.Config", "my_parts.py:MyLoss"]
)
def test_naming_a_component_trusts_its_module(module: Path, name: str) -> None:
    words = ["--loss", name, "--loss.power", "5", "--loss.at", "1", "2", "--loss.mode=b"]
    made = override(Top(), words, "test").model.loss
    assert type(made).__module__ == "my_parts"
    assert (made.power, made.at, made.mode) == (5.0, (1.0, 2.0), "b")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("my_parts:MyLos", "--model.loss: 'my_parts:MyLos' isn't a ClassificationLossConfig"),
        ("absent:MyLoss", "no module 'absent'"),
        ("absent.py:MyLoss", "absent.py: no such file"),
        (":MyLoss", "expected module:Class"),
        ("my_parts:Unfinished", "build"),
        ("focl", "did you mean 'focal'?), or your own module:Class"),
    ],
)
def test_what_cannot_be_named(module: Path, name: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        override(Top(), ["--loss", name], "test")
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_setting_of_it_that_is_misspelt_is_named(module: Path) -> None:
    with pytest.raises(ConfigError, match=r"--loss\.powr.*did you mean --loss\.power\?"):
        override(Top(), ["--loss", "my_parts:MyLoss", "--loss.powr", "5"], "test")


# --------------------------------------------------------------------------- Python


def test_components_are_held_to_their_role() -> None:
    with pytest.raises(ConfigError, match=r"loss = .*must be a ClassificationLossConfig"):
        RetinaNet.Config(loss=RetinaNet.Config().neck)  # type: ignore[arg-type]
    assert RetinaNet.Config(loss="efl").loss.kind == "efl"  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"loss = 'elf', but it must be one of .*, efl, "):
        RetinaNet.Config(loss="elf")  # type: ignore[arg-type]


def test_roles_and_kinds() -> None:
    """Every component of a role has a kind of its own, and can be made from its defaults."""
    roles = [r for r in config.Config.__subclasses__() if r.role is r]
    roles = [r for r in roles if r.__module__.startswith("hyperfocal.")]
    assert {ClassificationLossConfig, DetectorConfig, NeckConfig} <= set(roles)
    for role in roles:
        queue = list(role.__subclasses__())
        for cls in queue:
            queue += cls.__subclasses__()
        own = [c for c in queue if vars(c).get("kind") and c.__module__.startswith("hyperfocal.")]
        assert kinds(role) == {c.kind: c for c in own}
        assert len(kinds(role)) == len(own)
        for kind, cls in kinds(role).items():
            assert dump(cls())["kind"] == kind
            assert "class" not in dump(cls())


# --------------------------------------------------------------------------- before a run


def test_a_component_from_outside_is_checked_to_reload(module: Path) -> None:
    parts = import_file(module)
    check_reloads(Top(RetinaNet.Config(loss=parts.MyLoss.Config(power=7.0))))
    check_reloads(Top(RetinaNet.Config(loss=parts.Focal(gamma=1.0))))
    assert dump(parts.Focal())["class"] == "my_parts:Focal"


def refused(loss: ClassificationLossConfig) -> str:
    with pytest.raises(ConfigError) as caught:
        check_reloads(Top(RetinaNet.Config(loss=loss)))
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_what_could_not_be_reloaded_is_refused(module: Path) -> None:
    @dataclass(frozen=True)
    class Local(ClassificationLossConfig):
        def build(self, num_classes, counts=None):
            return None

    assert "Local of" in refused(Local())
    parts = import_file(module)
    assert "'power' isn't a field of Forgotten; decorate" in refused(parts.Forgotten())
    held = parts.MyLoss.Config(power={"a": 1})
    assert "model.loss.power is a dict, which can't be written" in refused(held)
    assert "model.loss.power: expected float" in refused(parts.MyLoss.Config(power="2"))
    import_file(module)  # another class of the same name is there now
    assert "MyLoss.Config of my_parts can't be imported again" in refused(parts.MyLoss.Config())


def test_the_main_program_and_files_with_another_modules_name(module: Path) -> None:
    odd = module.with_name("json.py")
    odd.write_text(SOURCE)
    parts = import_file(odd)
    assert sys.modules["json"] is json
    assert "can't be imported again" in refused(parts.MyLoss.Config())
    parts = import_file(module)
    made = parts.MyLoss.Config()
    type(made).__module__ = "__main__"
    sys.modules["__main__"].MyLoss = parts.MyLoss
    try:
        assert "MyLoss.Config of __main__ can't be imported again" in refused(made)
    finally:
        del sys.modules["__main__"].MyLoss


def test_lists_become_tuples() -> None:
    made = RetinaNet.Config(delta_weights=[1, 2, 3, 4])  # type: ignore[arg-type]
    assert made.delta_weights == (1, 2, 3, 4)
    check_reloads(made)


# --------------------------------------------------------------------------- recipe files


def test_a_file_is_executed_anew_and_finds_its_neighbours(module: Path, monkeypatch) -> None:
    recipe = module.with_name("my_recipe.py")
    recipe.write_text("from my_parts import MyLoss\nVALUE = 1\n")
    monkeypatch.chdir("/")
    first = import_file(recipe)
    assert first.MyLoss.__module__ == "my_parts"
    recipe.write_text("VALUE = 2\n")
    assert import_file(recipe).VALUE == 2
    recipe.write_text("VALUE = 1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        import_file(recipe)
    assert sys.modules["my_recipe"].VALUE == 2
    del sys.modules["my_recipe"]
