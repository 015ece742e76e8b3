"""docs/extend.md: its components, scripts and commands work as printed."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import hyperfocal
from hyperfocal.api.settings import as_experiment
from hyperfocal.assign import MaxIoUAssigner
from hyperfocal.cli import main
from hyperfocal.config import Config, check_reloads, dump, import_file, override
from hyperfocal.evaluation import EvaluatorSettings
from hyperfocal.losses import sigmoid_cross_entropy
from hyperfocal.recipes import load_recipe
from hyperfocal.types import (
    AnnotationSet,
    Category,
    ConfigError,
    DataError,
    Detections,
    ImageRecord,
    Priors,
    Target,
)

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extend.md").read_text(encoding="utf-8")
BLOCK = re.compile(r'^```\w+ title="([\w.]+)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)
SMALL: dict[str, Any] = {
    "train.epochs": 1, "train.batch_size": 6, "train.log_every": 1, "train.evaluations": 1,
    "model.head.depth": 1, "model.inference.score_threshold": 0, "model.inference.pre_nms": 50,
    "data.train_transform.short": 64, "data.val_transform.short": 64, "data.workers": 0,
    "evaluation.protocol.iou": 0.01, "accelerator": "cpu", "train.precision": "fp32",
}  # fmt: skip
"""Settings that stand in for ``train.epochs``, so that a training takes seconds."""
BACKBONE = {"model.backbone.name": "test_resnet", "model.backbone.frozen_stages": 0}


def blocks(title: str) -> list[str]:
    """The page's blocks of a file."""
    return [text for name, text in BLOCK.findall(PAGE) if name == title]


def flags(settings: dict[str, Any]) -> str:
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in settings.items())


def smaller(text: str, setting: str, small: str) -> str:
    assert text.count(setting) == 1
    return text.replace(setting, small)


def commands(title: str) -> list[list[str]]:
    """The words of the page's commands, without ``hyperfocal``."""
    (text,) = blocks(title)
    small = flags(SMALL | BACKBONE) + " --model.backbone.no-pretrained"
    text = re.sub(r"--train\.epochs \d+", small, text).replace("\\\n", "")
    words = [shlex.split(line) for line in text.splitlines()]
    assert words
    assert all(first == "hyperfocal" for first, *_ in words)
    return [rest for _, *rest in words]


