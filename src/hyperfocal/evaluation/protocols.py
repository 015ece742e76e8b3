"""Evaluation protocols: settings that build an `Evaluator`."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from hyperfocal.config import Config
from hyperfocal.evaluation.coco import CocoEvaluator
from hyperfocal.evaluation.evaluator import Evaluator
from hyperfocal.evaluation.frequency import FrequencyGroups
from hyperfocal.evaluation.lvis import LvisEvaluator
from hyperfocal.evaluation.openimages_split import OpenImagesEvaluator
from hyperfocal.types import AnnotationSet, CategoryCounts


@dataclass(frozen=True)
class EvaluatorSettings:
    """Settings passed to all protocols.

    Attributes:
        groups: frequency groups of the categories.
        expand_detections: add each detection for all ancestors of its category too; ignored by
            protocols without a hierarchy.
        max_detections: maximum number of detections used; None: all.
    """

    groups: FrequencyGroups = field(default_factory=FrequencyGroups)
    expand_detections: bool = False
    max_detections: int | None = None


@dataclass(frozen=True)
class ProtocolConfig(Config, role=True):
    """Settings of an evaluator."""

    chooses_by: ClassVar[str] = "AP"
    """The metric for selecting the best weights; higher is better."""
    limit: ClassVar[int | None] = None
    """Default of ``evaluation.max_detections``; None: all."""
    limit_of: ClassVar[Literal["image", "category"]] = "image"
    """Whether the limit applies per image, or per image and category."""
    least_limit: ClassVar[int] = 1
    """Smallest limit that the protocol supports."""

    @abstractmethod
    def build(
        self, annotations: AnnotationSet, counts: CategoryCounts | None, settings: EvaluatorSettings
    ) -> Evaluator:
        """The evaluator of a split.

        Args:
            annotations: ground truth.
            counts: training frequencies of the same categories; None if unknown.
            settings: see `EvaluatorSettings`.

        Raises:
            ConfigError: the annotations lack something that it needs.
        """


@dataclass(frozen=True)
class CocoProtocol(ProtocolConfig):
    """COCO's protocol."""

    kind: ClassVar[str] = "coco"
    limit: ClassVar[int | None] = 100
    limit_of: ClassVar[Literal["image", "category"]] = "category"
    least_limit: ClassVar[int] = 11  # because of AR10

    def build(
        self, annotations: AnnotationSet, counts: CategoryCounts | None, settings: EvaluatorSettings
    ) -> CocoEvaluator:
        """See `CocoEvaluator`."""
        most = settings.max_detections or self.limit
        assert most is not None
        return CocoEvaluator(
            annotations, counts=counts, groups=settings.groups, max_detections=most
        )


@dataclass(frozen=True)
class LvisProtocol(ProtocolConfig):
    """LVIS's federated protocol, for annotations in LVIS's format."""

    kind: ClassVar[str] = "lvis"
    limit: ClassVar[int | None] = 300

    def build(
        self, annotations: AnnotationSet, counts: CategoryCounts | None, settings: EvaluatorSettings
    ) -> LvisEvaluator:
        """See `LvisEvaluator`."""
        most = settings.max_detections or self.limit
        assert most is not None
        return LvisEvaluator(
            annotations, counts=counts, groups=settings.groups, max_detections=most
        )


@dataclass(frozen=True)
class OpenImagesProtocol(ProtocolConfig):
    """The protocol of the Open Images Challenge, for its CSV files."""

    kind: ClassVar[str] = "openimages"
    chooses_by: ClassVar[str] = "AP50"

    def build(
        self, annotations: AnnotationSet, counts: CategoryCounts | None, settings: EvaluatorSettings
    ) -> OpenImagesEvaluator:
        """See `OpenImagesEvaluator`."""
        return OpenImagesEvaluator(
            annotations,
            counts=counts,
            expand_detections=settings.expand_detections,
            max_detections=settings.max_detections,
        )
