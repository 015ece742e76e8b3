"""Draw docs/img/loss_*.png: each loss and its gradient against the logit.

Run: python docs/make_loss_plots.py
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from hyperfocal import losses

FOLDER = Path(__file__).parent / "img"
Curve = Callable[[Tensor], Tensor]


def sigmoid_curve(loss: Callable[..., Tensor], label: float = 1, **settings: object) -> Curve:
    """Loss of one logit whose label is 1, 0 or a quality between."""
    return lambda x: loss(x[:, None], torch.full((len(x), 1), label), **settings)[:, 0]


def two_logits(loss: Callable[..., Tensor], *args: object, **settings: object) -> Curve:
    """Loss of the true category's logit against one other at 0."""

    def curve(x: Tensor) -> Tensor:
        logits = torch.stack([x, torch.zeros_like(x)], -1)
        return loss(logits, torch.zeros(len(x)).long(), *args, **settings)

    return curve


def draw(
    name: str,
    curves: dict[str, Curve],
    x_label: str,
    low: float,
    high: float,
    steepest: float | None = None,
) -> None:
    """One picture: values left, derivatives right (up to ``steepest``)."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 2.5), dpi=90, layout="constrained")
    for label, curve in curves.items():
        x = torch.linspace(low, high, 401, dtype=torch.float64, requires_grad=True)
        value = curve(x)
        (grad,) = torch.autograd.grad(value.sum(), x)
        left.plot(x.detach(), value.detach(), label=label, linewidth=1.4)
        right.plot(x.detach(), grad, linewidth=1.4)
    left.set(title="loss", xlabel=x_label)
    right.set(title="gradient", xlabel=x_label)
    if steepest:
        right.set_ylim(-steepest, steepest)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.title.set_fontsize(9)
    left.legend(fontsize=7)
    save(figure, f"loss_{name}.png")


def save(figure: Figure, name: str) -> None:
    """As a palette PNG, a third of the size."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    plt.close(figure)
    Image.open(buffer).convert("RGB").quantize(32).save(FOLDER / name, optimize=True)


def efl(x: Tensor, y: Tensor, ratio: float) -> Tensor:
    """Equalized focal loss of a category with this gradient ratio."""
    return losses.equalized_focal_loss(x, y, torch.tensor([ratio]), alpha=None)


def eqlv2(x: Tensor, y: Tensor, ratio: float) -> Tensor:
    """EQLv2 of a category with this gradient ratio."""
    return losses.equalization_loss_v2(x, y, torch.tensor([ratio]))


def eqlv2_focal(x: Tensor, y: Tensor, ratio: float) -> Tensor:
    """EQLv2 on focal loss of a category with this gradient ratio."""
    return losses.equalization_loss_v2_focal(x, y, torch.tensor([ratio]), alpha=None)


def eqfl(x: Tensor, y: Tensor, ratio: float) -> Tensor:
    """Equalized quality focal loss of a category with this gradient ratio."""
    return losses.equalized_quality_focal_loss(x, y, torch.tensor([ratio]))


def harmonised(x: Tensor, counts: Tensor) -> Tensor:
    """A positive's GHM-C where the bins hold ``counts``, up to a factor."""
    index = (torch.sigmoid(-x.detach()) * len(counts)).long().clamp(max=len(counts) - 1)
    return losses.sigmoid_cross_entropy(x, torch.ones_like(x)) / counts[index]


def box_curve(loss: Callable[..., Tensor], **settings: object) -> Curve:
    """Loss of a unit box moved sideways."""

    def curve(shift: Tensor) -> Tensor:
        target = torch.tensor([0.0, 0, 1, 1], dtype=shift.dtype).expand(len(shift), 4)
        move = torch.tensor([1.0, 0, 1, 0], dtype=shift.dtype)
        return loss(target + shift[:, None] * move, target, **settings)

    return curve


def coordinate(loss: Callable[..., Tensor], **settings: object) -> Curve:
    """Loss of one coordinate whose target is 0."""
    return lambda x: loss(x[:, None], torch.zeros(len(x), 1), **settings)[:, 0]


