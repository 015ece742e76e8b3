"""An output is never an input, in any command: links and case included."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from hyperfocal import cli
from hyperfocal.data.synthetic import MARKER
from hyperfocal.files import check_apart, check_outputs
from hyperfocal.types import ConfigError

TINY = [
    *("--train.iterations", "3", "--train.evaluations", "1", "--train.batch-size", "4"),
    *("--model.backbone.name", "test_resnet", "--model.backbone.no-pretrained"),
    *("--data.workers", "0", "--train.ema-decay", "None", "--train.precision", "fp32"),
]


def state(folder: Path) -> dict[str, str]:
    """Every file below a folder, with its content's digest, locks aside."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and not p.name.endswith(".lock")
    }


@pytest.fixture(scope="session")
def trained(synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    assert cli.main(["train", "demo", *data(synthetic), *TINY, "--out", str(out)]) == 0
    return out


def data(folder: Path) -> list[str]:
    return [
        word
        for split in ("train", "val")
        for word in (
            *(f"--data.{split}.annotations", str(folder / f"{split}.json")),
            *(f"--data.{split}.images", str(folder / split)),
        )
    ]


@pytest.fixture
def world(synthetic: Path, trained: Path, tmp_path: Path) -> Path:
    """A dataset, a run and a folder of photographs, which must not be overwritten."""
    shutil.copytree(synthetic, tmp_path / "data")
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "photos").mkdir()
    for n in (1, 2, 3):
        shutil.copy(synthetic / "val" / f"00000{n}.jpg", tmp_path / "photos" / f"pic_{n}.jpg")
    return tmp_path


def link(target: Path, name: Path) -> Path:
    name.symlink_to(target)
    return name


def hard(target: Path, name: Path) -> Path:
    name.parent.mkdir(exist_ok=True)
    os.link(target, name)
    return name


PREDICT: dict[str, Callable[[Path], list[str]]] = {
    "same": lambda w: [str(w / "photos"), "--out", str(w / "photos")],
    "one file": lambda w: [str(w / "photos/pic_1.jpg"), "--out", str(w / "photos")],
    "glob": lambda w: [str(w / "photos/*.jpg"), "--out", str(w / "photos")],
    "dots": lambda w: [str(w / "photos"), "--out", str(w / "photos/../photos")],
    "linked out": lambda w: [str(w / "photos"), "--out", str(link(w / "photos", w / "l"))],
    "linked in": lambda w: [str(link(w / "photos", w / "l")), "--out", str(w / "photos")],
    "hard link": lambda w: [
        str(w / "photos/pic_1.jpg"),
        "--out",
        str(hard(w / "photos/pic_1.jpg", w / "out/pic_1.jpg").parent),
    ],
    "link in out": lambda w: [
        str(w / "photos/pic_1.jpg"),
        "--out",
        str(link(w / "photos/pic_1.jpg", made(w / "out") / "pic_1.jpg").parent),
    ],
    "another's picture": lambda w: [
        str(w / "photos/pic_1.jpg"),
        "--out",
        str(copy(w / "photos/pic_2.jpg", w / "out/pic_1.jpg").parent),
    ],
    "inside": lambda w: [
        str(w / "photos"),
        "--out",
        str(copy(w / "photos/pic_2.jpg", w / "photos/seen/pic_1.jpg").parent),
    ],
    "another's predictions": lambda w: [
        str(w / "photos"),
        "--out",
        str(copy(w / "data/val.json", w / "out/predictions.json").parent),
    ],
}


def made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    return folder


def copy(source: Path, to: Path) -> Path:
    shutil.copy(source, made(to.parent) / to.name)
    return to