@pytest.fixture(scope="module")
def folder(synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's files and the synthetic dataset in its format, with an image without boxes."""
    out = tmp_path_factory.mktemp("extend")
    for title in ("my_parts.py", "train.py", "reload.py"):
        (out / title).write_text("\n\n".join(blocks(title)))
    script, small = out / "train.py", f"**{SMALL | {'train.batch_size': 4}},"
    script.write_text(smaller(script.read_text(), '"train.epochs": 15,', small))
    for split in ("train", "val"):
        shutil.copytree(synthetic / split, out / "images" / split)
        data = json.loads((synthetic / f"{split}.json").read_text())
        names = {category["id"]: category["name"] for category in data["categories"]}
        lines = {image["id"]: [f"{split}/{image['file_name']}"] for image in data["images"]}
        for box in data["annotations"]:
            x, y, w, h = box["bbox"]
            corners = f"{x},{y},{x + w},{y + h}"
            lines[box["image_id"]].append(f"{corners},{names[box['category_id']]}")
        if split == "train":
            lines[next(iter(lines))][1:] = []
        (out / f"{split}.txt").write_text(
            "".join("\t".join(line) + "\n" for line in lines.values())
        )
    shutil.copy(min((synthetic / "val").iterdir()), out / "photo.jpg")
    return out


def python(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A fresh process in the folder, which finds the package but none of the tests' modules."""
    paths = [str(ROOT / "src"), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=env, capture_output=True, text=True, timeout=200
    )


def hyperfocal_in(folder: Path, *commands: list[str], first: str = "") -> None:
    """Run commands one after another in one fresh process."""
    code = f"import sys\nfrom hyperfocal.cli import main\n{first}\n"
    code += "".join(f"status = main({words!r})\nassert status == 0, status\n" for words in commands)
    done = python(folder, "-c", code)
    assert done.returncode == 0, done.stderr


def losses(run: Path) -> list[float]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if line["kind"] == "step"]


@pytest.fixture(scope="module")
def mine(folder: Path) -> Path:
    """The run of train.sh."""
    hyperfocal_in(folder, *commands("train.sh"))
    return folder / "runs/mine"


def classes(settings: dict[str, Any]) -> set[str]:
    """The components from outside in a config.json."""
    found = {settings["class"]} if "class" in settings else set()
    return found.union(*(classes(part) for part in settings.values() if isinstance(part, dict)))


def references(*names: str) -> set[str]:
    return {f"my_parts:{name}" for name in names}


@pytest.mark.slow
def test_components_are_named_on_the_command_line(mine: Path) -> None:
    assert len(losses(mine)) == 4
    saved = json.loads((mine / "config.json").read_text())
    assert (saved["model"]["loss"]["epsilon"], saved["model"]["neck"]["channels"]) == (0.5, 96)
    assert classes(saved) == references(
        "DistanceNet.Config", "LinePerImage", "PathAggregation.Config", "PolyLoss.Config",
        "RandomGrey", "SometimesEmpty.Config", "VocProtocol",
    )  # fmt: skip
    assert json.loads((mine / "metrics.json").read_text())["metrics"].keys() == {"AP50"}


@pytest.mark.slow
def test_components_are_used_by_object(folder: Path) -> None:
    done = python(folder, "train.py")
    assert done.returncode == 0, done.stderr
    saved = json.loads((folder / "runs/object/config.json").read_text())
    assert (saved["model"]["loss"]["epsilon"], saved["model"]["neck"]["channels"]) == (0.5, 96)
    assert classes(saved) == references(
        "CenterAssigner.Config", "DistanceNet.Config", "HardestNegatives", "LinePerImage",
        "PathAggregation.Config", "PolyLoss.Config", "RandomGrey", "SmallBackbone.Config",
        "SometimesEmpty.Config", "VocProtocol",
    )  # fmt: skip
    assert 0 <= float(done.stdout.splitlines()[-1]) <= 1


@pytest.mark.slow
def test_a_run_of_them_is_reloaded_where_their_module_is_trusted(folder: Path, mine: Path) -> None:
    trained = json.loads((mine / "metrics.json").read_text())["metrics"]["AP50"]
    assert trained > 0
    done = python(folder, "reload.py")
    assert done.returncode == 0, done.stderr
    number, ap50 = done.stdout.splitlines()
    assert int(number.split()[0]) > 0
    assert float(ap50) == pytest.approx(trained, abs=1e-6)

    predict, evaluate, finetune = commands("reload.sh")
    stop = "from hyperfocal.engine.loop import Loop\n"
    stop += "Loop.stopping = lambda self: self.state.step == 2"
    hyperfocal_in(folder, predict, evaluate, finetune, first=stop)
    measured = json.loads((folder / "metrics.json").read_text())["metrics"]
    assert measured == {"AP50": pytest.approx(trained, abs=1e-6)}
    written = json.loads((folder / "found/predictions.json").read_text())
    assert len(written) == int(number.split()[0])

    stopped = folder / "runs/finetuned"
    assert len(losses(stopped)) == 2
    hyperfocal_in(folder, [*finetune, "--resume"], [*finetune, "--out", "runs/whole"])
    whole = losses(folder / "runs/whole")
    assert len(whole) == 4
    assert losses(stopped) == pytest.approx(whole, rel=1e-5)


@pytest.mark.slow
def test_without_trust_one_line_says_what_would_be_executed(
    folder: Path, mine: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    done = python(folder, "-m", "hyperfocal.cli", "predict", "runs/mine", "photo.jpg", "--out", "x")
    assert (done.returncode, done.stdout) == (2, "")
    start = "hyperfocal: runs/mine/config.json.model.class: 'my_parts:DistanceNet.Config' would"
    assert done.stderr.startswith(f"{start} execute the module 'my_parts'")
    assert "--trust my_parts" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    val = str(folder / "val.txt")
    for words in (["train", str(mine)], ["evaluate", str(mine), "--data.annotations", val]):
        assert main(words) == 2
        said = capfd.readouterr().err
        assert "would execute the module 'my_parts'" in said
        assert len(said.splitlines()) == 1
    with pytest.raises(ConfigError, match=r"would execute the module 'my_parts'.*trust=\["):
        hyperfocal.load(mine)
    assert "my_parts" not in sys.modules


# --------------------------------------------------------------------------- each one by itself


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The page's file, as a module of another name than the trainings' file."""
    file = tmp_path_factory.mktemp("parts") / "page_parts.py"
    file.write_text("\n\n".join(blocks("my_parts.py")))
    yield import_file(file)
    del sys.modules["page_parts"]


@pytest.mark.parametrize("number", range(len(blocks("my_parts.py"))))
def test_each_block_is_complete_and_its_component_reloads(tmp_path: Path, number: int) -> None:
    file = tmp_path / f"block_{number}.py"
    file.write_text(blocks("my_parts.py")[number])
    try:
        own = [
            v for v in vars(import_file(file)).values() if getattr(v, "__module__", "") == file.stem
        ]
        settings = [vars(cls).get("Config", cls) for cls in own if isinstance(cls, type)]
        (component,) = [cls for cls in settings if issubclass(cls, Config)]
        check_reloads(component())
        assert dump(component())["class"].startswith(f"{file.stem}:")
    finally:
        sys.modules.pop(file.stem, None)


def test_each_use_from_python_is_that_of_the_command_line(parts: ModuleType) -> None:
    sections = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    used = 0
    for section in sections:
        by_object = re.search(r"^- Python: `settings=(\{.*?\})`", section, re.MULTILINE)
        by_name = re.search(r"^- Command line:\s+`([^`]+)`", section, re.MULTILINE)
        if by_object is None or by_name is None:
            assert "title=" not in section or section.startswith("Using and reloading")
            continue
        settings = eval(by_object[1], dict(vars(parts)))
        words = by_name[1].replace("my_parts:", "page_parts:").split()
        one, other = as_experiment("demo", settings), override(load_recipe("demo"), words, "test")
        if "model" in settings:  # by name it keeps the recipe's backbone, neck, loss and mining
            assert type(one.model) is type(other.model) is parts.DistanceNet.Config
            assert other.model.backbone == load_recipe("demo").model.backbone
        else:
            assert one == other != load_recipe("demo")
        used += 1
    assert used == len(blocks("my_parts.py"))


def test_every_role_is_on_the_page(parts: ModuleType) -> None:
    roles = [cls for cls in Config.__subclasses__() if cls.role is cls]
    roles = [cls for cls in roles if cls.__module__.startswith("hyperfocal.")]
    assert len(roles) >= 11
    for role in roles:
        module = ".".join(role.__module__.split(".")[:2])  # where users import it from
        assert f"| `{module}.{role.__name__}`" in PAGE, role
        assert getattr(sys.modules[module], role.__name__) is role
    table = PAGE.partition("## ")[0]
    for section in re.findall(r"\]\(#([\w-]+)\)", table):
        heads = [h.lower().replace(" ", "-") for h in re.findall(r"^## (.+)$", PAGE, re.MULTILINE)]
        assert section in heads


def test_the_declarations_of_the_page_exist() -> None:
    table = PAGE.partition("| declaration |")[2].partition("### Files")[0]
    pattern = r"^\| (?:base|attribute|property) `hyperfocal\.(\w+)\.(\w+)(?:\.(\w+))?` \|"
    rows = re.findall(pattern, table, re.MULTILINE)
    assert len(rows) == table.count("\n|") - 1 > 9
    for package, name, attribute in rows:
        cls = getattr(importlib.import_module(f"hyperfocal.{package}"), name)
        assert not attribute or attribute in vars(cls)


def labelled(
    *boxes: tuple[float, ...], label: int = 0, crowd: tuple[bool, ...] = ()
) -> AnnotationSet:
    """One image of 100 pixels with boxes of one of two categories."""
    n = len(boxes)
    array = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    record = ImageRecord(
        1, Path("1.jpg"), 100, 100, array, np.full(n, label), np.array(crowd or (False,) * n),
        np.ones(n),
    )  # fmt: skip
    return AnnotationSet(Path("x"), (Category(1, "a"), Category(2, "b")), (record,))


def ap50(parts: ModuleType, truth: AnnotationSet, *found: tuple[tuple[float, ...], float]) -> float:
    evaluator = parts.VocProtocol().build(truth, None, EvaluatorSettings())
    boxes = torch.tensor([box for box, _ in found]).reshape(-1, 4)
    scores = torch.tensor([score for _, score in found])
    evaluator.update([Detections(boxes, scores, torch.zeros(len(found), dtype=torch.int64))], [1])
    assert [row.gt for row in evaluator.per_category()][1] == 0
    return evaluator.compute()["AP50"]


def test_the_protocol_is_voc2007s(parts: ModuleType) -> None:
    one, two, away = (0.0, 0, 10, 10), (50.0, 50, 80, 80), (20.0, 20, 30, 30)
    truth = labelled(one, two)
    assert ap50(parts, truth, (one, 0.9), (two, 0.3)) == 1
    assert ap50(parts, truth) == 0
    assert ap50(parts, truth, (one, 0.9), (two, 0.3), (away, 0.1)) == 1
    assert ap50(parts, truth, (one, 0.9)) == pytest.approx(6 / 11)  # recalls 0 to 0.5
    # A false one above all: precision 1/2 up to recall 0.5, then 2/3, which counts everywhere.
    assert ap50(parts, truth, (away, 1.0), (one, 0.9), (two, 0.3)) == pytest.approx(2 / 3)
    # A second detection of a box is a false one.
    expected = (6 + 5 * 2 / 3) / 11
    assert ap50(parts, truth, (one, 0.9), (one, 0.8), (two, 0.3)) == pytest.approx(expected)
    crowd = labelled(one, two, crowd=(False, True))
    assert ap50(parts, crowd, (two, 1.0), (one, 0.9)) == 1
    assert np.isnan(ap50(parts, labelled(two, crowd=(True,)), (two, 1.0)))


def test_the_loss_is_its_formula(parts: ModuleType) -> None:
    x = torch.randn(20, 3, dtype=torch.float32, requires_grad=True)
    labels = torch.arange(20) % 5 - 1
    cross_entropy = sigmoid_cross_entropy(x, labels, reduction="sum", normalizer=4.0)
    torch.testing.assert_close(parts.PolyLoss(0.0)(x, labels, 4.0), cross_entropy)
    own = torch.nn.functional.one_hot(labels.clamp(min=0), 4)[:, :3].bool()
    p_t = torch.where(own, x.sigmoid(), 1 - x.sigmoid())[labels >= 0]
    value = parts.PolyLoss.Config(epsilon=2.0).build(3)(x, labels, 4.0)
    torch.testing.assert_close(value, cross_entropy + 2 * (1 - p_t).sum() / 4)
    (gradient,) = torch.autograd.grad(value, x)
    assert (gradient[labels < 0] == 0).all()


def test_the_assigner_declares_what_the_detector_needs(parts: ModuleType) -> None:
    assigner = parts.CenterAssigner.Config(share=0.5).build(2)
    centers = torch.tensor([[5.0, 5], [1, 1], [50, 50], [65, 65]])
    boxes = torch.cat([centers - 4, centers + 4], dim=1)
    priors = Priors(boxes, torch.full((4,), 8.0), (4,))
    target = Target(
        torch.tensor([[0.0, 0, 100, 100], [0, 0, 10, 10], [60, 60, 70, 70]]),
        torch.tensor([0, 1, 1]),
    )
    nothing = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    found = assigner(priors, (target, nothing))
    assert found.labels.tolist() == [[1, 2, 0, 1], [2, 2, 2, 2]]
    assert found.gt_index.tolist() == [[1, 0, 0, 2], [0, 0, 0, 0]]
    with pytest.raises(ConfigError, match=r"assigner = .*declares centers_inside"):
        parts.DistanceNet.Config(
            backbone=parts.SmallBackbone.Config(), assigner=MaxIoUAssigner.Config()
        ).build(3)


def test_the_sampler_shows_empty_images_in_every_nth_epoch(parts: ModuleType) -> None:
    records = [labelled(*([(0.0, 0, 9, 9)] * (n % 2))).images[0] for n in range(12)]
    split = AnnotationSet(Path("x"), (Category(1, "a"),), tuple(records))
    sampler = parts.SometimesEmpty.Config(period=3).build(split, seed=1)
    epochs = [sampler.epoch_indices(n) for n in range(3)]
    assert sampler.epoch_length == 8
    shown = np.bincount(np.concatenate(epochs), minlength=12)
    assert shown.tolist() == [1, 3] * 6
    again = parts.SometimesEmpty.Config(period=3).build(split, seed=1)
    assert again.epoch_indices(2).tolist() == epochs[2].tolist()


def test_mining_keeps_positives_and_the_hardest_negatives(parts: ModuleType) -> None:
    losses, labels = torch.tensor([9.0, 1, 5, 7, 3]), torch.tensor([-1, 0, 2, 2, 2])
    chosen = parts.HardestNegatives(keep=2).choose(losses, labels, torch.zeros(5, 4), 2)
    assert chosen.tolist() == [False, True, True, True, False]
    chosen = parts.HardestNegatives(keep=9).choose(losses, labels, torch.zeros(5, 4), 2)
    assert chosen.tolist() == [False, True, True, True, True]


def test_doctor_and_results_files_take_the_format_and_the_protocol(
    parts: ModuleType, folder: Path, tmp_path: Path
) -> None:
    images, out = str(folder / "images"), tmp_path / "out.json"
    words = ["--data.format", f"{parts.__name__}:LinePerImage"]
    split = ["--data.train.annotations", str(folder / "train.txt"), "--data.train.images", images]
    pages = ["--html", str(tmp_path / "page.html"), "--json", str(out)]
    assert main(["doctor", *words, *split, "--decode", "none", *pages]) == 0
    assert json.loads(out.read_text())["advice"] is not None

    truth = hyperfocal.read_annotations(
        folder / "val.txt", images, split="val", format=parts.LinePerImage()
    )
    results = [
        {
            "image_id": record.id,
            "category_id": truth.categories[label].id,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": 0.5,
        }
        for record in truth.images
        for label, (x1, y1, x2, y2) in zip(
            record.labels.tolist(), record.boxes.tolist(), strict=True
        )
    ]
    (tmp_path / "results.json").write_text(json.dumps(results))
    words += ["--data.annotations", str(folder / "val.txt"), "--data.images", images]
    words += ["--protocol", f"{parts.__name__}:VocProtocol", "--json", str(out)]
    assert main(["evaluate", "--detections", str(tmp_path / "results.json"), *words]) == 0
    assert json.loads(out.read_text())["metrics"] == {"AP50": 1.0}


def test_the_formats_errors_name_the_line(parts: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "boxes.txt"
    for line, said in (
        ("a.jpg\t1,2,3,4", "line 2: expected x1,y1,x2,y2,category, found '1,2,3,4'"),
        (
            "a.jpg\t1,2,three,4,bee",
            "line 2: expected x1,y1,x2,y2,category, found '1,2,three,4,bee'",
        ),
        ("../a.jpg\t1,2,3,4,bee", "line 2: '../a.jpg' leads out of the image folder"),
    ):
        file.write_text(f"b.jpg\n{line}\n")
        with pytest.raises(DataError) as caught:
            hyperfocal.read_annotations(file, tmp_path, check="none", format=parts.LinePerImage())
        assert str(caught.value).startswith(f"{file}: {said}")
