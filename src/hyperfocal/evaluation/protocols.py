"""Whose rules an evaluation follows: the settings that build an `Evaluator`."""

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
    """What every protocol is told.

    Attributes:
        groups: how categories are grouped by their frequency in training.
        expand_detections: give each detection to all ancestors of its category too; a protocol
            without a hierarchy needn't know.
        max_detections: best detections that count; None: all.
    """

    groups: FrequencyGroups = field(default_factory=FrequencyGroups)
    expand_detections: bool = False
    max_detections: int | None = None


@dataclass(frozen=True)
class ProtocolConfig(Config, role=True):
    """Settings of an evaluator."""

    chooses_by: ClassVar[str] = "AP"
    """The metric that the best weights are chosen by, the higher the better."""
    limit: ClassVar[int | None] = None
    """Best detections that count unless ``evaluation.max_detections`` says otherwise; None: all."""
    limit_of: ClassVar[Literal["image", "category"]] = "image"
    """Whether the limit is one of an image, or of an image and category."""
    least_limit: ClassVar[int] = 1
    """Least number of detections that the protocol can be limited to."""

    @abstractmethod
    def build(
        self, annotations: AnnotationSet, counts: CategoryCounts | None, settings: EvaluatorSettings
    ) -> Evaluator:
        """The evaluator of a split.

        Args:
            annotations: ground truth.
            counts: training frequencies of the same categories; None where they aren't known.
            settings: see `EvaluatorSettings`.

        Raises:
            ConfigError: the annotations lack what it needs.
        """


@dataclass(frozen=True)
class CocoProtocol(ProtocolConfig):
    """COCO's rules."""

    kind: ClassVar[str] = "coco"
    limit: ClassVar[int | None] = 100
    limit_of: ClassVar[Literal["image", "category"]] = "category"
    least_limit: ClassVar[int] = 11  # AR10 is one of its numbers

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
    """LVIS's federated rules, for annotations in LVIS's format."""

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
    """The rules of the Open Images Challenge, for its CSV files."""

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
