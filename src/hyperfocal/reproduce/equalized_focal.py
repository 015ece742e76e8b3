"""Tables of the Equalized Focal Loss paper (Li et al., CVPR 2022): 1, 3, 4 and 6."""

from __future__ import annotations

from hyperfocal.data.synthetic import SyntheticConfig
from hyperfocal.reproduce.table import Exceeds, Row, Table

COLUMNS = ("AP", "APr", "APc", "APf")
BASE = "improved_baseline_r50_lvis"
SETTING = (
    "LVIS v1 train and val; 24 epochs with repeat-factor sampling, 16 images a step; "
    "ResNet-50-FPN from ImageNet; shorter side 640 to 800; one run a row"
)
EFL = ("--loss", "efl")
EQLV2 = ("--loss", "eqlv2_focal")
TWO_STAGE = "Faster R-CNN and Seesaw are two-stage: published numbers only."

LONG_TAIL = SyntheticConfig(num_categories=60, imbalance=500, train_images=1800, val_images=400)
"""The long-tailed drawn set: 500 training images to 1."""
PRIOR = ("--model.head.prior", "0.05")
"""With it the ratios of all 60 categories start below 1; with 0.01 those of 17, and EFL ends as
focal loss before it has acted (docs/long_tail.md)."""
AT_SMALL_SCALE = "At small scale with a prior of 0.05, at which EFL acts on so small a set."


def _of(detector: str, *numbers: float) -> Row:
    return Row(detector, (), numbers, recipe=f"{detector}_r50_lvis")


def _with(detector: str, name: str, flags: tuple[str, ...], *numbers: float) -> Row:
    return Row(f"{detector}-{name}", flags, numbers, recipe=f"{detector}_r50_lvis")


def _scaled(s: int, *numbers: float) -> Row:
    return Row(f"s={s}", (*EFL, "--loss.scale", str(s)), numbers)


RETINANET = (18.5, 9.6, 16.1, 25.0)
FCOS = (22.6, 12.7, 20.9, 28.9)
PAA = (23.7, 14.2, 21.6, 30.2)

TABLE_1 = Table(
    name="efl1",
    title="EFL paper, Table 1: EQLv2 with focal loss on one-stage detectors",
    recipe="retinanet_r50_lvis",
    columns=COLUMNS,
    setting=SETTING,
    small_flags=PRIOR,
    small_set=LONG_TAIL,
    rows=(
        _of("retinanet", *RETINANET),
        _with("retinanet", "eqlv2", EQLV2, 20.5, 12.6, 19.2, 25.4),
        _of("fcos", *FCOS),
        _with("fcos", "eqlv2", EQLV2, 23.0, 14.1, 21.3, 28.7),
        _of("paa", *PAA),
        _with("paa", "eqlv2", EQLV2, 24.1, 16.5, 22.1, 29.8),
        _of("atss", 24.7, 13.7, 23.4, 31.1),
        _with("atss", "eqlv2", EQLV2, 25.2, 15.0, 24.3, 30.8),
        Row("faster-rcnn", numbers=(24.1, 14.7, 22.2, 30.5), runnable=False),
        Row("faster-rcnn-seesaw", numbers=(26.4, 17.5, 25.3, 31.5), runnable=False),
    ),
    claims=tuple(
        Exceeds(f"EQLv2 helps {name} on rare categories", (f"{name}-eqlv2",), (name,), metric="APr")
        for name in ("retinanet", "fcos", "paa", "atss")
    ),
    notes=(TWO_STAGE, AT_SMALL_SCALE),
)

TABLE_3 = Table(
    name="efl3",
    title="EFL paper, Table 3: weighting and focusing factor",
    recipe=BASE,
    columns=COLUMNS,
    setting=SETTING,
    small_flags=PRIOR,
    small_set=LONG_TAIL,
    rows=(
        Row("neither", (), (25.7, 14.3, 23.8, 32.7)),
        Row("weighting", (*EFL, "--loss.factors", "weighting"), (26.1, 15.6, 24.5, 32.6)),
        Row("focusing", (*EFL, "--loss.factors", "focusing"), (26.2, 17.7, 24.7, 31.5)),
        Row("both", EFL, (27.5, 20.2, 26.1, 32.4)),
    ),
    claims=(
        Exceeds("each factor alone helps", ("weighting", "focusing"), ("neither",), pick="worst"),
        Exceeds("both together beat either", ("both",), ("weighting", "focusing")),
    ),
    notes=(AT_SMALL_SCALE,),
)

TABLE_4 = Table(
    name="efl4",
    title="EFL paper, Table 4: scale factor s",
    recipe=BASE,
    columns=COLUMNS,
    setting=SETTING,
    small_flags=PRIOR,
    small_set=LONG_TAIL,
    rows=(
        _scaled(0, 25.7, 14.3, 23.8, 32.7),
        _scaled(1, 26.3, 16.3, 24.6, 32.6),
        _scaled(2, 26.6, 17.6, 24.6, 32.7),
        _scaled(4, 27.3, 19.9, 25.5, 32.6),
        _scaled(8, 27.5, 20.2, 26.1, 32.4),
        _scaled(12, 26.5, 19.9, 24.6, 31.6),
    ),
    claims=(
        Exceeds(
            "every s above 0 beats focal loss (s = 0)",
            ("s=1", "s=2", "s=4", "s=8", "s=12"), ("s=0",), pick="worst",
        ),
        Exceeds("s = 8 beats s = 12", ("s=8",), ("s=12",)),
        Exceeds("s = 8 beats s = 0 on rare categories", ("s=8",), ("s=0",), metric="APr"),
    ),
    notes=(AT_SMALL_SCALE,),
)  # fmt: skip

TABLE_6 = Table(
    name="efl6",
    title="EFL paper, Table 6: EFL on other one-stage detectors",
    recipe=BASE,
    columns=COLUMNS,
    setting=SETTING,
    small_flags=PRIOR,
    small_set=LONG_TAIL,
    rows=(
        _of("retinanet", *RETINANET),
        _with("retinanet", "efl", EFL, 20.5, 15.2, 18.6, 24.8),
        _of("fcos", *FCOS),
        _with("fcos", "efl", EFL, 23.4, 14.9, 21.9, 28.7),
        _of("paa", *PAA),
        _with("paa", "efl", EFL, 25.6, 19.8, 23.8, 30.2),
        _of("improved_baseline", 25.7, 14.3, 23.8, 32.7),
        _with("improved_baseline", "efl", EFL, 27.5, 20.2, 26.1, 32.4),
    ),
    claims=tuple(
        Exceeds(f"EFL helps {name}{where}", (f"{name}-efl",), (name,), metric=metric)
        for name in ("retinanet", "fcos", "paa", "improved_baseline")
        for metric, where in (("AP", ""), ("APr", " on rare categories"))
    ),
    notes=(AT_SMALL_SCALE,),
)

TABLES = (TABLE_1, TABLE_3, TABLE_4, TABLE_6)
