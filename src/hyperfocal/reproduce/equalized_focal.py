"""Tables of the Equalized Focal Loss paper (Li et al., CVPR 2022): 1 to 7."""

from __future__ import annotations

import dataclasses

from hyperfocal.data.synthetic import SyntheticConfig
from hyperfocal.reproduce.table import Exceeds, Row, Table

COLUMNS = ("AP", "APr", "APc", "APf")
BASE = "improved_baseline_r50_lvis"
OI_BASE, OI_RETINANET = "improved_baseline_r50_openimages", "retinanet_r50_openimages"
SETTING = (
    "LVIS v1 train and val; 24 epochs with repeat-factor sampling, 16 images per step; "
    "ResNet-50-FPN from ImageNet; shorter side 640 to 800; one run per row"
)
EFL = ("--loss", "efl")
EQLV2 = ("--loss", "eqlv2_focal")
TWO_STAGE_RECIPE = "faster_rcnn_r50_lvis"
SEESAW = ("--loss", "seesaw")
PRIOR_0_001 = ("--model.roi-head.prior-probability", "0.001")
EQL = ("--loss", "eql", *PRIOR_0_001)
TWO_STAGE_EQLV2 = ("--loss", "eqlv2", *PRIOR_0_001)
CLASSIFIER = ("--train.only", "classifier", "--model.reset-classifier")
CRT = (*CLASSIFIER, "--sampler", "class_balanced", "--train.epochs", "12")
BAGS = (*CLASSIFIER, "--loss", "bags", "--train.epochs", "12")
HALF = ("--train.epochs", "None", "--train.iterations", "540")
"""Length of the second stage at small scale, half of the first one's."""
DECOUPLED = (
    "cRT and BAGS train the classifier of the first row again for 12 epochs, with all else frozen; "
    "the paper's BAGS row doesn't give its schedule."
)
OPEN_IMAGES = "Faster R-CNN on Open Images has no recipe: only published numbers."
R101 = ("--model.backbone.name", "resnet101.tv_in1k")
DEEPER = ("--model.backbone.name", "resnet10t")
"""Replaces ResNet-101 at small scale, where test_resnet replaces ResNet-50."""
BACKBONES = (
    "At small scale timm's test_resnet (0.4 million parameters) and resnet10t (4.9) replace "
    "ResNet-50 and 101."
)

LONG_TAIL = SyntheticConfig(num_categories=60, imbalance=500, train_images=1800, val_images=400)
"""The long-tailed synthetic dataset: 500 training images to 1."""
PRIOR = ("--model.head.prior-probability", "0.05")
"""With this prior the ratios of all 60 categories start below 1; with 0.01 those of 17, and EFL
equals focal loss before it has had an effect (docs/long_tail.md)."""
AT_SMALL_SCALE = "At small scale with a prior of 0.05, with which EFL affects so small a dataset."


def _of(detector: str, *numbers: float) -> Row:
    return Row(detector, (), numbers, recipe=f"{detector}_r50_lvis")


def _with(detector: str, name: str, flags: tuple[str, ...], *numbers: float) -> Row:
    return Row(f"{detector}-{name}", flags, numbers, recipe=f"{detector}_r50_lvis")


def _published(name: str, *numbers: float) -> Row:
    """A row without a recipe."""
    return Row(name, numbers=numbers, runnable=False)


def _two_stage(name: str, flags: tuple[str, ...], *numbers: float) -> Row:
    """Faster R-CNN with a loss, for the backbone that the name begins with."""
    deep, small = (R101, DEEPER) if name.startswith("r101") else ((), ())
    return Row(
        name,
        (*flags, *deep),
        numbers,
        recipe=TWO_STAGE_RECIPE,
        small_flags=(*flags, *small),
        takes_small_flags=False,
    )


def _second_stage(name: str, flags: tuple[str, ...], *numbers: float) -> Row:
    """Decoupled training from the weights of Faster R-CNN with the same backbone."""
    row = _two_stage(name, flags, *numbers)
    backbone = name.partition("-")[0]
    small = (*(row.small_flags or ()), *HALF)
    return dataclasses.replace(row, small_flags=small, after=f"{backbone}-faster-rcnn")


