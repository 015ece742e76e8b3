"""Figures: what they draw, read back from the axes or from the pixels."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from hyperfocal.figures import (
    PanelRow,
    category_figure,
    detection_panel,
    draw_detections,
    style,
    training_curves,
)
from hyperfocal.figures.annotate import annotate
from hyperfocal.figures.curves import moving_average
from hyperfocal.types import Detections

NAMES = ["cat", "dog", "bird"]


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures in the order in which they are saved."""
    figures: list[Figure] = []
    save = style.save
    monkeypatch.setattr(style, "save", lambda f, out: (figures.append(f), save(f, out))[1])
    return figures


def write_run(run: Path, evaluations: int = 3) -> Path:
    lines = [
        {"kind": "step", "step": s, "loss": 3 / s, "classification": 2 / s, "box": 1 / s}
        for s in range(1, 31)
    ]
    lines += [
        {
            "kind": "evaluation",
            "step": 10 * i,
            "AP": 0.1 * i,
            "AP50": 0.2 * i,
            "APr": None,
            "APf": 0.3,
        }
        for i in range(1, evaluations + 1)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    fields = ("id", "name", "AP", "AP50", "gt", "train_images", "group")
    values = [
        (1, "$rare_", 0.1, 0.2, 9, 3, "r"),
        (2, "often", 0.6, 0.9, 5, 300, "f"),
        (3, "absent", None, None, 0, 0, None),
    ]
    rows = [dict(zip(fields, row, strict=True)) for row in values]
    metrics = {"AP": 0.35, "APr": 0.1, "APc": None, "APf": 0.6}
    (run / "metrics.json").write_text(json.dumps({"metrics": metrics, "categories": rows}))
    return run


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def test_curves_show_every_loss_term_and_ap(tmp_path, saved):
    out = training_curves(write_run(tmp_path), tmp_path / "deep" / "curves.png")
    assert pixels(out).std() > 5
    losses, ap = saved[0].axes
    lines = {line.get_label(): line.get_xydata() for line in losses.get_lines()}
    assert {"sum", "classification", "box"} <= lines.keys()
    np.testing.assert_allclose(lines["sum"][:, 1], 3 / np.arange(1, 31))
    lines = {line.get_label(): line.get_xydata() for line in ap.get_lines()}
    np.testing.assert_allclose(lines["AP"], [[10, 0.1], [20, 0.2], [30, 0.3]])
    np.testing.assert_allclose(lines["APf  frequent"][:, 1], 0.3)
    assert np.isnan(lines["APr  rare"][:, 1]).all()


def test_a_run_that_was_never_evaluated_shows_its_losses(tmp_path, saved):
    training_curves(write_run(tmp_path, evaluations=0), tmp_path / "curves.png")
    assert len(saved[0].axes) == 1


def test_a_moving_average_keeps_length_level_and_ends():
    np.testing.assert_allclose(moving_average(np.full(500, 7.0)), 7)
    ramp = np.arange(500.0)
    np.testing.assert_allclose(moving_average(ramp)[20:-20], ramp[20:-20])
    noise = np.random.default_rng(0).normal(size=1000)
    assert moving_average(noise).std() < 0.4
    for few in (1, 2, 3):
        np.testing.assert_array_equal(moving_average(ramp[:few]), ramp[:few])


def test_categories_are_drawn_from_frequent_to_rare(tmp_path, saved):
    out = category_figure(write_run(tmp_path), tmp_path / "categories.png")
    assert pixels(out).std() > 5
    top, bottom = saved[0].axes
    assert [t.get_text() for t in bottom.get_xticklabels()] == ["often", "$rare_", "absent"]
    ap = [bar.get_height() for bar in top.containers[0]]
    np.testing.assert_allclose(ap, [0.6, 0.1, np.nan])
    assert [bar.get_height() for bar in bottom.containers[0]] == [300, 3, 0]
    colours = [bar.get_facecolor() for bar in top.containers[0]]
    assert len(set(colours)) == 3
    labels = [text.get_text() for text in top.get_legend().get_texts()]
    assert "AP, rare (mean 0.100)" in labels
    assert "not in this split" in labels


def test_a_thousand_categories_and_none(tmp_path, saved):
    run = write_run(tmp_path)
    data = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(json.dumps(data | {"categories": data["categories"] * 400}))
    category_figure(run, tmp_path / "many.png")
    assert len(saved[0].axes[0].containers[0]) == 1200
    (run / "metrics.json").write_text(json.dumps(data | {"categories": []}))
    assert category_figure(run, tmp_path / "none.png").exists()


def test_a_box_is_drawn_where_it_is_in_its_categorys_colour():
    image = np.full((300, 400, 3), 128, dtype=np.uint8)
    boxes = np.array([[100.0, 120, 300, 250]])
    picture = annotate(image, boxes, np.array([1]), NAMES)
    red, green, blue = (int(style.OKABE_ITO[1][i : i + 2], 16) for i in (1, 3, 5))
    for x, y in ((100, 200), (300, 200), (200, 250)):
        near = picture[y - 2 : y + 3, x - 2 : x + 3].reshape(-1, 3)
        assert (np.abs(near.astype(int) - (red, green, blue)).max(axis=1) <= 2).any()
    # Neither inside nor outside of the box and its label has anything changed.
    assert (picture[130:240, 110:290] == 128).all()
    assert (picture[:, :90] == 128).all()
    assert (picture[260:] == 128).all()
    assert (image == 128).all()


def test_names_of_any_alphabet_and_pictures_of_any_shape():
    picture = np.zeros((40, 900, 3), dtype=np.uint8)
    boxes = np.array([[0.0, 0, 900, 40], [898, 0, 900, 1], [5, 5, 5, 5]])
    names = ["größe_μ", "кошка", "$x$ [b]"]
    assert annotate(picture, boxes, np.arange(3), names, np.ones(3)).shape == picture.shape
    one = np.zeros((1, 1, 3), dtype=np.uint8)
    assert annotate(one, boxes[:1], np.array([0]), names).shape == (1, 1, 3)


def test_weak_detections_are_left_out_of_a_picture(tmp_path):
    image = torch.full((3, 200, 200), 90, dtype=torch.uint8)
    boxes = torch.tensor([[20.0, 40, 60, 80], [120, 120, 180, 180]])
    found = Detections(boxes, torch.tensor([0.9, 0.2]), torch.tensor([0, 1]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = draw_detections(image, found, NAMES, tmp_path / "new" / "a.png", score=0.3)
    picture = pixels(out)
    assert picture.shape == (200, 200, 3)
    assert (picture[:100, :100] != 90).any()
    assert (picture[100:, 100:] == 90).all()
    both = pixels(draw_detections(image, found, NAMES, out, score=0.1))
    assert (both[100:, 100:] != 90).any()


def test_an_image_without_detections_is_left_as_it_is(tmp_path):
    image = torch.randint(0, 255, (3, 50, 70), dtype=torch.uint8)
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    picture = pixels(draw_detections(image, nothing, NAMES, tmp_path / "a.png"))
    assert (picture == image.permute(1, 2, 0).numpy()).all()


def panel_row(height: int, width: int, gt: int = 1, found: int = 1) -> PanelRow:
    box = np.array([[0.2 * width, 0.2 * height, 0.8 * width, 0.8 * height]])
    return PanelRow(
        image=np.full((height, width, 3), 100, dtype=np.uint8),
        gt_boxes=np.repeat(box, gt, axis=0),
        gt_labels=np.zeros(gt, dtype=np.int64),
        boxes=np.repeat(box, found, axis=0),
        scores=np.full(found, 0.9),
        labels=np.ones(found, dtype=np.int64),
    )


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_a_panel_has_ground_truth_and_detections_of_every_image(tmp_path, saved, count):
    rows = [panel_row(60, 80 + 10 * i) for i in range(count)]
    detection_panel(rows, tmp_path / "panel.png", NAMES)
    images = [axes.get_images() for axes in saved[0].axes]
    assert sum(map(len, images)) == 2 * count
    truth, found = (np.asarray(axes.get_images()[0].get_array()) for axes in saved[0].axes[:2])
    assert truth.shape == found.shape
    assert (truth != found).any()


def test_a_panel_of_images_without_boxes(tmp_path, saved):
    detection_panel([panel_row(500, 40, gt=0, found=0)], tmp_path / "panel.png", NAMES)
    for axes in saved[0].axes[:2]:
        assert (np.asarray(axes.get_images()[0].get_array()) == 100).all()


def test_a_panel_of_nothing_is_a_mistake(tmp_path):
    with pytest.raises(ValueError, match="no rows"):
        detection_panel([], tmp_path / "panel.png", NAMES)
