"""Evaluate a run with every protocol, on all processes of torchrun.

python -m torch.distributed.run --nproc-per-node 2 evaluate_on_ranks.py RUN FILES OUT
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist

from hyperfocal.data import eval_batches, read_annotations
from hyperfocal.data.formats.openimages_split import OpenImagesFiles
from hyperfocal.engine.evaluate import detect_all, measure
from hyperfocal.engine.predict import load
from hyperfocal.runs.folder import RunFolder


def evaluate(run: Path, files: Path, rank: int = 0, world_size: int = 1) -> dict[str, dict]:
    """Metrics by protocol."""
    folder = RunFolder(run)
    experiment, trained = folder.read_experiment(), folder.read_categories()
    model = load(run, "cpu")
    lists = OpenImagesFiles(files / "classes.csv", files / "labels.csv", files / "tree.json")
    found = {}
    for protocol in ("coco", "lvis", "openimages"):
        is_csv = protocol == "openimages"
        annotations = read_annotations(
            files / ("boxes.csv" if is_csv else "val.json"),
            files / "val",
            categories=trained.categories,
            openimages=lists if is_csv else OpenImagesFiles(),
        )
        batches = eval_batches(
            experiment.data, annotations, batch_size=3, rank=rank, world_size=world_size
        )
        detections = detect_all(model.detector, batches, torch.device("cpu"), lambda n: None)
        config = replace(experiment.evaluation, protocol=protocol)
        found[protocol] = measure(detections, annotations, trained.counts, config).metrics
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    metrics = evaluate(*map(Path, sys.argv[1:3]), dist.get_rank(), dist.get_world_size())
    if dist.get_rank() == 0:
        Path(sys.argv[3]).write_text(json.dumps(metrics))
    dist.destroy_process_group()
