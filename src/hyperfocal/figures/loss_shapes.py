"""Figures of the papers that plot loss functions, computed with this package.

Focal-loss paper (Lin et al., ICCV 2017) Figs. 1, 5, 6 and 7; Equalized Focal Loss paper (Li et al.,
CVPR 2022) Fig. 3. All are without alpha, as in the papers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hyperfocal.figures import style
from hyperfocal.figures.export import FigureData
from hyperfocal.figures.run_files import Series
from hyperfocal.figures.table_files import ReproducedTable
from hyperfocal.losses import (
    equalized_focal_loss,
    focal_star_loss,
    sigmoid_cross_entropy,
    sigmoid_focal_loss,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POINTS = 401
FOCAL_GAMMAS = (0.0, 0.5, 1.0, 2.0, 5.0)
RATIOS = (1.0, 0.75, 0.5, 0.25, 0.0)
"""With s = 8 these are γ_v = 0, 2, 4, 6, 8."""
STAR_GAMMAS = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
STAR_BETAS = (-2.0, -1.0, 0.0, 1.0, 2.0)
"""Settings in Fig. 7; the paper doesn't specify its settings."""
STAR_PUBLISHED = ((2.0, 1.0), (4.0, 0.0))
STAR_MARGIN = 0.5
"""Maximum difference to focal loss's AP, in points, at which the paper calls a setting
effective."""

_UNKNOWN: dict[str, Any] = {"color": style.GREY, "linewidth": 0.7, "alpha": 0.6}
_EFFECTIVE: dict[str, Any] = {"color": style.BLUE, "linewidth": 1.2}
_INEFFECTIVE: dict[str, Any] = {"color": style.VERMILLION, "linewidth": 1.2, "linestyle": "--"}
_PUBLISHED: dict[str, Any] = {"color": style.BLUE, "linewidth": 2}

Loss = Callable[[Tensor, Tensor], Tensor]
"""``loss(logits (N, 1), targets (N, 1)) -> (N, 1)``."""


def focal_gamma_figure() -> FigureData:
    """Focal-loss paper, Fig. 1: focal loss against the probability of the true class."""
    p = np.linspace(0.002, 1, POINTS + 1)[:-1]
    x = torch.from_numpy(np.log(p / (1 - p)))
    figure = style.new_figure(5.4, 4.2)
    axes = figure.subplots()
    columns: dict[str, Series] = {"p_t": p}
    colours = style.ordered_colours(len(FOCAL_GAMMAS))
    for gamma, colour in zip(FOCAL_GAMMAS, colours, strict=True):
        values = curve(_focal(gamma), x)[0]
        columns[f"gamma={gamma:g}"] = values
        label = "γ = 0 (cross-entropy)" if gamma == 0 else f"γ = {gamma:g}"
        axes.plot(p, values, color=colour, linewidth=2, label=label)
    axes.axvspan(0.5, 1, color="#f0f0f0", zorder=0)
    axes.text(0.75, 2.2, "well-classified\nexamples", ha="center", fontsize=9)
    axes.set(xlabel="probability of the true class $p_t$", ylabel="loss", xlim=(0, 1), ylim=(0, 5))
    axes.legend(frameon=False)
    style.tidy(axes)
    return FigureData(figure, columns)


def focal_star_figure() -> FigureData:
    """Focal-loss paper, Fig. 5: the loss against x_t, cross-entropy to FL*."""
    return _variants("loss", 0)


def focal_star_slope_figure() -> FigureData:
    """Focal-loss paper, Fig. 6: the derivative with respect to x of the same losses, for y = 1."""
    return _variants("derivative", 1)


def focal_star_sweep_figure(table: ReproducedTable | None = None) -> FigureData:
    """Focal-loss paper, Fig. 7: FL* for many (γ, β), coloured by whether training is effective.

    The paper calls a setting effective if its AP is above 33.5, compared with 34.0 for FL.

    Args:
        table: AP by setting, from `hyperfocal reproduce fl7`. A setting is effective if its AP is
            above that of the row ``fl`` minus 0.5 points. None: the two settings of the paper's
            Table 3 are highlighted, and the others have the same colour.
    """
    x = _x_t(6.0)
    figure = style.new_figure(5.4, 4.2)
    axes = figure.subplots()
    columns: dict[str, Series] = {"x_t": x.numpy(), "CE": curve(sigmoid_cross_entropy, x)[0]}
    ap = {} if table is None else {row.name: row.ours["AP"] for row in table.rows}
    enough = ap.get("fl", math.nan) - STAR_MARGIN
    for gamma in STAR_GAMMAS:
        for beta in STAR_BETAS:
            name, found = f"gamma={gamma:g} beta={beta:g}", ap.get(star_row(gamma, beta), math.nan)
            look = _UNKNOWN
            if not math.isnan(found + enough):
                look = _EFFECTIVE if found > enough else _INEFFECTIVE
                name = f"{name}, AP {found:.1f}"
            elif table is None and (gamma, beta) in STAR_PUBLISHED:
                look = _PUBLISHED
            columns[name] = curve(_star(gamma, beta), x)[0]
            axes.plot(x, columns[name], **look)
    axes.plot(x, columns["CE"], color=style.BLACK, linewidth=2)
    axes.set(xlabel="$x_t$", ylabel="loss", xlim=(-6, 6), ylim=(0, 6))
    looks: dict[str, dict[str, Any]] = {"cross-entropy": {"color": style.BLACK, "linewidth": 2}}
    if table is None:
        looks |= {"FL* (2, 1) and (4, 0)": _PUBLISHED, "γ 1 to 6, β -2 to 2": _UNKNOWN}
    else:
        looks |= {f"AP above {enough:.1f}": _EFFECTIVE, "below": _INEFFECTIVE, "no AP": _UNKNOWN}
    for label, look in looks.items():
        axes.plot([], [], label=label, **look)
    axes.legend(frameon=False)
    style.tidy(axes)
    return FigureData(figure, columns)


