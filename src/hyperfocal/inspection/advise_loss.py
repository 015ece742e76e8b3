"""The classification loss, and the prior that it starts from."""

from __future__ import annotations

import math

import torch
from torch import nn

from hyperfocal.engine.experiment import Experiment
from hyperfocal.inspection.measure import Measurements
from hyperfocal.inspection.proposal import EFL, PAPER, Proposal
from hyperfocal.losses import EqualizedFocalLoss, SigmoidFocalLoss, first_gradient_ratio
from hyperfocal.losses.alpha import as_number
from hyperfocal.models import as_dense

LARGE_VOCABULARY = 100
"""Categories from which the published gains of EFL are taken to hold (500 and 1203 there)."""

LONG_TAIL = 10.0
"""Most over least frequent category from which a set is long-tailed."""

FEW_BACKGROUND = 10.0
"""Background priors a positive up to which plain cross entropy does."""

GAMMA, ALPHA = 2.0, 0.25

EFL_PRIORS = (0.001, 0.01, 0.02, 0.05)
"""For which a person is told on how many categories EFL acts."""


def is_long_tailed(measured: Measurements) -> bool:
    """Whether some categories are rare: beside others, and in number."""
    return measured.ratio >= LONG_TAIL and measured.scarce > 0


def advise_loss(experiment: Experiment, measured: Measurements) -> Proposal:
    """Focal loss for the imbalance of background and objects; EFL where many categories are rare.

    Focal loss answers the first imbalance only: on LVIS it gives rare categories AP 9.6.
    """
    loss = as_dense(experiment.model).loss
    background = measured.priors / max(measured.positives, 1e-9)
    told = (
        f"{background:.0f} background priors a positive; the most frequent category has "
        f"{measured.ratio:.0f} times the training images of the rarest"
    )
    source = f"{EFL}, Tables 1 and 2 (LVIS: APr 9.6 to 15.2 of RetinaNet); {PAPER}, Table 1b"
    rare = measured.in_group(experiment.evaluation.groups.names[0])
    if (
        measured.categories >= LARGE_VOCABULARY
        and is_long_tailed(measured)
        and rare >= 0.05 * measured.categories
    ):
        reason = f"{told}, and {rare} of {measured.categories} categories are rare"
        if loss.kind in ("efl", "eqfl"):
            return Proposal("loss", (), f"{reason}: keep {loss.kind}", source)
        if loss.kind not in ("focal", "ce"):
            return Proposal("loss", (), f"{reason}: keep the loss you chose, {loss.kind}", source)
        # Its longer warm-up rides out the first, noisy statistics.
        flags = ("--loss", "efl", "--train.warmup-iterations", "6000", "--train.clip-norm", "35")
        reason += (
            ": EFL, whose focus grows for categories that positives rarely reach, with its longer "
            "warm-up and clipping"
        )
        return Proposal("loss", flags, reason, source)
    source = f"{PAPER}, Table 1b (best: gamma 2, alpha 0.25; alpha falls as gamma rises)"
    if loss.kind != "focal":
        return Proposal("loss", (), f"{told}: keep the loss you chose, {loss.kind}", source)
    assert isinstance(loss, SigmoidFocalLoss.Config)
    if background <= FEW_BACKGROUND:
        return Proposal("loss", ("--loss", "ce"), f"{told}: so little needs no focusing", source)
    why = "focal loss"
    if is_long_tailed(measured):
        why += (
            f"; the long tail of {measured.categories} categories is left to the sampler, because "
            "EFL's published gains are on 500 and 1203 categories"
        )
    if loss.gamma == GAMMA and loss.alpha == ALPHA:
        return Proposal("loss", (), f"{told}: {why}, gamma 2 and alpha 0.25 as they are", source)
    best = ("--loss.gamma", f"{GAMMA:g}", "--loss.alpha", f"{ALPHA:g}")
    return Proposal("loss", best, f"{told}: {why} with the settings that were best", source)


def advise_prior(experiment: Experiment, measured: Measurements) -> Proposal:
    """The largest prior of 0.01, 0.001, ... whose background starts below the objects.

    With every probability at π, a loss of the K logits of A priors over P positives starts at A K/P
    times its value at a negative logit, a positive, from the background, and at its value at a
    positive logit from the positives themselves. The loss itself is computed; α-focal loss is
    ``(1 - α) π^γ (-log(1 - π))`` and ``α (1 - π)^γ (-log π)`` there.
    """
    source = f"{PAPER}, sections 3.3 and 4.1; {EFL}, released settings (0.001 for 1203 categories)"
    model = as_dense(experiment.model)
    loss, now = model.loss, model.head.prior
    logits = measured.priors * measured.categories / max(measured.positives, 1.0)
    if not loss.adds_up:
        name = loss.kind or type(loss).__qualname__
        reason = f"{name} is no sum over all logits, which a prior balances: keep {now:g}"
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
        f"at prior {wanted:g} the loss starts with {background:.2g} from the background and "
        f"{positive:.2g} from the objects, a positive"
    )
    flags: tuple[str, ...] = ("--model.head.prior", f"{wanted:g}")
    if wanted >= now or math.isclose(wanted, now):
        if now < wanted:
            reason = f"the recipe's {now:g} is on the safe side of {wanted:g}"
        flags, reason = (), f"{reason}: keep {now:g}"
    if isinstance(loss, EqualizedFocalLoss.Config):
        acts = ", ".join(f"{_below_one(loss, measured, p)} at {p:g}" for p in EFL_PRIORS)
        reason += (
            "; EFL differs from focal loss for categories whose gradient ratio is below 1: of the "
            f"{measured.categories} these are at first, by prior, {acts} (docs/long_tail.md)"
        )
    return Proposal("prior", flags, reason, source)


@torch.no_grad()
def _at_prior(loss: nn.Module, prior: float, k: int) -> tuple[float, float]:
    """Loss of a negative and of a positive logit where all K probabilities are the prior."""
    logits = torch.full((k, k), math.log(prior) - math.log1p(-prior), dtype=torch.float64)
    negative = float(loss(logits[:1], torch.tensor([k]), 1.0)) / k
    objects = float(loss(logits, torch.arange(k), 1.0)) / k  # one of each category
    return negative, objects - (k - 1) * negative


def _below_one(loss: EqualizedFocalLoss.Config, measured: Measurements, prior: float) -> int:
    """Categories with objects whose gradient ratio is below 1 when all probabilities are the prior.

    Every box is taken to have as many positives as the average one.
    """
    boxes = torch.tensor(measured.counts.instances, dtype=torch.float64)
    with_boxes = len(set(measured.table.image.tolist()))
    positives = boxes * measured.positives * with_boxes / max(measured.boxes, 1)
    negatives = measured.priors * measured.images - positives
    alpha = as_number(loss.alpha, len(boxes))
    ratio = first_gradient_ratio(prior, positives, negatives, alpha=alpha, gamma=loss.gamma)
    return int(((ratio < 1) & (boxes > 0)).sum())
