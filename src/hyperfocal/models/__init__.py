"""Detectors, composed from a backbone, a pyramid, a head, priors, an assigner and losses."""

from __future__ import annotations

from hyperfocal.models.backbone import Backbone
from hyperfocal.models.detector import Detector
from hyperfocal.models.fpn import FPN
from hyperfocal.models.head import DenseHead, TowerFeatures
from hyperfocal.models.inference import Inference
from hyperfocal.models.normalizer import LossNormalizer
from hyperfocal.models.pixels import PixelNorm
from hyperfocal.models.priors import AnchorGenerator
from hyperfocal.models.retinanet import RetinaNet

DetectorConfig = RetinaNet.Config
"""Every detector's config (a union once there are several)."""

__all__ = [
    "FPN",
    "AnchorGenerator",
    "Backbone",
    "DenseHead",
    "Detector",
    "DetectorConfig",
    "Inference",
    "LossNormalizer",
    "PixelNorm",
    "RetinaNet",
    "TowerFeatures",
]
