"""The sampler, the learning rate for the batch size, and the length of the schedule."""

from __future__ import annotations

import math

from hyperfocal.data import PlainSampler, category_repeat_factors, epoch_length
from hyperfocal.experiment import Experiment
from hyperfocal.inspection.advise_loss import is_long_tailed
from hyperfocal.inspection.measure import Measurements
from hyperfocal.inspection.proposal import EFL, LVIS, PAPER, Proposal
from hyperfocal.types import AnnotationSet

WORTH_REPEATING = 1.25
"""Repeat factor of the rarest category from which repeat-factor sampling is advised."""

LEAST_STEPS = 500
"""Minimum optimizer steps, even for a small dataset."""

MOST_EPOCHS = 100
"""Epochs after which a small dataset is overfitted, whatever the number of steps."""

LONG_TAIL_EPOCHS, EPOCHS = 24, 12
"""Epochs for long-tailed datasets (EFL's on LVIS) and others (90k steps of 16 COCO images)."""


def advise_sampler(
    experiment: Experiment, measured: Measurements, train: AnnotationSet
) -> Proposal:
    """Repeat-factor sampling with the threshold at LVIS's bound between common and frequent.

    LVIS's own t = 0.001 is a hundred of its 100,170 images, so exactly its rare and common
    categories are repeated. In another dataset the same bound is t = 100 / N. If few categories are
    that frequent, it is the upper quartile of their frequencies: repeating everything would only
    make epochs longer.
    """
    source = f"{LVIS}, section 5: r = max(1, sqrt(t / f)), t = 0.001 on 100,170 images"
    bounds = experiment.evaluation.groups.bounds
    bound = bounds[-1] if bounds else 100
    present = sorted(n for n in measured.counts.images if n)
    quartile = present[len(present) * 3 // 4] if present else bound
    threshold = min(bound, quartile) / measured.images
    factors = category_repeat_factors(measured.counts, threshold)
    most = float(factors.max(initial=1.0))
    if not is_long_tailed(measured) or most < WORTH_REPEATING:
        reason = (
            f"the rarest category has {present[0] if present else 0} of {measured.images} training "
            f"images, the most frequent {measured.ratio:.1f} times as many: nothing to repeat"
        )
        return Proposal("sampler", (), reason, source)
    if experiment.data.sampler.kind != PlainSampler.Config.kind:
        reason = f"keep the sampler you chose, {experiment.data.sampler.kind}"
        return Proposal("sampler", (), reason, source)
    # Rounded down, so that a category with exactly that many images isn't repeated.
    digits = 2 - math.floor(math.log10(threshold))
    shown = math.floor(threshold * 10**digits) / 10**digits
    repeated = int((factors > 1).sum())
    reason = (
        f"{repeated} of {measured.categories} categories are in fewer than {min(bound, quartile)} "
        f"of {measured.images} images; images of the rarest are used {most:.1f} times per epoch"
    )
    return Proposal(
        "sampler", ("--sampler", "rfs", "--sampler.threshold", f"{shown:g}"), reason, source
    )


def advise_lr(experiment: Experiment, original: Experiment) -> Proposal:
    """Scale the learning rate to the batch size: linearly for SGD, by the square root for AdamW."""
    now, then = experiment.train, original.train
    source = (
        f"{PAPER}: 0.01 for 16 images; {EFL}: 0.02 for 16, 1.25e-3 per image; square root for "
        "Adam: Malladi et al., NeurIPS 2022"
    )
    found = f"the recipe's {then.lr:g} is for {then.batch_size} images per step"
    if now.batch_size == then.batch_size:
        return Proposal("learning rate", (), f"{found}, as here: keep {now.lr:g}", source)
    if now.lr != then.lr or now.optimizer != then.optimizer:
        return Proposal("learning rate", (), f"{found}; keep the one you chose, {now.lr:g}", source)
    factor = now.batch_size / then.batch_size
    rule = "linearly" if now.optimizer == "sgd" else "with the square root"
    lr = then.lr * (factor if now.optimizer == "sgd" else math.sqrt(factor))
    reason = f"{found}; it is scaled {rule} to {now.batch_size}"
    return Proposal("learning rate", ("--train.lr", f"{lr:.3g}"), reason, source)


def advise_schedule(
    experiment: Experiment, measured: Measurements, train: AnnotationSet
) -> Proposal:
    """Enough steps for a small dataset, enough epochs for a long tail, and not hundreds of them."""
    config = experiment.train
    length = epoch_length(experiment.data, train)
    per_epoch = length / config.batch_size
    tailed = is_long_tailed(measured)
    source = (
        f"{PAPER}, section 4.1: 90k steps of 16 images, 12.5 epochs of COCO; {EFL}, section 4.1: "
        "24 epochs of the repeated list; small datasets: docs/log.md of this project"
    )
    if config.epochs is not None:
        epochs = config.epochs
    else:
        assert config.iterations is not None
        epochs = config.iterations / per_epoch
    steps = epochs * per_epoch
    found = f"{steps:.0f} steps are {epochs:.1f} epochs of {length:.0f} images"
    wanted = max(LONG_TAIL_EPOCHS if tailed else EPOCHS, LEAST_STEPS / per_epoch)
    wanted = float(math.ceil(min(wanted, MOST_EPOCHS)))
    too_few = epochs < 0.99 * wanted
    too_many = epochs > max(4 * wanted, MOST_EPOCHS)
    if not too_few and not too_many:
        return Proposal("schedule", (), f"{found}: keep it", source)
    flags: tuple[str, ...] = ("--train.epochs", f"{wanted:g}")
    if config.iterations is not None:
        flags = ("--train.iterations", "None", *flags)
    if too_many:
        why = "a dataset of this size is overfitted long before"
    elif tailed and wanted == LONG_TAIL_EPOCHS:
        why = "a long tail needs more epochs, as its rare categories occur seldom in each"
    else:
        why = f"even a small dataset needs about {LEAST_STEPS} steps"
    reason = f"{found}; {why}: {wanted * per_epoch:.0f} steps"
    return Proposal("schedule", flags, reason, source)
