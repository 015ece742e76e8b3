"""Base classes of assigners and their settings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from hyperfocal.config import Config
from hyperfocal.types import Assignment, Priors, Target


class Assigner(nn.Module, ABC):
    """Assigns ground-truth boxes to priors."""

    centers_inside: ClassVar[bool] = False
    """Whether the centres of all positive priors lie inside their objects, as required by detectors
    that predict distances to the four sides (FCOS)."""

    @abstractmethod
    def forward(self, priors: Priors, targets: tuple[Target, ...]) -> Assignment:
        """Assign A priors to the boxes of each of B images; without gradients."""


class CostAssigner(Assigner):
    """An assigner that selects positives among candidates by their loss (PAA)."""

    @abstractmethod
    def choose(self, candidates: Assignment, cost: Tensor, priors: Priors) -> Assignment:
        """The final assignment.

        Args:
            candidates: the result of ``forward``.
            cost: ``(P,)`` of the candidates in the order of ``positives(K).nonzero()``.
            priors: the A priors.
        """


class PredictionAssigner(Assigner):
    """An assigner that selects positives among candidates by predicted boxes and scores (SimOTA).

    A candidate may be assigned to another object than that of ``forward``.
    """

    @abstractmethod
    def choose(
        self,
        candidates: Assignment,
        boxes: Tensor,
        scores: Tensor,
        priors: Priors,
        targets: tuple[Target, ...],
    ) -> Assignment:
        """The final assignment.

        Args:
            candidates: the result of ``forward``.
            boxes: ``(P, 4)`` predicted boxes of the candidates, xyxy, in the order of
                ``positives(K).nonzero()``.
            scores: ``(P, K)`` their predicted scores in [0, 1].
            priors: the A priors.
            targets: the boxes of the B images.
        """


@dataclass(frozen=True)
class AssignerConfig(Config, role=True):
    """Settings of an assigner."""

    @abstractmethod
    def build(self, num_classes: int) -> Assigner:
        """The assigner for K categories; the background has label K."""
