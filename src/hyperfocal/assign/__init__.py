"""Assigners, which match priors with ground-truth boxes."""

from __future__ import annotations

from hyperfocal.assign.atss import ATSSAssigner, assign_atss
from hyperfocal.assign.fcos import FCOSAssigner, RangeLimits, assign_fcos
from hyperfocal.assign.max_iou import LowQuality, MaxIoUAssigner, assign_max_iou
from hyperfocal.assign.mixture import Mixture, fit_mixtures
from hyperfocal.assign.paa import CornerCases, PAAAssigner, split_by_cost
from hyperfocal.assign.roles import Assigner, AssignerConfig, CostAssigner, PredictionAssigner
from hyperfocal.assign.sampling import sample_balanced, sample_size
from hyperfocal.assign.simota import SimOTAAssigner, near_centers, simota

__all__ = [
    "ATSSAssigner",
    "Assigner",
    "AssignerConfig",
    "CornerCases",
    "CostAssigner",
    "FCOSAssigner",
    "LowQuality",
    "MaxIoUAssigner",
    "Mixture",
    "PAAAssigner",
    "PredictionAssigner",
    "RangeLimits",
    "SimOTAAssigner",
    "assign_atss",
    "assign_fcos",
    "assign_max_iou",
    "fit_mixtures",
    "near_centers",
    "sample_balanced",
    "sample_size",
    "simota",
    "split_by_cost",
]
