"""LVIS's and Open Images' protocols in training, by the evaluate command, and on two processes."""

from __future__ import annotations

import csv
import json
import os
import runpy
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import hyperfocal
from hyperfocal.cli import main
from hyperfocal.config import override
from hyperfocal.engine.train import train
from hyperfocal.recipes import load_recipe
from hyperfocal.reproduce.timing import milliseconds
from hyperfocal.runs.folder import RunFolder
from hyperfocal.types import ConfigError, DataError, HyperfocalWarning

SAME_IMAGES = pytest.warns(HyperfocalWarning, match="are in the training split too")
"""What training says of the tests' splits, which are the same images."""
SCRIPT = Path(__file__).with_name("evaluate_on_ranks.py")
QUICK = (
    "--train.epochs None --train.iterations 70 --train.batch-size 4 --train.evaluations 1 "
    "--train.precision fp32 --train.lr 2e-3 --train.ema-decay 0.9 --data.workers 0 "
    "--model.backbone.name lcnet_050 --model.head.depth 1 --data.train-transform.short 96 "
    "--data.train-transform.long 96 --data.train-transform.zoom 1 1 "
    "--data.val-transform.short 96 --data.val-transform.long 96"
)


@pytest.fixture(scope="module")
def files(synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic val split twice: as LVIS's JSON (val.json), and in Open Images' files.

    Of the six categories, the first is above the second and third. Some are verified to be absent;
    some boxes are taken out, of categories that are not exhaustive or not verified.
    """
    folder = tmp_path_factory.mktemp("files")
    shutil.copytree(synthetic / "val", folder / "val")
    data = json.loads((synthetic / "val.json").read_text())
    rng = np.random.default_rng(0)
    ids = [category["id"] for category in data["categories"]]
    size = {image["id"]: (image["width"], image["height"]) for image in data["images"]}
    stem = {image["id"]: Path(image["file_name"]).stem for image in data["images"]}
    data["annotations"] = [a for a in data["annotations"] if rng.random() < 0.8]
    for category, frequency in zip(data["categories"], "ffccrr", strict=True):
        category["frequency"] = frequency
    labels = []
    for image in data["images"]:
        here = {a["category_id"] for a in data["annotations"] if a["image_id"] == image["id"]}
        absent = [i for i in ids if i not in here]
        image["neg_category_ids"] = absent[::2]
        image["not_exhaustive_category_ids"] = sorted(here)[:1]
        labels += [(stem[image["id"]], f"/m/{i}", 1) for i in here]
        labels += [(stem[image["id"]], f"/m/{i}", 0) for i in absent[::2]]
    (folder / "val.json").write_text(json.dumps(data))
    boxes = []
    for n, a in enumerate(data["annotations"]):
        (x, y, w, h), (width, height) = a["bbox"], size[a["image_id"]]
        corners = x / width, (x + w) / width, y / height, (y + h) / height
        boxes.append((stem[a["image_id"]], f"/m/{a['category_id']}", *corners, int(n % 5 == 4)))
    write(folder / "boxes.csv", boxes, "ImageID,LabelName,XMin,XMax,YMin,YMax,IsGroupOf")
    write(folder / "labels.csv", labels, "ImageID,LabelName,Confidence")
    names = [(f"/m/{c['id']}", c["name"]) for c in data["categories"]]
    write(folder / "classes.csv", names)
    leaves = [{"LabelName": f"/m/{i}"} for i in ids]
    leaves[0]["Subcategory"] = [leaves.pop(2), leaves.pop(1)]
    (folder / "tree.json").write_text(json.dumps({"LabelName": "/m/root", "Subcategory": leaves}))
    return folder


def write(path: Path, rows: list[tuple], header: str = "") -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header.split(",")] * bool(header) + rows)


def flags(files: Path, protocol: str) -> list[str]:
    """Flags that train and measure on the same images."""
    words = [*QUICK.split(), "--evaluation.protocol", protocol]
    name = "boxes.csv" if protocol == "openimages" else "val.json"
    for split in ("train", "val"):
        words += [f"--data.{split}.annotations", str(files / name)]
        words += [f"--data.{split}.images", str(files / "val")]
    if protocol == "openimages":
        words += ["--data.train.classes", str(files / "classes.csv")]
        words += ["--data.val.image-labels", str(files / "labels.csv")]
        words += ["--data.val.hierarchy", str(files / "tree.json")]
    return words


@pytest.fixture(scope="module")
def runs(files: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A trained run by protocol."""
    folder = tmp_path_factory.mktemp("runs")
    for protocol in ("lvis", "openimages"):
        experiment = override(load_recipe("demo"), flags(files, protocol), "test")
        with SAME_IMAGES:
            train(experiment, RunFolder(folder / protocol), Console(quiet=True))
    return {protocol: folder / protocol for protocol in ("lvis", "openimages")}


@pytest.mark.parametrize("protocol", ["lvis", "openimages"])
def test_training_measures_as_the_evaluate_command(
    files: Path, runs: dict[str, Path], tmp_path: Path, protocol: str
) -> None:
    run, out = runs[protocol], tmp_path / "out.json"
    words = ["evaluate", str(run), "--data.images", str(files / "val"), "--json", str(out)]
    if protocol == "lvis":
        words += ["--data.annotations", str(files / "val.json"), "--protocol", "lvis"]
    else:
        words += ["--data.annotations", str(files / "boxes.csv")]  # the run's own protocol
        words += ["--data.classes", str(files / "classes.csv")]
        words += ["--data.image-labels", str(files / "labels.csv")]
        words += ["--data.hierarchy", str(files / "tree.json")]
    assert main(words) == 0
    trained = json.loads(RunFolder(run).metrics.read_text())["metrics"]
    evaluated = json.loads(out.read_text())["metrics"]
    assert evaluated == pytest.approx(trained, abs=1e-6)
    wanted = {"lvis": {"AP", "APr", "APc", "APf", "AR@300"}, "openimages": {"AP50", "AP1", "AP5"}}
    assert wanted[protocol] <= trained.keys()
    assert trained["AP50"] > 0.1


def test_whatever_reads_a_run_of_open_images_knows_its_files(
    files: Path, runs: dict[str, Path], tmp_path: Path
) -> None:
    run, boxes = runs["openimages"], files / "boxes.csv"
    out = tmp_path / "own"
    assert main(["figures", str(run), "--most", "3", "--out", str(out)]) == 0
    assert {path.stem for path in out.iterdir()} == {"fl4", "efl2", "efl4"}
    words = ["--data.annotations", str(boxes), "--data.images", str(files / "val")]
    given = tmp_path / "given"
    assert main(["figures", "efl2", str(run), *words, "--most", "3", "--out", str(given)]) == 0
    # The run's two splits are the same images here, so those given are those of its own.
    assert (given / "efl2.csv").read_text() == (out / "efl2.csv").read_text()
    assert 0 < milliseconds(run) < 60_000
    found = hyperfocal.evaluate(
        str(run), (boxes, files / "val"), protocol="coco", verbose=False
    ).metrics
    json_file = tmp_path / "found.json"
    words += ["--protocol", "coco", "--json", str(json_file)]
    assert main(["evaluate", str(run), *words]) == 0
    written = {
        k: v for k, v in json.loads(json_file.read_text())["metrics"].items() if v is not None
    }
    assert written == pytest.approx({k: v for k, v in found.items() if not np.isnan(v)})
    assert found["AP50"] > 0.1


def test_a_run_that_follows_links_is_looked_at_through_links(
    files: Path, runs: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "linked"
    folder.mkdir()
    for image in (files / "val").iterdir():
        (folder / image.name).symlink_to(image)
    run = tmp_path / "run"
    shutil.copytree(runs["openimages"], run)
    config = json.loads((run / "config.json").read_text())
    for split in ("train", "val"):
        config["data"][split]["images"] = str(folder)
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match=r"follow.links"):
        milliseconds(run)
    config["data"]["follow_links"] = True
    (run / "config.json").write_text(json.dumps(config))
    assert main(["figures", "efl4", str(run), "--most", "2", "--out", str(tmp_path / "figs")]) == 0
    assert milliseconds(run) > 0


@pytest.mark.slow
def test_two_processes_measure_as_one(files: Path, runs: dict[str, Path], tmp_path: Path) -> None:
    one = runpy.run_path(str(SCRIPT))["evaluate"](runs["lvis"], files)
    assert one.keys() == {"coco", "lvis", "openimages"}
    assert all(metrics["AP50"] > 0.1 for metrics in one.values())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = f"--master-port={probe.getsockname()[1]}"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", port]
    out = tmp_path / "two.json"
    done = subprocess.run(
        [*torchrun, str(SCRIPT), str(runs["lvis"]), str(files), str(out)],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    two = json.loads(out.read_text())
    assert two.keys() == one.keys()
    for protocol, metrics in two.items():
        assert metrics == pytest.approx(one[protocol], abs=1e-6, nan_ok=True), protocol


def test_a_protocol_without_its_lists_stops_before_training(files: Path, tmp_path: Path) -> None:
    words = [*flags(files, "openimages"), "--data.val.hierarchy", "None"]
    with pytest.raises(DataError, match=r"--data\.val\.hierarchy, or neither"):
        train(override(load_recipe("demo"), words, "test"), RunFolder(tmp_path), Console())
    words += ["--data.val.image-labels", "None"]
    with SAME_IMAGES, pytest.raises(ConfigError, match="needs Open Images' boxes"):
        train(override(load_recipe("demo"), words, "test"), RunFolder(tmp_path), Console())
    assert not RunFolder(tmp_path).config.exists()
