"""Detection metrics and their tables, independent of any model."""

from hyperfocal.evaluation.coco import CocoEvaluator
from hyperfocal.evaluation.evaluator import CategoryMetrics, DetectionMetrics, Evaluator
from hyperfocal.evaluation.frequency import FrequencyGroups
from hyperfocal.evaluation.lvis import LvisEvaluator
from hyperfocal.evaluation.openimages import evaluate_openimages
from hyperfocal.evaluation.openimages_split import OpenImagesEvaluator
from hyperfocal.evaluation.protocols import (
    CocoProtocol,
    EvaluatorSettings,
    LvisProtocol,
    OpenImagesProtocol,
    ProtocolConfig,
)
from hyperfocal.evaluation.results import read_results, write_results
from hyperfocal.evaluation.table import category_table, metrics_table

__all__ = [
    "CategoryMetrics",
    "CocoEvaluator",
    "CocoProtocol",
    "DetectionMetrics",
    "Evaluator",
    "EvaluatorSettings",
    "FrequencyGroups",
    "LvisEvaluator",
    "LvisProtocol",
    "OpenImagesEvaluator",
    "OpenImagesProtocol",
    "ProtocolConfig",
    "category_table",
    "evaluate_openimages",
    "metrics_table",
    "read_results",
    "write_results",
]