def _on(backbone: str, recipe: str, name: str, flags: tuple[str, ...], *numbers: float) -> Row:
    """A recipe, with flags, for one of two backbones."""
    deep, small = (R101, DEEPER) if backbone == "r101" else ((), ())
    words, small_words = (*flags, *deep), (*flags, *small)
    return Row(f"{backbone}-{name}", words, numbers, recipe=recipe, small_flags=small_words)


def _part(name: str, flags: tuple[str, ...], small: tuple[str, ...], *numbers: float) -> Row:
    """ATSS with EFL and some parts of the improved baseline."""
    return Row(name, (*EFL, *flags), numbers, recipe="atss_r50_lvis", small_flags=(*EFL, *small))


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
        _two_stage("faster-rcnn", (), 24.1, 14.7, 22.2, 30.5),
        _two_stage("faster-rcnn-seesaw", SEESAW, 26.4, 17.5, 25.3, 31.5),
    ),
    claims=tuple(
        Exceeds(f"EQLv2 helps {name} on rare categories", (f"{name}-eqlv2",), (name,), metric="APr")
        for name in ("retinanet", "fcos", "paa", "atss")
    ),
    notes=(AT_SMALL_SCALE,),
)

TABLE_2 = Table(
    name="efl2",
    title="EFL paper, Table 2: EFL and other methods, two backbones",
    recipe=BASE,
    columns=COLUMNS,
    setting=SETTING.replace("ResNet-50-FPN", "ResNet-50 and 101, FPN"),
    small_flags=PRIOR,
    small_set=LONG_TAIL,
    rows=(
        _two_stage("r50-faster-rcnn", (), 24.1, 14.7, 22.2, 30.5),
        _two_stage("r50-eql", EQL, 25.1, 15.7, 24.4, 30.1),
        _two_stage("r50-eqlv2", TWO_STAGE_EQLV2, 25.5, 16.4, 23.9, 31.2),
        _two_stage("r50-seesaw", SEESAW, 26.4, 17.5, 25.3, 31.5),
        _second_stage("r50-crt", CRT, 24.8, 15.9, 23.6, 30.1),
        _second_stage("r50-bags", BAGS, 26.0, 17.2, 24.9, 31.1),
        _on("r50", "retinanet_r50_lvis", "retinanet", (), *RETINANET),
        _on("r50", BASE, "baseline", (), 25.7, 14.3, 23.8, 32.7),
        _on("r50", BASE, "efl", EFL, 27.5, 20.2, 26.1, 32.4),
        _two_stage("r101-faster-rcnn", (), 25.7, 15.1, 24.1, 32.0),
        _two_stage("r101-eqlv2", TWO_STAGE_EQLV2, 26.9, 18.2, 25.4, 32.4),
        _two_stage("r101-seesaw", SEESAW, 27.8, 18.7, 27.0, 32.8),
        _second_stage("r101-bags", BAGS, 27.6, 18.7, 26.5, 32.6),
        _on("r101", "retinanet_r50_lvis", "retinanet", (), 19.6, 10.1, 17.3, 26.2),
        _on("r101", BASE, "baseline", (), 27.0, 14.4, 25.7, 34.0),
        _on("r101", BASE, "efl", EFL, 29.2, 23.5, 27.4, 33.8),
    ),
    claims=tuple(
        Exceeds(f"EFL helps {name}{where}", (f"{name}-efl",), (f"{name}-baseline",), metric=metric)
        for name in ("r50", "r101")
        for metric, where in (("AP", ""), ("APr", " on rare categories"))
    ),
    notes=(DECOUPLED, BACKBONES, AT_SMALL_SCALE),
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

STS = ("--train.warmup-iterations", "6000", "--train.clip-norm", "35")
"""Stable training."""
IB = ("--model.quality.target", "iou")
"""The IoU branch."""
IA = ("--model.anchors.base-scales", "6", "8", "--model.assigner.top-k", "18")
"""More anchors."""
SMALL_STS = ("--train.warmup-iterations", "43", "--train.clip-norm", "35")
NO_SMALL_STS = ("--train.warmup-iterations", "7", "--train.clip-norm", "None")

TABLE_5 = Table(
    name="efl5",
    title="EFL paper, Table 5: the parts of the improved baseline, with EFL",
    recipe="atss_r50_lvis",
    columns=COLUMNS,
    setting=SETTING,
    small_flags=PRIOR,
    small_set=LONG_TAIL,
    rows=(
        _part("atss", (), NO_SMALL_STS, 25.8, 18.1, 24.5, 30.6),
        _part("sts", STS, SMALL_STS, 26.1, 18.6, 24.8, 30.8),
        _part("sts-ib", (*STS, *IB), (*SMALL_STS, *IB), 26.8, 18.7, 25.4, 31.9),
        _part("sts-ia", (*STS, *IA), (*SMALL_STS, *IA), 26.5, 20.0, 24.8, 31.1),
        Row("all", EFL, (27.5, 20.2, 26.1, 32.4), recipe=BASE, small_flags=(*EFL, *SMALL_STS)),
    ),
    claims=(
        Exceeds("stable training helps", ("sts",), ("atss",)),
        Exceeds("the IoU branch helps", ("sts-ib",), ("sts",)),
        Exceeds("more anchors help", ("sts-ia",), ("sts",)),
        Exceeds("both help more than either", ("all",), ("sts-ib", "sts-ia")),
    ),
    notes=(
        "sts: longer warm-up and clipped gradients; ib: an IoU branch instead of centerness; ia: "
        "two anchors per location and 18 candidates per level.",
        "The paper doesn't give the other settings of the rows between; here they are ATSS's. "
        "all is the improved baseline with its released settings, which differ from ATSS's in "
        "more than these parts: the input of P6, no scale per level, weights of the box loss and "
        "its deltas, the product as the score, and suppression.",
        AT_SMALL_SCALE,
        "Warm-ups at small scale are the same fraction of the training as in the paper.",
    ),
)

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

TABLE_7 = Table(
    name="efl7",
    title="EFL paper, Table 7: Open Images",
    recipe=OI_BASE,
    columns=("AP50", "AP1", "AP2", "AP3", "AP4", "AP5"),
    setting=(
        "Open Images Challenge 2019 train and val; AP at IoU 0.5; 180k steps of 16 images; "
        "ResNet-50 and 101, FPN, from ImageNet; shorter side 800; one run per row"
    ),
    small_flags=PRIOR,
    small_set=LONG_TAIL,
    rows=(
        _published("r50-faster-rcnn", 43.1, 26.3, 42.5, 45.2, 48.2, 52.6),
        _on("r50", OI_RETINANET, "retinanet", (), 32.1, 21.0, 34.0, 35.4, 35.6, 34.2),
        _on("r50", OI_BASE, "baseline", (),
            43.3, 19.4, 44.3, 49.5, 50.6, 52.2),
        _on("r50", OI_BASE, "efl", EFL, 51.5, 52.8, 52.9, 50.8, 50.2, 50.9),
        _published("r101-faster-rcnn", 46.0, 29.2, 45.5, 49.3, 50.9, 54.7),
        _on("r101", OI_RETINANET, "retinanet", (), 35.8, 26.4, 38.9, 38.3, 38.1, 36.8),
        _on("r101", OI_BASE, "baseline", (),
            44.7, 19.6, 46.6, 51.1, 52.3, 53.4),
        _on("r101", OI_BASE, "efl", EFL,
            52.6, 53.4, 53.8, 51.4, 51.8, 52.3),
    ),
    claims=tuple(
        Exceeds(f"EFL helps {name}{where}", (f"{name}-efl",), (f"{name}-baseline",), metric=metric)
        for name in ("r50", "r101")
        for metric, where in (("AP50", ""), ("AP1", " on the 100 rarest categories"))
    ),
    notes=(
        OPEN_IMAGES,
        BACKBONES,
        AT_SMALL_SCALE,
        "At small scale with COCO's protocol, which has no AP1 to AP5 (groups of 100 categories).",
    ),
)  # fmt: skip

TABLES = (TABLE_1, TABLE_2, TABLE_3, TABLE_4, TABLE_5, TABLE_6, TABLE_7)
