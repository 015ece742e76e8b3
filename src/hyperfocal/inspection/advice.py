"""Settings that suit the data, each with flags for `hyperfocal train`, a reason and its source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hyperfocal.config import override
from hyperfocal.config.by_category import with_categories
from hyperfocal.experiment import Experiment
from hyperfocal.inspection.advise_anchors import advise_anchors
from hyperfocal.inspection.advise_loss import advise_loss, advise_prior
from hyperfocal.inspection.advise_schedule import advise_lr, advise_sampler, advise_schedule
from hyperfocal.inspection.advise_size import advise_size
from hyperfocal.inspection.advise_start import advise_start
from hyperfocal.inspection.anchors import measure_fit
from hyperfocal.inspection.examine import Examination
from hyperfocal.inspection.measure import Measurements, measure, with_imbalance
from hyperfocal.inspection.proposal import Proposal
from hyperfocal.models import DenseConfig
from hyperfocal.names import command


@dataclass(frozen=True)
class Advice:
    """All proposals for a dataset and a recipe.

    Attributes:
        recipe: name or path of the recipe.
        measured: the statistics behind them.
        proposals: one per topic.
        experiment: the recipe with the user's flags and the proposals.
        given: the user's flags, which come first in the command.
    """

    recipe: str
    measured: Measurements
    proposals: tuple[Proposal, ...]
    experiment: Experiment
    given: tuple[str, ...]

    @property
    def flags(self) -> tuple[str, ...]:
        """The flags of all proposals, as words."""
        return tuple(word for proposal in self.proposals for word in proposal.flags)

    @property
    def command(self) -> str:
        """The command that trains with the proposals."""
        return command("hyperfocal", "train", self.recipe, *self.given, *self.flags)

    def as_json(self) -> dict[str, Any]:
        """As JSON-serializable values."""
        m = self.measured
        return {
            "recipe": self.recipe,
            "measured": {
                "categories": m.categories,
                "images": m.images,
                "boxes": m.boxes,
                "most_to_least_frequent": m.ratio,
                "priors_per_image": m.priors,
                "positives_per_image": m.positives,
            },
            "proposals": [
                {"topic": p.topic, "flags": list(p.flags), "reason": p.reason, "source": p.source}
                for p in self.proposals
            ],
            "command": self.command,
        }


def advise(
    found: Examination, original: Experiment, recipe: str, given: Sequence[str] = ()
) -> Advice | None:
    """Propose settings; None if no training split could be read.

    Image size comes first, because anchors are measured after the resize; the sampler comes before
    the schedule, because it makes epochs longer.

    Args:
        found: the examination, with the user's flags in its experiment.
        original: the recipe without them.
        recipe: its name.
        given: the user's flags, as words.
    """
    if found.train is None:
        return None
    train = found.train
    experiment = with_categories(found.experiment, train.categories)
    measured = measure(experiment, train, found.fit)
    proposals: list[Proposal] = []

    def adopt(proposal: Proposal) -> None:
        nonlocal experiment
        proposals.append(proposal)
        if proposal.flags:
            experiment = override(experiment, proposal.flags, prog="doctor")

    adopt(advise_start(experiment, measured))
    adopt(advise_size(experiment, measured))
    if proposals[-1].flags:
        measured = measure(experiment, train, measure_fit(experiment, train))
    if isinstance(experiment.model, DenseConfig):
        adopt(advise_anchors(experiment, measured))
        if proposals[-1].flags:
            measured = measure(experiment, train, measure_fit(experiment, train))
        measured = with_imbalance(experiment, measured)
        adopt(advise_loss(experiment, measured))
        adopt(advise_prior(experiment, measured))
    adopt(advise_sampler(experiment, measured, train))
    adopt(advise_lr(experiment, original))
    adopt(advise_schedule(experiment, measured, train))
    return Advice(recipe, measured, tuple(proposals), experiment, tuple(given))
