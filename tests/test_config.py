"""Configs go to JSON and back, take overrides, and refuse impossible values."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import pytest

from hyperfocal import config
from hyperfocal.models import DetectorConfig
from hyperfocal.recipes import load_recipe
from hyperfocal.types import ConfigError


@dataclass(frozen=True)
class Round(config.Config):
    kind: ClassVar[str] = "round"
    renamed: ClassVar[dict[str, str]] = {"size": "radius"}
    radius: float = 1.0

    def __post_init__(self) -> None:
        self._require(self.radius > 0, "radius", "> 0")


@dataclass(frozen=True)
class Square(config.Config):
    kind: ClassVar[str] = "square"
    sides: tuple[float, ...] = (1.0, 2.0)
    cut: tuple[int, str] = (1, "x")


@dataclass(frozen=True)
class Model(config.Config):
    loss: Round | Square = Round()
    extra: Square | None = None
    name: str = "m"
    limit: float | None = None
    mode: Literal["a", "b"] = "a"
    weights: Path | None = None
    fast: bool = False


@dataclass(frozen=True)
class Top(config.Config):
    steps: int
    model: Model = Model()


FULL = Top(3, Model(Square((0.5,), (2, "y")), Square(), "n", 2.5, "b", Path("w.pth"), True))


@pytest.mark.parametrize("value", [Top(1), FULL])
def test_json_round_trip(value: Top, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config.dump(value)))
    assert config.load_file(Top, file) == value


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"stepz": 1}, "config.stepz: no such field (did you mean 'steps'?)"),
        ({"steps": "3"}, "config.steps: expected int, found '3'"),
        ({"steps": True}, "config.steps: expected int, found True"),
        ({"model": {"mode": "c"}}, "config.model.mode = 'c', but it must be one of a, b"),
        ({"model": {"loss": {"kind": "os.system"}}}, "config.model.loss.kind = 'os.system'"),
        ({"model": {"loss": {"kind": "round", "radius": -1}}}, "round: radius = -1.0"),
        ({"model": {"extra": {"kind": "square", "cut": [1]}}}, "expected 2 values, found [1]"),
        ({"model": 3}, "config.model: expected an object with fields, found 3"),
    ],
)
def test_load_names_what_is_wrong(change: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        config.load(Top, {"steps": 1} | change)
    assert said in str(error.value)


def test_fields_are_read_under_their_older_names() -> None:
    old = {"steps": 1, "model": {"loss": {"kind": "round", "size": 4.0}}}
    assert config.load(Top, old) == Top(1, Model(Round(4.0)))
    both = {"steps": 1, "model": {"loss": {"kind": "round", "size": 4.0, "radius": 2.0}}}
    with pytest.raises(ConfigError, match=r"loss: size and radius are one field"):
        config.load(Top, both)


def test_load_names_missing_fields_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing field\(s\) steps"):
        config.load(Top, {})
    broken = tmp_path / "c.json"
    broken.write_text("{")
    with pytest.raises(ConfigError, match=r"c\.json: not readable as JSON"):
        config.load_file(Top, broken)
    with pytest.raises(ConfigError, match="no such file"):
        config.load_file(Top, tmp_path / "absent.json")


def test_override_types_values_and_swaps_components() -> None:
    words = ["--steps", "4", "--model.fast", "--model.limit=0.5", "--loss", "square"]
    words += ["--loss.sides", "3", "4", "5"]
    made = config.override(Top(1), words, "test")
    assert made == Top(4, Model(Square((3.0, 4.0, 5.0)), fast=True, limit=0.5))


def test_override_keeps_settings_of_an_unchanged_kind() -> None:
    start = Top(1, Model(Round(7.0)))
    assert config.override(start, ["--loss", "round"], "test") == start
    assert config.override(start, ["--model.loss=square"], "test").model.loss == Square()


def test_override_reaches_optional_components() -> None:
    start = Top(1, Model(extra=Square()))
    assert config.override(start, ["--model.extra", "none"], "test").model.extra is None
    assert config.override(Top(1), ["--model.extra", "square"], "test").model.extra == Square()


def refusal(flag: str) -> str:
    """The error of a flag without a value; empty if it is accepted or printed by the parser."""
    try:
        config.override(load_recipe("demo"), [flag], "test")
    except ConfigError as error:
        return str(error)
    except SystemExit:
        pass
    return ""


@pytest.mark.parametrize(
    ("words", "proposed"),
    [
        ("--los focal", "--loss"),
        ("--model.los focal", "--loss"),
        ("--los.alpha 0.3", "--loss.alpha"),
        ("--model.loss.alhpa 0.3", "--loss.alpha"),
        ("--samplr=rfs", "--sampler"),
        ("--epoch 3", "--epochs"),
        ("--train.epoch 3", "--epochs"),
        ("--train.lrr 0.1", "--lr"),
        ("--batchsize 4", "--train.batch-size or --evaluation.batch-size"),
        ("--train.batchSize 4", "--train.batch-size"),
        ("--max-detection 4", "--max-detections"),
        ("--precison bf16", "--train.precision"),
        ("--overwrit", "--overwrite"),
        ("--data.train.anotations a.json", "--data.train.annotations"),
    ],
)
def test_the_closest_flag_is_proposed_as_people_type_it(words: str, proposed: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.override(load_recipe("demo"), words.split(), "hyperfocal train demo")
    assert str(caught.value).endswith(
        f": no such setting (did you mean {proposed}?). `hyperfocal train demo --help` lists all "
        "settings."
    )
    for flag in proposed.split(" or "):  # without a value, it is refused only for that, if at all
        assert "no such setting" not in refusal(flag)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--nothing-like-it 3", "--nothing-like-it: no such setting."),
        ("--loss.scale 4", "--loss.scale: --loss focal has no such setting; it has alpha, gamma; "),
        ("--loss.scale 4", "--loss efl and eqfl would have it"),
        ("--sampler.threshold 1", "--sampler plain has no such setting; --sampler rfs would have"),
        ("--lr 0.1 0.2", "0.2: not a flag"),
        ("stray", "stray: not a flag"),
    ],
)
def test_a_flag_without_a_close_one(words: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.override(load_recipe("demo"), words.split(), "test")
    assert said in str(caught.value)
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize("words", [["--modl.fast"], ["--steps", "many"], ["--loss.radius", "-2"]])
def test_override_refuses_misspelt_flags_and_impossible_values(words: list[str]) -> None:
    with pytest.raises((SystemExit, ConfigError)) as error:
        config.override(Top(1), words, "test")
    assert not isinstance(error.value, SystemExit) or error.value.code == 2


def test_override_names_the_kinds_there_are() -> None:
    with pytest.raises(ConfigError, match=r"must be one of round, square \(did you mean 'round'"):
        config.override(Top(1), ["--loss", "rond"], "test")


def test_swapping_the_detector_keeps_what_both_share_and_was_set() -> None:
    from hyperfocal.config import override

    before = load_recipe("demo")
    for kind in set(config.kinds(DetectorConfig)) - {"retinanet"}:
        after = override(before, ["--loss", "efl", "--loss.scale", "4", "--model", kind], "test")
        model = after.model
        assert (model.kind, model.loss.kind, model.loss.scale) == (kind, "efl", 4.0)
        assert model.backbone.name == before.model.backbone.name
        if "neck" in model.kept_when_swapped:
            assert model.backbone == before.model.backbone
            assert model.neck == before.model.neck
        else:  # a pyramid of its own, from which the backbone takes its finest stride
            assert model.neck != before.model.neck
            assert model.backbone.first_stride == model.neck.strides[0]
        assert model.anchors != before.model.anchors
    untouched = load_recipe("retinanet_r50_coco")
    swapped = override(untouched, ["--model", "fcos", "--model.assigner.radius", "2"], "test")
    assert swapped.model.neck.extra_source == "p5"
    assert swapped.model.assigner.radius == 2


def test_every_short_name_leads_to_a_setting() -> None:

    for name, path in config.ALIASES.items():
        holder: object = load_recipe("demo")
        for field in path.replace("-", "_").split("."):
            assert hasattr(holder, field), f"--{name} is short for --{path}, which isn't there"
            holder = getattr(holder, field)


def test_python_code_is_held_to_choices_and_may_name_files_by_strings() -> None:
    @dataclass(frozen=True)
    class Checked(config.Config):
        parts: int | Literal["auto"] = 1
        mode: Literal["a", "b"] | None = None
        weights: Path | None = None

        def __post_init__(self) -> None:
            self._require(self.weights != Path("no"), "weights", "another")

    with pytest.raises(ConfigError, match="mode = 'c', but it must be one of a, b"):
        Model(mode="c")  # type: ignore[arg-type]
    for change in ({"mode": "A"}, {"parts": "atuo"}):
        with pytest.raises(ConfigError, match="but it must be one of"):
            Checked(**change)
    made = Checked("auto", "b", "w.pth")  # type: ignore[arg-type]
    assert made == Checked("auto", "b", Path("w.pth"))
    with pytest.raises(ConfigError, match="must be another"):  # its own checks come after
        Checked(weights="no")  # type: ignore[arg-type]
