"""Detectors, composed of a backbone, a feature pyramid, a head, priors, an assigner and losses."""

from __future__ import annotations

from hyperfocal.models.atss import ATSS, ImprovedBaseline
from hyperfocal.models.backbone import Backbone
from hyperfocal.models.csp_darknet import CSPDarknet
from hyperfocal.models.decoupled_head import DecoupledHead
from hyperfocal.models.dense import DenseConfig, DenseDetector, DenseParts, as_dense
from hyperfocal.models.detector import CategoryRows, Detector, DetectorConfig
from hyperfocal.models.divisors import LossDivisors
from hyperfocal.models.faster_rcnn import FasterRCNN
from hyperfocal.models.fcos import FCOS
from hyperfocal.models.fpn import FPN
from hyperfocal.models.head import DenseHead, Head, HeadConfig, TowerFeatures
from hyperfocal.models.inference import Inference
from hyperfocal.models.layers import StridedConv
from hyperfocal.models.mining import HardNegativeMining, OnlineHardMining
from hyperfocal.models.paa import PAA
from hyperfocal.models.pafpn import PAFPN
from hyperfocal.models.pixels import PixelNorm
from hyperfocal.models.priors import AnchorGenerator
from hyperfocal.models.quality import QualityBranch
from hyperfocal.models.retinanet import RetinaNet
from hyperfocal.models.roi_head import RoIHead
from hyperfocal.models.roles import BackboneConfig, FeatureNetwork, MiningConfig, Neck, NeckConfig
from hyperfocal.models.rpn import RPN
from hyperfocal.models.yolox import YOLOX

__all__ = [
    "ATSS",
    "FCOS",
    "FPN",
    "PAA",
    "PAFPN",
    "RPN",
    "YOLOX",
    "AnchorGenerator",
    "Backbone",
    "BackboneConfig",
    "CSPDarknet",
    "CategoryRows",
    "DecoupledHead",
    "DenseConfig",
    "DenseDetector",
    "DenseHead",
    "DenseParts",
    "Detector",
    "DetectorConfig",
    "FasterRCNN",
    "FeatureNetwork",
    "HardNegativeMining",
    "Head",
    "HeadConfig",
    "ImprovedBaseline",
    "Inference",
    "LossDivisors",
    "MiningConfig",
    "Neck",
    "NeckConfig",
    "OnlineHardMining",
    "PixelNorm",
    "QualityBranch",
    "RetinaNet",
    "RoIHead",
    "StridedConv",
    "TowerFeatures",
    "as_dense",
]