def main() -> None:
    """Draw them all."""
    FOLDER.mkdir(exist_ok=True)
    ce, focal = losses.sigmoid_cross_entropy, losses.sigmoid_focal_loss
    of_x = "logit x of a positive"
    gammas = {f"γ = {g:g}": sigmoid_curve(focal, alpha=None, gamma=g) for g in (0, 0.5, 1, 2, 5)}
    draw(
        "cross_entropy",
        {
            "positive": sigmoid_curve(ce, 1.0),
            "negative": sigmoid_curve(ce, 0.0),
            "positive, α = 0.75": sigmoid_curve(ce, 1.0, alpha=0.75),
            "negative, α = 0.75": sigmoid_curve(ce, 0.0, alpha=0.75),
        },
        "logit x",
        -5,
        5,
    )
    draw("focal", gammas, of_x, -5, 5)
    draw(
        "focal_star",
        {
            "cross entropy": sigmoid_curve(ce),
            "focal, γ = 2": sigmoid_curve(focal, alpha=None),
            "γ = 2, β = 1": sigmoid_curve(losses.focal_star_loss, alpha=None),
            "γ = 4, β = 0": sigmoid_curve(losses.focal_star_loss, alpha=None, gamma=4.0, beta=0.0),
        },
        of_x,
        -5,
        5,
    )
    draw(
        "hinge",
        {f"margin {m}": sigmoid_curve(losses.hinge_loss, margin=m) for m in (0.5, 1.0)},
        of_x,
        -8,
        5,
    )
    draw(
        "softmax_focal",
        {f"γ = {g:g}": two_logits(losses.softmax_focal_loss, gamma=g) for g in (0, 1, 2, 5)},
        "true logit, the other being 0",
        -5,
        5,
    )
    ratios = (1.0, 0.75, 0.5, 0.0)
    draw(
        "equalized_focal",
        {
            f"{kind}, g = {r:g}": sigmoid_curve(efl, label, ratio=r)
            for kind, label in (("positive", 1.0), ("negative", 0.0))
            for r in (1.0, 0.5, 0.0)
        },
        "logit x",
        -4,
        4,
    )
    draw(
        "eqlv2",
        {f"negative, g = {r:g}": sigmoid_curve(eqlv2, 0.0, ratio=r) for r in ratios}
        | {f"positive, g = {r:g}": sigmoid_curve(eqlv2, 1.0, ratio=r) for r in (1.0, 0.0)},
        "logit x",
        -4,
        4,
    )
    draw(
        "eqlv2_focal",
        {f"negative, g = {r:g}": sigmoid_curve(eqlv2_focal, 0.0, ratio=r) for r in ratios}
        | {f"positive, g = {r:g}": sigmoid_curve(eqlv2_focal, 1.0, ratio=r) for r in (1.0, 0.0)},
        "logit x",
        -4,
        4,
    )
    qualities = (0.0, 0.3, 0.6, 0.9, 1.0)
    by_quality = {
        "quality_focal": losses.quality_focal_loss,
        "varifocal": losses.varifocal_loss,
    }
    for name, loss in by_quality.items():
        draw(name, {f"q = {q:g}": sigmoid_curve(loss, q) for q in qualities}, "logit x", -5, 5)
    cases = [(q, ratio) for q in (0.0, 0.6) for ratio in (1.0, 0.0)]
    draw(
        "equalized_quality_focal",
        {f"q = {q:g}, g = {r:g}": sigmoid_curve(eqfl, q, ratio=r) for q, r in cases},
        "logit x",
        -5,
        5,
    )
    crowd = torch.ones(30, dtype=torch.float64)
    crowd[:3], crowd[-2:] = torch.tensor([40.0, 10, 3]).double(), torch.tensor([3.0, 8]).double()
    draw(
        "ghm",
        {
            "cross entropy": sigmoid_curve(ce),
            "crowded ends": lambda x: harmonised(x, crowd),
        },
        of_x,
        -6,
        6,
    )
    draw(
        "seesaw",
        {
            f"{n_i} of the true, {n_j} of the other": two_logits(
                losses.seesaw_loss, torch.tensor([n_i, n_j])
            )
            for n_i, n_j in ((100, 100), (100, 10), (100, 1), (1, 100))
        },
        "true logit, the other being 0",
        -4,
        4,
    )
    draw(
        "smooth_l1",
        {f"β = {b:g}": coordinate(losses.smooth_l1_loss, beta=b) for b in (0, 0.11, 1)}
        | {"ASL1 of GHM-R, μ = 0.02": lambda x: torch.hypot(x, x.new_tensor(0.02)) - 0.02},
        "error of a coordinate",
        -1.5,
        1.5,
    )
    draw(
        "iou",
        {
            "-log IoU": box_curve(losses.iou_loss),
            "1 - IoU": box_curve(losses.iou_loss, form="linear"),
            "GIoU": box_curve(losses.giou_loss),
        },
        "shift of a box, in box widths",
        -2,
        2,
        steepest=6,
    )
    eta = torch.linspace(0, 1, 201, dtype=torch.float64)
    figure, axes = plt.subplots(figsize=(3.6, 2.8), dpi=90, layout="constrained")
    for gamma, alpha in ((0.0, None), (1.0, None), (2.0, None), (5.0, None), (2.0, 0.25)):
        label = f"γ = {gamma:g}" + (f", α = {alpha}" if alpha else "")
        axes.plot(eta, losses.posterior_from_focal(eta, gamma=gamma, alpha=alpha), label=label)
    axes.set(xlabel="probability trained with focal loss", ylabel="posterior")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    save(figure, "posterior.png")


if __name__ == "__main__":
    main()
