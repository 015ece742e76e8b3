"""Evaluation of a detector on a split, with any number of processes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from hyperfocal.config import kinds
from hyperfocal.evaluation import (
    CategoryMetrics,
    CocoProtocol,
    Evaluator,
    ProtocolConfig,
)
from hyperfocal.experiment import EvaluationConfig
from hyperfocal.models import Detector
from hyperfocal.names import for_html, one_name
from hyperfocal.runs.folder import RunFolder
from hyperfocal.runs.json_files import finite, read_json, write_json
from hyperfocal.types import (
    AnnotationSet,
    Batch,
    CategoryCounts,
    ConfigError,
    Detections,
    HyperfocalWarning,
)


@dataclass(frozen=True)
class Evaluation:
    """Results of one evaluation.

    Attributes:
        metrics: AP, AP50, ..., APr, APc, APf; nan where a metric is undefined.
        categories: the same per category, in label order.
        chooses_by: the metric that selects the best weights.
    """

    metrics: dict[str, float]
    categories: tuple[CategoryMetrics, ...]
    chooses_by: str = "AP"

    def as_json(self, step: int | None = None) -> dict[str, Any]:
        """As JSON-serializable values; nan becomes null."""
        rows = [
            {k: finite(v) if isinstance(v, float) else v for k, v in asdict(row).items()}
            for row in self.categories
        ]
        metrics = {name: finite(value) for name, value in self.metrics.items()}
        return {"step": step, "metrics": metrics, "categories": rows}

    def _repr_html_(self) -> str:
        """Tables of metrics and categories, for a notebook."""
        left = "<th style='text-align:left'>"
        cells = "".join(
            f"<tr>{left}{for_html(one_name(name))}</th><td>{value:.3f}</td></tr>"
            for name, value in self.metrics.items()
        )
        rows = "".join(
            f"<tr>{left}{for_html(one_name(row.name))}</th><td>{row.AP:.3f}</td>"
            f"<td>{row.AP50:.3f}</td><td>{row.gt}</td></tr>"
            for row in self.categories
        )
        heads = "<tr><th>category</th><th>AP</th><th>AP50</th><th>boxes</th></tr>"
        return f"<table>{cells}</table><table>{heads}{rows}</table>"

    @property
    def ap(self) -> float:
        """The metric that selects the best weights: AP, or AP50 of the Open Images protocol."""
        return self.metrics.get(self.chooses_by, float("nan"))

    def write(self, run: RunFolder, step: int) -> None:
        """Write the run's metrics.json."""
        write_json(run.metrics, self.as_json(step))

    @classmethod
    def read(cls, run: RunFolder, step: int) -> Evaluation | None:
        """Read metrics.json; None unless it is of ``step``."""
        if not run.metrics.exists():
            return None
        data = read_json(run.metrics)
        try:
            if data["step"] != step:
                return None
            metrics = {name: _number(value) for name, value in data["metrics"].items()}
            rows = [
                row | {name: _number(row[name]) for name in ("AP", "AP50")}
                for row in data["categories"]
            ]
            return cls(metrics, tuple(CategoryMetrics(**row) for row in rows))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConfigError(f"{run.metrics}: not a valid evaluation ({error!r})") from None


@torch.no_grad()
def detect_all(
    model: Detector,
    batches: Iterable[Batch],
    device: torch.device,
    advance: Callable[[int], None],
    stop: Callable[[], bool] = lambda: False,
) -> dict[int, Detections] | None:
    """Detections in all images, by image id, gathered from all processes.

    None if any process was asked to stop before its last batch.

    Args:
        model: switched to eval mode; the caller sets the mode that it needs afterwards.
        batches: this process's share of the images.
        device: the model's device.
        advance: called with the number of images processed, for a progress bar.
        stop: called before each batch; True stops.
    """
    model.eval()
    found: dict[int, Detections] = {}
    stopped = False
    for batch in batches:
        if stopped := stop():
            break
        detections = model.detect(batch.to(device, non_blocking=True))
        found.update(
            (image_id, d.to("cpu")) for image_id, d in zip(batch.image_ids, detections, strict=True)
        )
        advance(len(batch))
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return None if stopped else found
    own = None if stopped else {i: (d.boxes, d.scores, d.labels) for i, d in found.items()}
    shares: list[dict[int, tuple[Tensor, Tensor, Tensor]] | None] = [None] * dist.get_world_size()
    dist.all_gather_object(shares, own)
    if any(share is None for share in shares):
        return None
    return {i: Detections(*parts) for share in shares for i, parts in (share or {}).items()}


def build_evaluator(
    annotations: AnnotationSet, counts: CategoryCounts | None, config: EvaluationConfig
) -> Evaluator:
    """Build the evaluator of the config's protocol, which reports missing inputs at once.

    Args:
        annotations: ground truth.
        counts: category frequencies in training, for APr/APc/APf; None leaves those out.
        config: protocol and frequency groups.

    Raises:
        ConfigError: the LVIS protocol without LVIS's lists, or that of Open Images without its
            image labels and hierarchy; or ``counts`` of other categories.
    """
    return config.protocol.build(annotations, counts, config.settings)


def try_protocol(
    annotations: AnnotationSet, counts: CategoryCounts | None, config: EvaluationConfig
) -> None:
    """Check before training that the split can be evaluated and the best weights selected.

    A protocol from outside the package evaluates the split without any detections.

    Raises:
        ConfigError: see `build_evaluator`; or the metric that selects the weights is missing.
    """
    evaluator, protocol = build_evaluator(annotations, counts, config), config.protocol
    if protocol.kind in kinds(ProtocolConfig):
        return
    metrics = evaluator.compute()
    if protocol.chooses_by not in metrics:
        raise ConfigError(
            f"evaluation.protocol: {type(protocol).__qualname__} selects weights by "
            f"{protocol.chooses_by!r} (chooses_by), but its metrics are {', '.join(metrics)}"
        )


def measure(
    found: dict[int, Detections],
    annotations: AnnotationSet,
    counts: CategoryCounts | None,
    config: EvaluationConfig,
    advance: Callable[[int], None] = lambda images: None,
) -> Evaluation:
    """Evaluate detections against the ground truth of the same images.

    Args:
        found: detections by image id.
        annotations: ground truth.
        counts: see `build_evaluator`.
        config: see `build_evaluator`.
        advance: called with the number of images matched, for a progress bar.

    Raises:
        ConfigError: see `build_evaluator`.
    """
    evaluator = build_evaluator(annotations, counts, config)
    evaluator.update(list(found.values()), list(found))
    metrics = evaluator.compute(advance)
    return Evaluation(metrics, evaluator.per_category(), config.protocol.chooses_by)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def warn_of_coco(annotations: AnnotationSet, config: EvaluationConfig) -> None:
    """A `HyperfocalWarning` if the COCO protocol evaluates partially annotated images."""
    owner = "lvis" if annotations.federated else "openimages" if annotations.openimages else None
    if isinstance(config.protocol, CocoProtocol) and owner is not None:
        warnings.warn(
            f"{annotations.source} lists the categories verified in each image, but the COCO "
            f"protocol counts every detection of other categories as a false positive; "
            f"--protocol {owner} gives the benchmark's own metrics",
            HyperfocalWarning,
            stacklevel=2,
        )
