"""Detectors, composed from a backbone, a pyramid, a head, priors, an assigner and losses."""

from __future__ import annotations

from hyperfocal.models.atss import ATSS, ImprovedBaseline
from hyperfocal.models.backbone import Backbone
from hyperfocal.models.detector import Detector
from hyperfocal.models.fcos import FCOS
from hyperfocal.models.fpn import FPN
from hyperfocal.models.head import DenseHead, TowerFeatures
from hyperfocal.models.inference import Inference
from hyperfocal.models.normalizer import LossNormalizer
from hyperfocal.models.paa import PAA
from hyperfocal.models.pixels import PixelNorm
from hyperfocal.models.priors import AnchorGenerator
from hyperfocal.models.quality import QualityBranch
from hyperfocal.models.retinanet import RetinaNet

DetectorConfig = RetinaNet.Config | FCOS.Config | ATSS.Config | PAA.Config | ImprovedBaseline
"""Every detector's config: what ``--model KIND`` can name."""

__all__ = [
    "ATSS",
    "FCOS",
    "FPN",
    "PAA",
    "AnchorGenerator",
    "Backbone",
    "DenseHead",
    "Detector",
    "DetectorConfig",
    "ImprovedBaseline",
    "Inference",
    "LossNormalizer",
    "PixelNorm",
    "QualityBranch",
    "RetinaNet",
    "TowerFeatures",
]
