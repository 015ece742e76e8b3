"""The classification loss and its initial prior."""

from __future__ import annotations

import math

import torch
from torch import nn

from hyperfocal.experiment import Experiment
from hyperfocal.inspection.measure import Measurements
from hyperfocal.inspection.proposal import EFL, PAPER, Proposal
from hyperfocal.losses import EqualizedFocalLoss, SigmoidFocalLoss, first_gradient_ratio
from hyperfocal.losses.alpha import as_number
from hyperfocal.models import as_dense

LARGE_VOCABULARY = 100
"""Number of categories from which the published gains of EFL are assumed (500 and 1203 there)."""

LONG_TAIL = 10.0
"""Ratio of the most to the least frequent category from which a dataset is long-tailed."""

FEW_BACKGROUND = 10.0
"""Background priors per positive up to which plain cross entropy is enough."""

GAMMA, ALPHA = 2.0, 0.25

EFL_PRIORS = (0.001, 0.01, 0.02, 0.05)
"""Priors for which the number of categories that EFL affects is reported."""


def is_long_tailed(measured: Measurements) -> bool:
    """Whether some categories are rare, relative to others and in number of images."""
    return measured.ratio >= LONG_TAIL and measured.scarce > 0


def advise_loss(experiment: Experiment, measured: Measurements) -> Proposal:
    """Focal loss for foreground-background imbalance; EFL if many categories are rare.

    Focal loss only addresses the first imbalance: on LVIS it gives rare categories AP 9.6.
    """
    loss = as_dense(experiment.model).loss
    background = measured.priors / max(measured.positives, 1e-9)
    found = (
        f"{background:.0f} background priors per positive; the most frequent category has "
        f"{measured.ratio:.0f} times the training images of the rarest"
    )
    source = f"{EFL}, Tables 1 and 2 (LVIS: APr 9.6 to 15.2 of RetinaNet); {PAPER}, Table 1b"
    rare = measured.in_group(experiment.evaluation.groups.names[0])
    if (
        measured.categories >= LARGE_VOCABULARY
        and is_long_tailed(measured)
        and rare >= 0.05 * measured.categories
    ):
        reason = f"{found}, and {rare} of {measured.categories} categories are rare"
        if loss.kind in ("efl", "eqfl"):
            return Proposal("loss", (), f"{reason}: keep {loss.kind}", source)
        if loss.kind not in ("focal", "ce"):
            return Proposal("loss", (), f"{reason}: keep the loss you chose, {loss.kind}", source)
        # Its longer warm-up bridges the first, noisy statistics.
        flags = ("--loss", "efl", "--train.warmup-iterations", "6000", "--train.clip-norm", "35")
        reason += (
            ": EFL, which focuses more on categories with few positives, with its longer warm-up "
            "and clipping"
        )
        return Proposal("loss", flags, reason, source)
    source = f"{PAPER}, Table 1b (best: gamma 2, alpha 0.25; alpha falls as gamma rises)"
    if loss.kind != "focal":
        return Proposal("loss", (), f"{found}: keep the loss you chose, {loss.kind}", source)
    assert isinstance(loss, SigmoidFocalLoss.Config)
    if background <= FEW_BACKGROUND:
        return Proposal("loss", ("--loss", "ce"), f"{found}: too few to need focal loss", source)
    why = "focal loss"
    if is_long_tailed(measured):
        why += (
            f"; for the long tail of {measured.categories} categories use the sampler, because "
            "EFL's published gains are on 500 and 1203 categories"
        )
    if loss.gamma == GAMMA and loss.alpha == ALPHA:
        return Proposal("loss", (), f"{found}: {why}, keep gamma 2 and alpha 0.25", source)
    best = ("--loss.gamma", f"{GAMMA:g}", "--loss.alpha", f"{ALPHA:g}")
    return Proposal("loss", best, f"{found}: {why} with the best settings", source)


def advise_prior(experiment: Experiment, measured: Measurements) -> Proposal:
    """The largest prior of 0.01, 0.001, ... for which background's initial loss is the smaller one.

    With every probability at π, a loss of the K logits of A priors and P positives starts, per
    positive, at A K/P times its value for a negative logit from the background, and at its value
    for a positive logit from the positives. The loss itself is computed; α-focal loss is
    ``(1 - α) π^γ (-log(1 - π))`` and ``α (1 - π)^γ (-log π)`` there.
    """
    source = f"{PAPER}, sections 3.3 and 4.1; {EFL}, released settings (0.001 for 1203 categories)"
    model = as_dense(experiment.model)
    loss, now = model.loss, model.head.prior_probability
    logits = measured.priors * measured.categories / max(measured.positives, 1.0)
    if not loss.adds_up:
        name = loss.kind or type(loss).__qualname__
        reason = f"{name} isn't a sum over all logits that a prior balances: keep {now:g}"
        return Proposal("prior", (), reason, source)
    module = loss.build(measured.categories, measured.counts).eval()

    def starts(prior: float) -> tuple[float, float]:
        negative, positive = _at_prior(module, prior, measured.categories)
        return logits * negative, positive

    wanted = 0.01
    while wanted > 1e-5 and starts(wanted)[0] > starts(wanted)[1]:
        wanted /= 10
    efl = isinstance(loss, EqualizedFocalLoss.Config)
    if efl and measured.categories >= LARGE_VOCABULARY:
        wanted = min(wanted, 0.001)
    background, positive = starts(wanted)
    reason = (
        f"with prior {wanted:g} the initial loss per positive is {background:.2g} from the "
        f"background and {positive:.2g} from the objects"
    )
    flags: tuple[str, ...] = ("--model.head.prior-probability", f"{wanted:g}")
    if wanted >= now or math.isclose(wanted, now):
        if now < wanted:
            reason = f"the recipe's {now:g} is on the safe side of {wanted:g}"
        flags, reason = (), f"{reason}: keep {now:g}"
    if isinstance(loss, EqualizedFocalLoss.Config):
        acts = ", ".join(f"{_below_one(loss, measured, p)} at {p:g}" for p in EFL_PRIORS)
        reason += (
            "; EFL differs from focal loss for categories with a gradient ratio below 1; their "
            f"initial number, of {measured.categories}, by prior: {acts} (docs/long_tail.md)"
        )
    return Proposal("prior", flags, reason, source)


@torch.no_grad()
def _at_prior(loss: nn.Module, prior: float, k: int) -> tuple[float, float]:
    """Loss of a negative and of a positive logit if all K probabilities are the prior."""
    logits = torch.full((k, k), math.log(prior) - math.log1p(-prior), dtype=torch.float64)
    negative = float(loss(logits[:1], torch.tensor([k]), 1.0)) / k
    objects = float(loss(logits, torch.arange(k), 1.0)) / k  # one of each category
    return negative, objects - (k - 1) * negative


def _below_one(loss: EqualizedFocalLoss.Config, measured: Measurements, prior: float) -> int:
    """Categories with objects whose gradient ratio is below 1 if all probabilities are the prior.

    Assumes that every box has the mean number of positives.
    """
    boxes = torch.tensor(measured.counts.instances, dtype=torch.float64)
    with_boxes = len(set(measured.table.image.tolist()))
    positives = boxes * measured.positives * with_boxes / max(measured.boxes, 1)
    negatives = measured.priors * measured.images - positives
    alpha = as_number(loss.alpha, len(boxes))
    ratio = first_gradient_ratio(prior, positives, negatives, alpha=alpha, gamma=loss.gamma)
    return int(((ratio < 1) & (boxes > 0)).sum())