def star_row(gamma: float, beta: float) -> str:
    """Name of the row of a setting in the tables that vary it."""
    return f"star-{gamma:g}-{beta:g}"


def weighting_factor_figure() -> FigureData:
    """Equalized Focal Loss paper, Fig. 3: EFL without (a) and with (b) its weighting factor.

    One curve per gradient ratio g, for γ_b = 2 and s = 8: γ_v = 8 (1 - g). Without the factor it is
    focal loss with γ = 2 + γ_v.
    """
    x = _x_t(5.0)
    figure = style.new_figure(8.6, 3.8)
    left, right = figure.subplots(1, 2)
    columns: dict[str, Series] = {"x_t": x.numpy()}
    colours = style.ordered_colours(len(RATIOS))
    for ratio, colour in zip(RATIOS, colours, strict=True):
        gamma = 2 + 8 * (1 - ratio)
        without = curve(_focal(gamma), x)[0]
        whole = curve(_equalized(ratio), x)[0]
        columns[f"without factor, g={ratio:g}"] = without
        columns[f"with factor, g={ratio:g}"] = whole
        label = f"g = {ratio:g}  ($γ_v$ = {gamma - 2:g})"
        left.plot(x, without, color=colour, linewidth=2, label=label)
        right.plot(x, whole, color=colour, linewidth=2)
    left.set(title="(a) without the weighting factor", ylabel="loss")
    right.set(title="(b) with the weighting factor")
    for axes in (left, right):
        axes.set(xlabel="$x_t$", xlim=(-5, 5))
        axes.set_ylim(bottom=0)
        style.tidy(axes)
    left.legend(frameon=False)
    return FigureData(figure, columns)


def curve(loss: Loss, x: Tensor) -> tuple[Series, Series]:
    """Loss and derivative ``(N,)`` of a positive at logits ``(N,)``."""
    x = x.detach().clone().requires_grad_()
    values = loss(x[:, None], torch.ones(len(x), 1, dtype=x.dtype))[:, 0]
    (slope,) = torch.autograd.grad(values.sum(), x)
    return values.detach().numpy(), slope.numpy()


def _variants(what: str, which: int) -> FigureData:
    x = _x_t(5.0)
    variants: dict[str, Loss] = {
        "cross-entropy": sigmoid_cross_entropy,
        "FL γ = 2": _focal(2.0),
        "FL* γ = 2, β = 1": _star(2.0, 1.0),
        "FL* γ = 4, β = 0": _star(4.0, 0.0),
    }
    figure = style.new_figure(5.4, 4.2)
    axes = figure.subplots()
    columns: dict[str, Series] = {"x_t": x.numpy()}
    looks: Sequence[tuple[str, str]] = (
        (style.BLACK, "-"), (style.BLUE, "-"), (style.VERMILLION, "--"), (style.GREEN, "-."),
    )  # fmt: skip
    for (name, loss), (colour, dashes) in zip(variants.items(), looks, strict=True):
        columns[name] = curve(loss, x)[which]
        axes.plot(x, columns[name], color=colour, linestyle=dashes, linewidth=2, label=name)
    axes.set(xlabel="$x_t$", ylabel=what, xlim=(-5, 5))
    _mark_origin(axes)
    axes.legend(frameon=False)
    style.tidy(axes)
    return FigureData(figure, columns)


def _mark_origin(axes: Axes) -> None:
    axes.axvline(0, color=style.GREY, linewidth=0.8, linestyle=":")


def _focal(gamma: float) -> Loss:
    return lambda x, y: sigmoid_focal_loss(x, y, alpha=None, gamma=gamma)


def _equalized(ratio: float) -> Loss:
    return lambda x, y: equalized_focal_loss(x, y, x.new_tensor([ratio]), alpha=None)


def _star(gamma: float, beta: float) -> Loss:
    return lambda x, y: focal_star_loss(x, y, alpha=None, gamma=gamma, beta=beta)


def _x_t(reach: float) -> Tensor:
    return torch.linspace(-reach, reach, POINTS, dtype=torch.float64)
