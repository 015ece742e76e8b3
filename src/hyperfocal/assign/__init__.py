"""Assigners: priors and targets -> which ground truth each prior answers for."""

from __future__ import annotations

from hyperfocal.assign.max_iou import LowQuality, MaxIoUAssigner, assign_max_iou

__all__ = ["LowQuality", "MaxIoUAssigner", "assign_max_iou"]
