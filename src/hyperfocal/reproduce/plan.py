"""Plans the trainings of a table from the user's flags."""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hyperfocal.config import override
from hyperfocal.data.synthetic import SyntheticConfig
from hyperfocal.experiment import Experiment
from hyperfocal.models import Backbone, DenseConfig, FasterRCNN
from hyperfocal.recipes import load_recipe
from hyperfocal.reproduce.runs import Job
from hyperfocal.reproduce.table import Row, Table
from hyperfocal.types import ConfigError

SMALL = shlex.split("--model.backbone.name test_resnet --train.epochs None --train.evaluations 1")
"""A network that is about as accurate as the demo's after 600 steps, in half the time: for one seed
AP 28.1 in 98 s on one thread, against 29.0 in 189 s with its resnet10t."""
STEPS_PER_IMAGE = 0.6
"""4.8 epochs of the synthetic dataset; 600 of the demo's 1500 steps."""


@dataclass(frozen=True)
class Plan:
    """The runs of a table.

    Attributes:
        table: which one.
        recipe: instead of the table's; None: the rows' own.
        scale: full: the table's image size and backbones; small: those of the recipe.
        flags: for every run.
        out: folder of all runs.
        synthetic: the dataset to generate; None: the user's data, which is in ``flags``.
    """

    table: Table
    recipe: str | None
    scale: Literal["full", "small"]
    flags: tuple[str, ...]
    out: Path
    synthetic: SyntheticConfig | None

    def words(self, row: Row, seed: int) -> tuple[str, ...]:
        """Arguments of `hyperfocal train`; the row's flags come last to take precedence."""
        small = self.scale == "small"
        recipe = self.recipe or row.recipe or self.table.recipe
        base = self.table.flags
        if self.recipe is not None:  # the recipe's sizes; such tables compare detectors
            detector, _, data = (row.recipe or self.table.recipe).partition("_r50_")
            base = ("--model", detector) if data in ("lvis", "openimages") else ()
        special = self.table.small_flags if small and row.takes_small_flags else ()
        own = row.small_flags if small and row.small_flags is not None else row.flags
        start = () if row.after is None else ("--model.weights", str(self.folder(row.after, seed)))
        words = (*base, *self.data, *special, *self.flags, *start, *own)
        return (recipe, *words, "--seed", str(seed))

    def folder(self, row: str, seed: int) -> Path:
        """The run folder of a row's training."""
        return self.out / f"{row}-{seed}"

    @property
    def data(self) -> tuple[str, ...]:
        """Flags for the synthetic dataset, its image size, and for making runs short."""
        if self.synthetic is None:
            return ()
        folder, size = self.out / "data", str(self.synthetic.image_size)
        steps = round(STEPS_PER_IMAGE * self.synthetic.train_images)
        slim = [*SMALL, "--train.iterations", str(steps)]
        words = slim if self.recipe == "demo" else []
        for split in ("train", "val"):
            words += [f"--data.{split}.annotations", str(folder / f"{split}.json")]
            words += [f"--data.{split}.images", str(folder / split)]
            words += [f"--data.{split}-transform.{side}={size}" for side in ("short", "long")]
        return tuple(words)

    def jobs(self, rows: Sequence[Row], seeds: Sequence[int]) -> list[Job]:
        """All trainings, seed by seed, so that finished runs can be compared at any time.

        Args:
            rows: the rows, and those that they start from (`with_first_stages`).
            seeds: the seeds.
        """
        found: dict[tuple[str, int], Job] = {}
        for seed in seeds:
            for row in sorted(rows, key=lambda row: row.after is not None):
                after = None if row.after is None else found[row.after, seed]
                words = self.words(row, seed)
                job = Job(row.name, seed, self.folder(row.name, seed), words, after)
                found[row.name, seed] = job
        return [found[row.name, seed] for seed in seeds for row in rows]

    def experiment(self, row: Row, seed: int = 0) -> Experiment:
        """The row's settings, checked.

        Raises:
            ConfigError: a recipe, setting or annotation file that doesn't exist.
        """
        recipe, *flags = self.words(row, seed)
        experiment = override(load_recipe(recipe), flags, prog=f"hyperfocal train {recipe}")
        for name in ("train", "val"):
            path = getattr(experiment.data, name).annotations
            if path is None:
                raise ConfigError(
                    f"no {name} data: give --data.{name}.annotations F --data.{name}.images D, or "
                    "only --scale small, which generates a dataset"
                )
            if self.synthetic is None and not path.exists():
                raise ConfigError(f"--data.{name}.annotations {path}: no such file or folder")
        return experiment


def with_first_stages(table: Table, rows: Sequence[Row]) -> list[Row]:
    """The rows in the table's order, with the rows whose weights they start from."""
    names = {row.name for row in rows} | {row.after for row in rows}
    return [row for row in table.rows if row.name in names]


def synthetic_set(base: SyntheticConfig, imbalance: float) -> SyntheticConfig:
    """A table's dataset, with ``imbalance`` times as many background anchors per positive.

    Images get larger and objects keep their number and size in pixels, so that the anchors around
    objects stay the same and the background grows with the area.

    Raises:
        ConfigError: below 1, or too large for an image.
    """
    if not 1 <= imbalance <= 100:
        raise ConfigError(f"--imbalance {imbalance:g}, but it must be from 1 (unchanged) to 100")
    size = math.ceil(base.image_size * math.sqrt(imbalance) / 32) * 32
    shrink = base.image_size / size
    return dataclasses.replace(
        base,
        image_size=size,
        min_object=base.min_object * shrink,
        max_object=base.max_object * shrink,
    )


def setting(experiment: Experiment, plan: Plan) -> dict[str, str]:
    """Our setting in words, to compare with the paper's."""
    data, train = experiment.data, experiment.train
    model = experiment.model
    backbone = model.backbone if isinstance(model, DenseConfig | FasterRCNN.Config) else None
    name, pretrained = type(backbone or model).__qualname__, False
    if isinstance(backbone, Backbone.Config):
        name, pretrained = backbone.name, backbone.pretrained
    transform = data.train_transform
    length = f"{train.iterations} steps" if train.iterations else f"{train.epochs:g} epochs"
    initial = "its initial weights" if pretrained else "random weights"
    made = plan.synthetic
    source = (
        f"synthetic, {made.train_images} training and {made.val_images} val images of "
        f"{made.image_size} pixels, {made.num_categories} categories"
        if made is not None
        else f"{data.train.annotations}, {data.val.annotations}"
    )
    return {
        "data": source,
        "recipe": plan.recipe or plan.table.recipe,
        "schedule": f"{length} of {train.batch_size} images, {train.optimizer}, lr {train.lr:g}",
        "backbone": f"{name} from {initial}",
        "image size": f"shorter side {transform.short}, longer at most {transform.long}",
        "sampler": data.sampler.kind,
    }
