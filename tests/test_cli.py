"""The `hyperfocal` command: help, error messages, and whole commands."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hyperfocal import cli
from hyperfocal.config import dump
from hyperfocal.experiment import Experiment
from hyperfocal.recipes import describe, load_recipe


def test_help_needs_no_heavy_import() -> None:
    code = "import sys, hyperfocal.cli as c; c.main(['--help']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "hyperfocal COMMAND" in done.stdout
    heavy = {"torch", "numpy", "timm", "matplotlib", "rich", "tyro"}
    assert not heavy & set(done.stdout.split())


def test_ctrl_c_during_the_imports_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupting:
        def find_spec(self, name: str, *rest: object) -> None:
            if name == "hyperfocal.types":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "hyperfocal.types")
    monkeypatch.setattr(sys, "meta_path", [Interrupting(), *sys.meta_path])
    assert cli.main(["recipes"]) == 130
    assert capsys.readouterr().err == "hyperfocal: interrupted\n"


@pytest.mark.parametrize("command", list(cli.COMMANDS))
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command in cli.USAGE
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert stop.value.code == 0
    assert f"hyperfocal {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian"], "no command 'trian'. Did you mean 'train'?"),
        (["train", "retinanet_r50_coc"], "did you mean 'retinanet_r50_coco'?"),
        (["train", "absent.py"], "absent.py: no such recipe file"),
        (["train", "--out", "x", "demo"], "the recipe comes first"),
        (["train", "demo"], "no training data: give --data.train.annotations"),
        (
            ["demo", "--data.val.annotations", "a.json"],
            "--data.val: the demo trains on a synthetic",
        ),
        (["train", "demo", "--loss", "focl"], "--model.loss focl: must be one of"),
        (["evaluate", "--data.annotations", "x.json"], "RUN folder or --detections FILE"),
        (["evaluate", "absent", "--data.annotations", "x.json"], "absent: no such run folder"),
        (["predict", "absent", "nothing*.jpg", "--out", "o"], "nothing*.jpg: no images found"),
        (["import", "torchvision", "absent.pth", "--out", "o"], "absent.pth: no such weights file"),
    ],
)
def test_what_is_wrong_is_one_line_and_status_2(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert "Traceback" not in printed
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words",
    [
        ["demo"],
        ["figures", "fl1"],
        ["import", "torchvision", "absent.pth"],
        ["predict", "absent", "."],
        ["reproduce", "1b", "--scale", "small"],
    ],
    ids=lambda words: words[0],
)
def test_an_out_that_is_a_file_is_reported_before_the_work(
    words: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "taken"
    file.write_text("precious")
    assert cli.main([*words, "--out", str(file)]) == 2
    assert "taken is a file, but it must be a folder" in capsys.readouterr().err
    assert file.read_text() == "precious"


def test_every_recipe_loads_and_says_what_it_is_for() -> None:
    expected = {"retinanet_r50_coco", "retinanet_r101_coco", "retinanet_x101_32x8d_coco"}
    assert expected | {"retinanet_mobilenet", "demo"} <= describe().keys()
    for name, summary in describe().items():
        assert len(summary) > 20
        experiment = load_recipe(name)
        assert isinstance(experiment, Experiment)
        assert json.loads(json.dumps(dump(experiment)))["train"]["batch_size"] >= 1


def test_a_recipe_file_of_the_user(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import dataclasses\n"
        "from hyperfocal.recipes import demo\n"
        "def recipe():\n"
        "    return dataclasses.replace(demo.recipe(), seed=7)\n"
    )
    assert load_recipe(str(file)).seed == 7
    file.write_text("x = 1\n")
    assert cli.main(["train", str(file)]) == 2


@pytest.mark.slow
def test_demo_then_predict_then_evaluate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    short = ["--train.iterations", "3", "--train.epochs", "None", "--train.evaluations", "1"]
    short += ["--model.inference.score-threshold", "0", "--max-detections", "20"]
    assert cli.main(["demo", "--out", "run", *short]) == 0
    printed = capsys.readouterr().out
    assert "AP50" in printed
    assert "Results:" in printed
    for picture in ("curves.png", "categories.png", "detections.png"):
        assert (tmp_path / "run" / picture).stat().st_size > 10_000

    first = tmp_path / "run/data/val/000001.jpg"
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(first.read_bytes())
    (tmp_path / "photos" / "broken.jpg").write_bytes(first.read_bytes()[:50])
    words = ["predict", "run", "photos", str(first), "--out", "seen", "--score", "0"]
    assert cli.main(words) == 2  # one file couldn't be read; the rest is there
    assert "skipped" in capsys.readouterr().out
    results = json.loads((tmp_path / "seen" / "predictions.json").read_text())
    assert {r["file_name"] for r in results} == {"photos/a.jpg", str(first)}
    assert (tmp_path / "seen" / "a.jpg").exists()
    assert (tmp_path / "seen" / "000001.jpg").exists()

    split = ["--data.annotations", "run/data/val.json", "--data.images", "run/data/val"]
    assert cli.main(["evaluate", "run", *split, "--json", "e.json"]) == 0
    again, trained = (numbers(tmp_path / name) for name in ("e.json", "run/metrics.json"))
    assert trained["AR20"] > 0
    assert again == pytest.approx(trained, rel=1e-6)


def numbers(file: Path) -> dict[str, float]:
    metrics = json.loads(file.read_text())["metrics"]
    return {name: value for name, value in metrics.items() if value is not None}


def test_evaluate_a_results_file(
    synthetic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = json.loads((synthetic / "val.json").read_text())
    perfect = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 1}
        for a in truth["annotations"]
    ]
    file, out = tmp_path / "results.json", tmp_path / "metrics.json"
    file.write_text(json.dumps(perfect))
    words = [
        "evaluate",
        "--detections",
        str(file),
        "--data.annotations",
        str(synthetic / "val.json"),
    ]
    train = ["--train.annotations", str(synthetic / "train.json")]
    assert cli.main([*words, *train, "--json", str(out)]) == 0
    metrics = json.loads(out.read_text())["metrics"]
    assert metrics["AP"] == pytest.approx(1.0)
    assert {"APr", "APc", "APf"} <= metrics.keys()
    file.write_text("[{]")
    assert cli.main(words) == 2
    assert "results.json" in capsys.readouterr().err
    file.unlink()
    assert cli.main(words) == 2
    assert f"--detections {file}: no such file or folder" in capsys.readouterr().err


@pytest.mark.slow
def test_imported_torchvision_weights_predict(tmp_path: Path, synthetic: Path) -> None:
    from PIL import Image
    from torchvision.models.detection import retinanet_resnet50_fpn
    from torchvision.transforms.functional import to_tensor

    torch.manual_seed(0)
    reference = retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=5)
    # Scores that reach the threshold, and more than one category.
    torch.nn.init.normal_(reference.head.classification_head.cls_logits.weight, std=0.1)
    torch.save(reference.state_dict(), tmp_path / "w.pth")
    run = str(tmp_path / "run")
    assert cli.main(["import", "torchvision", str(tmp_path / "w.pth"), "--out", run]) == 0
    image = str(synthetic / "val" / "000001.jpg")
    words = ["predict", run, image, "--size", "128", "128", "--out", str(tmp_path / "seen")]
    assert cli.main(words) == 0
    rows = json.loads((tmp_path / "seen" / "predictions.json").read_text())
    reference.transform.min_size, reference.transform.max_size = (128,), 128
    with torch.no_grad():
        (theirs,) = reference.eval()([to_tensor(Image.open(image))])
    scores = [row["score"] for row in rows]
    assert len({row["category_id"] for row in rows}) > 1
    assert len(scores) == 300
    assert scores == pytest.approx(theirs["scores"].tolist(), abs=1e-3)
    before = (tmp_path / "run" / "model.safetensors").read_bytes()
    torch.nn.init.zeros_(reference.head.classification_head.cls_logits.weight)
    torch.save(reference.state_dict(), tmp_path / "w.pth")
    assert cli.main(["import", "torchvision", str(tmp_path / "w.pth"), "--out", run]) == 2
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == before
