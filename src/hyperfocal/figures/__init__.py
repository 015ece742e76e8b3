"""Figures of runs and detections from files and arrays; needs neither engine nor models."""

from hyperfocal.figures.annotate import draw_detections
from hyperfocal.figures.categories import category_figure
from hyperfocal.figures.curves import training_curves
from hyperfocal.figures.panels import PanelRow, detection_panel
from hyperfocal.figures.ratios import ratio_figure

__all__ = [
    "PanelRow",
    "category_figure",
    "detection_panel",
    "draw_detections",
    "ratio_figure",
    "training_curves",
]