@pytest.mark.parametrize("case", PREDICT)
def test_predict_never_writes_over_a_photograph(
    world: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = PREDICT[case](world)
    before = state(world)
    assert cli.main(["predict", str(world / "run"), *words]) == 2
    assert "--out" in capsys.readouterr().err
    assert state(world) == before


def test_predict_again_replaces_its_own_pictures_and_no_other(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, photos, out = str(world / "run"), world / "photos", world / "photos" / "seen"
    before = state(photos)
    words = ["predict", run, str(photos), "--out", str(out), "--score", "0"]
    assert cli.main(words) == 0
    made_before = state(out)
    assert set(made_before) >= {"pic_1.jpg", "pic_2.jpg", "predictions.json", "predict.json"}
    assert cli.main(words) == 0  # its pictures are no input, though below the folder
    assert "3 output images of an earlier predict" in capsys.readouterr().out
    assert state(out) == made_before
    assert {k: v for k, v in state(photos).items() if not k.startswith("seen/")} == before
    shutil.copy(photos / "pic_1.jpg", out / "mine.jpg")
    shutil.copy(photos / "pic_2.jpg", photos / "mine.png")
    kept = state(out)["mine.jpg"]
    assert cli.main([*words[:3], str(photos / "mine.png"), *words[3:]]) == 2
    assert state(out)["mine.jpg"] == kept


def test_pictures_of_names_that_differ_in_case_are_apart(world: Path) -> None:
    photos = world / "photos"
    (photos / "b").mkdir()
    shutil.copy(photos / "pic_2.jpg", photos / "b" / "PIC_1.JPG")
    shutil.copy(photos / "pic_2.jpg", photos / "b" / ("x" * 250 + ".png"))
    out = world / "out"
    assert cli.main(["predict", str(world / "run"), str(photos), "--out", str(out)]) == 0
    pictures = json.loads((out / "predict.json").read_text())["pictures"]
    assert len({name.casefold() for name in pictures}) == 5
    assert all((out / name).exists() for name in pictures)


OTHERS: dict[str, Callable[[Path], list[str]]] = {
    "evaluate over annotations": lambda w: [
        *("evaluate", str(w / "run"), "--data.annotations", str(w / "data/val.json")),
        *("--data.images", str(w / "data/val"), "--json", str(w / "data/val.json")),
    ],
    "evaluate over an image": lambda w: [
        *("evaluate", str(w / "run"), "--data.annotations", str(w / "data/val.json")),
        *("--data.images", str(w / "data/val"), "--json", str(w / "data/val/000001.jpg")),
    ],
    "evaluate over the run": lambda w: [
        *("evaluate", str(w / "run"), "--data.annotations", str(w / "data/val.json")),
        *("--data.images", str(w / "data/val"), "--json", str(w / "run/config.json")),
    ],
    "evaluate over results": lambda w: [
        *("evaluate", "--detections", str(results(w)), "--data.annotations"),
        *(str(w / "data/val.json"), "--json", str(link(w / "results.json", w / "l.json"))),
    ],
    "doctor json over annotations": lambda w: [
        *("doctor", *data(w / "data"), "--html", str(w / "p.html")),
        *("--json", str(hard(w / "data/train.json", w / "h.json"))),
    ],
    "doctor page over an image": lambda w: [
        *("doctor", *data(w / "data"), "--html", str(w / "data/train/000002.jpg")),
    ],
    "train over annotations": lambda w: [
        *("train", "demo", *data(renamed(w)), *TINY, "--out", str(w / "data")),
    ],
    "train among the images": lambda w: [
        *("train", "demo", *data(w / "data"), *TINY, "--out", str(w / "data/train")),
    ],
    "train over data in checkpoints": lambda w: [
        *("train", "demo", *data(moved(w, "checkpoints/set")), *TINY, "--out", str(w / "out")),
    ],
    "train over images in tensorboard, linked": lambda w: [
        *("train", "demo", *data(moved(w, "tensorboard")), *TINY),
        *("--out", str(link(w / "out", w / "l"))),
    ],
    "train over another's checkpoints": lambda w: [
        *("train", "demo", *data(w / "data"), *TINY),
        *("--out", str(copy(w / "photos/pic_1.jpg", w / "proj/checkpoints/1.bin").parents[1])),
    ],
    "train over an image": lambda w: [
        *("train", "demo", *data(curves(w)), *TINY, "--out", str(w / "out")),
    ],
    "import over its weights": lambda w: [
        *("import", "torchvision", str(copy(w / "photos/pic_1.jpg", w / "o/model.safetensors"))),
        *("--out", str(w / "o")),
    ],
    "demo over a run": lambda w: ["demo", *TINY, "--out", str(w / "run")],
    "demo over data": lambda w: ["demo", *TINY, "--out", str(own_data_at_the_demos_place(w))],
    "reproduce over annotations": lambda w: [
        *("reproduce", "1b", "--scale", "small", "--recipe", "demo"),
        *(*data(table(w)), "--out", str(w / "data")),
    ],
    "figures over annotations": lambda w: [
        *("figures", "efl4", str(w / "run"), "--out", str(w / "data")),
        *("--data.annotations", str(copy(w / "data/val.json", w / "data/efl4.csv"))),
        *("--data.images", str(w / "data/val")),
    ],
}


def results(w: Path) -> Path:
    (w / "results.json").write_text("[]")
    return w / "results.json"


def own_data_at_the_demos_place(w: Path) -> Path:
    """The user's own data in the folder where the demo generates its dataset."""
    (w / "data" / MARKER).unlink()
    return w


def renamed(w: Path) -> Path:
    """Annotations with the name of a file of a run."""
    shutil.move(w / "data/train.json", w / "data/config.json")
    (w / "data/train.json").symlink_to(w / "data/config.json")
    return w / "data"


def table(w: Path) -> Path:
    shutil.move(w / "data/train.json", w / "data/table.json")
    (w / "data/train.json").symlink_to(w / "data/table.json")
    return w / "data"


def moved(w: Path, where: str) -> Path:
    shutil.copytree(w / "data", w / "out" / where)
    return w / "out" / where


def curves(w: Path) -> Path:
    """An image that lies where a run draws its curves."""
    image = w / "data/train/000001.jpg"
    made(w / "out")
    shutil.move(image, w / "out/curves.png")
    os.link(w / "out/curves.png", image)
    return w / "data"


@pytest.mark.filterwarnings("ignore::hyperfocal.types.HyperfocalWarning")
@pytest.mark.parametrize("case", OTHERS)
def test_no_command_writes_over_what_it_reads(
    world: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = OTHERS[case](world)
    before = state(world)
    assert cli.main(words) == 2
    assert "hyperfocal: " in capsys.readouterr().err
    assert state(world) == before


def test_what_is_no_input_may_be_replaced(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.json", "d"):
        (tmp_path / name).write_text(name)
    (tmp_path / "folder").mkdir()
    outputs = [tmp_path / "b.json", tmp_path / "new.jpg"]
    check_outputs("--json", outputs, [tmp_path / "a.jpg", tmp_path / "folder", None])
    check_outputs("--json", outputs, [tmp_path])  # a page or numbers in the folder of the data
    check_apart("--out", [tmp_path / "folder", tmp_path / "absent"], [tmp_path / "a.jpg", None])
    with pytest.raises(ConfigError, match=r"--json: .*a\.jpg would overwrite an input"):
        check_outputs("--json", [tmp_path / "a.jpg"], [tmp_path])
    with pytest.raises(ConfigError, match="would overwrite an input"):
        check_apart("--out", [tmp_path / "folder"], [tmp_path / "folder" / "x.jpg"])


def test_names_of_another_case_are_the_same_file_where_the_disk_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system that ignores case, as on macOS and Windows, by making `stat` ignore it."""
    own = Path.stat

    def stat(path: Path, **options: bool) -> os.stat_result:
        return own(path.with_name(path.name.lower()), **options)

    (tmp_path / "photo.jpg").write_text("x")
    monkeypatch.setattr(Path, "stat", stat)
    with pytest.raises(ConfigError, match=r"PHOTO\.jpg would overwrite an input"):
        check_outputs("--out", [tmp_path / "PHOTO.jpg"], [tmp_path / "photo.jpg"])
