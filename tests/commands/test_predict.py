"""predict and evaluate: their files fit each other, and both take a size and a number."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest

import hyperfocal
from hyperfocal import cli
from hyperfocal.config import override
from hyperfocal.engine.detection_limits import warn_of_cut, warn_of_limits
from hyperfocal.evaluation import CocoEvaluator
from hyperfocal.experiment import EvaluationConfig
from hyperfocal.recipes import load_recipe
from hyperfocal.types import HyperfocalWarning

TINY = [
    *("--train.iterations", "60", "--train.evaluations", "1", "--train.batch-size", "4"),
    *("--model.backbone.name", "test_resnet", "--model.backbone.no-pretrained"),
    *("--data.workers", "0", "--train.ema-decay", "None", "--train.precision", "fp32"),
    *("--model.inference.score-threshold", "0.001", "--train.lr", "0.01"),
]


def data(synthetic: Path) -> list[str]:
    return [
        word
        for split in ("train", "val")
        for word in (
            *(f"--data.{split}.annotations", str(synthetic / f"{split}.json")),
            *(f"--data.{split}.images", str(synthetic / split)),
        )
    ]


@pytest.fixture(scope="module")
def run(synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("predict") / "run"
    words = ["train", "demo", *data(synthetic), *TINY, "--out", str(out), "--max-detections", "80"]
    assert cli.main(words) == 0
    return out


def evaluate(*words: str | Path, out: Path) -> dict[str, Any]:
    assert cli.main(["evaluate", *map(str, words), "--json", str(out)]) == 0
    result: dict[str, Any] = json.loads(out.read_text())
    return result


def test_predictions_can_be_evaluated_and_give_the_runs_numbers(
    run: Path, synthetic: Path, tmp_path: Path
) -> None:
    words = ["predict", str(run), str(synthetic / "val"), "--out", str(tmp_path / "seen")]
    assert cli.main(words) == 0
    truth = ["--data.annotations", synthetic / "val.json"]
    by_run = evaluate(run, *truth, "--data.images", synthetic / "val", out=tmp_path / "a.json")
    file = tmp_path / "seen" / "predictions.json"
    by_file = evaluate(
        "--detections", file, *truth, "--max-detections", "80", out=tmp_path / "b.json"
    )
    own = {k: v for k, v in by_run["metrics"].items() if k in by_file["metrics"] and v}
    again = {k: by_file["metrics"][k] for k in own}
    assert own["AP50"] > 0
    assert "AR80" in own
    assert again == pytest.approx(own, rel=1e-3, abs=1e-6)
    assert by_file["settings"]["detections"] == str(file)


def test_max_detections_reaches_detector_and_evaluator(
    run: Path, synthetic: Path, tmp_path: Path
) -> None:
    for words in (["--max-detections", "40"], ["--max-detections=40"], ["--max_detections", "40"]):
        experiment = override(load_recipe("demo"), words, prog="x")
        assert experiment.evaluation.max_detections == 40
        assert experiment.model.inference.max_detections == 40  # type: ignore[attr-defined]
    trained = json.loads((run / "config.json").read_text())
    assert trained["evaluation"]["max_detections"] == 80
    assert "AR80" in json.loads((run / "metrics.json").read_text())["metrics"]
    split = [*("--data.annotations", synthetic / "val.json"), *("--data.images", synthetic / "val")]
    found = evaluate(run, *split, "--max-detections", "20", out=tmp_path / "e.json")
    assert "AR20" in found["metrics"]
    assert found["settings"]["max_detections"] == found["settings"]["limit"] == 20
    again = hyperfocal.evaluate(
        run, (synthetic / "val.json", synthetic / "val"), max_detections=20, verbose=False
    )
    assert again.metrics == pytest.approx({k: v if v is not None else float("nan")
                                           for k, v in found["metrics"].items()},
                                          nan_ok=True)  # fmt: skip
    out = tmp_path / "seen"
    words = [
        "predict",
        str(run),
        str(synthetic / "val"),
        "--out",
        str(out),
        "--max-detections",
        "3",
    ]
    assert cli.main(words) == 0
    per_image: dict[str, int] = {}
    for row in json.loads((out / "predictions.json").read_text()):
        per_image[row["file_name"]] = per_image.get(row["file_name"], 0) + 1
    assert max(per_image.values()) == 3
    assert json.loads((out / "predict.json").read_text())["settings"]["max_detections"] == 3


def test_size_reaches_the_detector_and_is_remembered(
    run: Path, synthetic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = json.loads((run / "config.json").read_text())["data"]["val_transform"]
    image, seen = str(synthetic / "val" / "000001.jpg"), tmp_path / "seen"
    settings = []
    for size in ([], ["64"], ["64", "96"], [str(own["short"]), str(own["long"])]):
        shutil.rmtree(seen, ignore_errors=True)
        words = ["predict", str(run), image, "--out", str(seen)]
        assert cli.main([*words, *(["--size", *size] if size else [])]) == 0
        settings.append(json.loads((seen / "predict.json").read_text())["settings"])
        boxes = [row["bbox"] for row in json.loads((seen / "predictions.json").read_text())]
        settings[-1]["boxes"] = boxes
    assert settings[0]["boxes"] == settings[3]["boxes"] != settings[1]["boxes"]
    assert (settings[1]["short"], settings[2]["short"], settings[2]["long"]) == (64, 64, 96)
    assert settings[1]["long"] == round(own["long"] * 64 / own["short"])
    split = [*("--data.annotations", synthetic / "val.json"), *("--data.images", synthetic / "val")]
    found = evaluate(run, *split, "--size", "64", "80", out=tmp_path / "e.json")
    assert (found["settings"]["short"], found["settings"]["long"]) == (64, 80)
    again = hyperfocal.evaluate(
        run, (synthetic / "val.json", synthetic / "val"), size=(64, 80), verbose=False
    )
    assert again.metrics["AP50"] == pytest.approx(found["metrics"]["AP50"])
    assert again.metrics["AR80"] > 0
    for words, said in (
        (["--size", "0"], "at least 1 pixel"),
        (["--size", "80", "64"], "the longer side comes second"),
        (["--size", "1", "2", "3"], "give SHORT, or SHORT and LONG"),
        (["--max-detections", "0"], "--max-detections 0: at least 1"),
    ):
        assert cli.main(["predict", str(run), image, "--out", str(tmp_path / "x"), *words]) == 2
        assert said in capsys.readouterr().err
    results = tmp_path / "seen" / "predictions.json"
    words = ["evaluate", "--detections", str(results), *map(str, split[:2]), "--size", "64"]
    assert cli.main(words) == 2
    assert "--size is only for a RUN" in capsys.readouterr().err


def warnings_of(call: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    assert all(w.category is HyperfocalWarning for w in caught)
    return [str(w.message) for w in caught]


@pytest.mark.filterwarnings("default::hyperfocal.types.HyperfocalWarning")
def test_limits_that_bite_are_said(
    synthetic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads((synthetic / "val.json").read_text())
    image, first = content["images"][0], content["annotations"][0]
    content["annotations"] = [
        first | {"id": n, "image_id": image["id"], "bbox": [n % 10 * 9, n // 10 * 6, 8, 5]}
        for n in range(150)
    ]
    (tmp_path / "gt.json").write_text(json.dumps(content))
    annotations = hyperfocal.read_annotations(tmp_path / "gt.json", check="none", split="val")
    coco = EvaluationConfig()
    (one,) = warnings_of(lambda: warn_of_limits(annotations, coco))
    assert "1 of 8 images have more boxes than the 100 detections per image and category" in one
    assert "150 of" in one
    assert "--max-detections N" in one
    (two,) = warnings_of(
        lambda: warn_of_limits(annotations, EvaluationConfig(max_detections=150), 100)
    )
    assert "the 100 detections per image of the detector" in two
    roomy = EvaluationConfig(max_detections=150)
    assert warnings_of(lambda: warn_of_limits(annotations, roomy, 150)) == []
    assert (
        warnings_of(lambda: warn_of_limits(annotations, EvaluationConfig(protocol="openimages")))
        == []
    )
    exact = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 1}
        for a in content["annotations"]
    ]
    (tmp_path / "results.json").write_text(json.dumps(exact))
    found = hyperfocal.evaluation.read_results(tmp_path / "results.json", annotations)
    (cut,) = warnings_of(lambda: warn_of_cut(found, annotations, coco))
    assert "50 of 150 detections exceed the limit of 100" in cut
    assert warnings_of(lambda: warn_of_cut(found, annotations, roomy)) == []
    evaluator = CocoEvaluator(annotations, max_detections=150)
    evaluator.update(list(found.values()), list(found))
    assert evaluator.compute()["AP"] == pytest.approx(1.0)
    words = ["--detections", tmp_path / "results.json", "--data.annotations", tmp_path / "gt.json"]
    low = evaluate(*words, out=tmp_path / "low.json")
    assert "more boxes than the 100" in capsys.readouterr().err
    high = evaluate(*words, "--max-detections", "150", out=tmp_path / "high.json")
    assert low["metrics"]["AP"] < 0.7
    assert high["metrics"]["AP"] == pytest.approx(1.0)


def test_file_names_are_shown_without_acting(
    run: Path, synthetic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "a b"
    photos.mkdir()
    for name in ("\x1b[2Jbroken.jpg", "[red]x[bold].jpg", "=1+1.jpg"):
        (photos / name).write_bytes(b"no image")
    shutil.copy(synthetic / "val" / "000001.jpg", photos / "[bold]\x1b[31mgood.jpg")
    out = tmp_path / "[link]out"
    assert cli.main(["predict", str(run), str(photos), "--out", str(out)]) == 2
    printed = "".join(capsys.readouterr())
    assert "\x1b" not in printed
    assert "[red]x[bold].jpg" in printed
    assert "[link]out" in printed
    assert len(list(out.glob("*.jpg"))) == 1
