"""The summary after training: figures, a table of metrics, and the files to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from hyperfocal.data import load_sample
from hyperfocal.engine.loop import TrainResult
from hyperfocal.engine.predict import load
from hyperfocal.evaluation import metrics_table
from hyperfocal.figures import (
    PanelRow,
    category_figure,
    detection_panel,
    ratio_figure,
    training_curves,
)
from hyperfocal.names import command, say
from hyperfocal.runs.folder import RunFolder
from hyperfocal.runs.lock import RunLock
from hyperfocal.types import AnnotationSet, ConfigError, ImageRecord

PANEL_IMAGES = 6
PANEL_SCORE = 0.3
"""Detections with a lower score aren't drawn; they still count in the metrics."""


def close_training(result: TrainResult, console: Console) -> None:
    """Draw the figures of a run and print its metrics and files."""
    run, pictures = result.run, list[Path]()
    if result.evaluation is not None:
        console.print(metrics_table(result.evaluation.metrics))
    try:
        with RunLock(run.path):  # another training may have started there
            pictures = draw_pictures(result)
    except ConfigError as error:
        say(console, f"No figures drawn: {error}")
    if result.early is not None:
        say(console, f"Note: {result.early}")
    if result.saturation is not None and result.saturation.complete:
        say(console, f"Note: {result.saturation}")
    console.print("Results:", style="bold")
    for picture in pictures:
        say(console, f"  {picture}")
    hints = [
        (run.metrics, "all metrics, per category"),
        (run.weights, f"best weights: hyperfocal.load({str(run.path)!r})"),
    ]
    for path, what in hints:
        if path.exists():
            say(console, f"  {path}  ({what})")
    say(console, f"  {command('hyperfocal', 'predict', run.path)} YOUR_IMAGES --out OUT")


def draw_pictures(result: TrainResult) -> list[Path]:
    """Draw the figures that the run's files allow, into its folder."""
    run = result.run
    curves, categories, ratios, _ = run.pictures
    pictures = [training_curves(run.path, curves)]
    if result.evaluation is not None:
        pictures.append(category_figure(run.path, categories))
        if result.splits.val is not None:
            pictures.append(draw_panel(run, result.splits.val, result.trust))
    if run.ratios.exists():
        pictures.append(ratio_figure(run.path, ratios))
    return pictures


def draw_panel(run: RunFolder, val: AnnotationSet, trust: Sequence[str] = ()) -> Path:
    """Detections beside ground truth for val images with the rarest categories."""
    model = load(run.path, trust=trust)
    counts = run.read_categories().counts
    records = rarest_first(val, counts.images if counts else None)[:PANEL_IMAGES]
    images = [load_sample(record, record.id).image for record in records]
    found = model.predict(images)
    rows = []
    for record, image, detections in zip(records, images, found, strict=True):
        keep = detections.scores >= PANEL_SCORE
        rows.append(
            PanelRow(
                image=image.permute(1, 2, 0).numpy(),
                gt_boxes=record.boxes,
                gt_labels=record.labels,
                boxes=detections.boxes[keep].numpy(),
                scores=detections.scores[keep].numpy(),
                labels=detections.labels[keep].numpy(),
            )
        )
    names = [category.name for category in val.categories]
    return detection_panel(rows, run.pictures[-1], names)


def rarest_first(val: AnnotationSet, train_images: tuple[int, ...] | None) -> list[ImageRecord]:
    """Images with boxes, alternating between those with rare and those with frequent categories."""
    with_boxes = [record for record in val.images if len(record.labels)]
    if train_images is None:
        return with_boxes
    frequency = np.asarray(train_images)
    ranked = sorted(with_boxes, key=lambda record: (frequency[record.labels].min(), record.id))
    middle = len(ranked) // 2
    return [r for pair in zip(ranked[:middle], ranked[::-1], strict=False) for r in pair] or ranked
