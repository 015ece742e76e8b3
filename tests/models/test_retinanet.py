from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.close import assert_near
from tests.components import LOSSES, kind_of
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hyperfocal import config as configs
from hyperfocal.losses import (
    EqualizedFocalLoss,
    GIoULoss,
    LossWithMemory,
    QualityFocalLoss,
    SigmoidCrossEntropyLoss,
    SigmoidFocalLoss,
    SmoothL1Loss,
    sigmoid_focal_loss,
    step_losses,
)
from hyperfocal.losses._core import checks
from hyperfocal.models import Backbone, DenseHead, PixelNorm, RetinaNet
from hyperfocal.models.pixels import padding
from hyperfocal.ops import box_iou, decode_deltas, encode_deltas
from hyperfocal.types import Batch, CategoryCounts, ConfigError, Target

Build = Callable[..., RetinaNet]


def gradients(model: RetinaNet) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


# ------------------------------------------------------------------ the loss


def test_loss_is_the_formula(small: Build, batch: Batch) -> None:
    """Focal loss of all but ignored anchors and L1 of the positives, over their number."""
    # A prior at which the few ignored anchors would show in the sum.
    head = DenseHead.Config(depth=1, prior_probability=0.3)
    model = small(head=head, box_loss=SmoothL1Loss.Config(beta=0.0), box_weight=0.7).eval()
    terms = model(batch)
    assignment, priors = (
        model.criterion.assigner(model.priors(batch), batch.targets),
        model.priors(batch),
    )
    output = model.head(model.features(batch))
    assert (assignment.labels == -1).sum(dim=1)[:2].min() > 20
    classification = box = 0.0
    count = 0
    for b, target in enumerate(batch.targets):
        for a, label in enumerate(assignment.labels[b].tolist()):
            if label == -1:
                continue
            one_hot = F.one_hot(torch.tensor(label), 5)[:4]
            if label < 4:
                count += 1
                gt = target.boxes[assignment.gt_index[b, a]]
                wanted = encode_deltas(gt, priors.boxes[a])
                box += (output.box[b, a] - wanted).abs().sum().item()
                classification += sigmoid_focal_loss(
                    output.cls[b, a], one_hot.float(), reduction="sum"
                ).item()
        background = assignment.labels[b] == 4
        zeros = torch.zeros(int(background.sum()), 4)
        classification += sigmoid_focal_loss(
            output.cls[b][background], zeros, reduction="sum"
        ).item()
    assert count == terms.positives.item() > 3
    assert terms["classification"].item() == pytest.approx(classification / count, rel=1e-4)
    assert terms["box"].item() == pytest.approx(0.7 * box / count, rel=1e-4)
    assert terms.total.item() == pytest.approx((terms["classification"] + terms["box"]).item())


@pytest.mark.parametrize("kind", ["global", "per_image", "ema"])
def test_micro_batches_give_the_gradients_of_the_whole(
    small: Build, batch: Batch, kind: str
) -> None:
    whole = small(divisor=kind)
    whole.backbone.eval()  # running batch norms see the micro-batch; nothing else may
    parts = copy.deepcopy(whole)
    total = whole(batch).total
    total.backward()
    z = parts.divisors(batch)
    assert z.shape == (3, 2)
    pieces = [parts.loss_terms(batch[part], z[part]).total for part in (slice(0, 2), slice(2, 3))]
    sum(pieces).backward()
    torch.testing.assert_close(sum(pieces), total)
    for name, grad in gradients(whole).items():
        assert_near(gradients(parts)[name], grad, of_largest=1e-5)
    if kind == "ema":
        assert torch.equal(whole.criterion.divisors.average, parts.criterion.divisors.average)


def test_the_normaliser_doesnt_run_the_network(small: Build, batch: Batch) -> None:
    model = small()
    model.backbone.forward = model.neck.forward = model.head.forward = None  # type: ignore[assignment]
    positives = model.criterion.assigner(model.priors(batch), batch.targets).positives(4).sum()
    assert model.divisors(batch).tolist() == [[positives.item()] * 2] * 3


def test_images_without_boxes_train(small: Build, batch: Batch) -> None:
    """Finite loss, and a gradient for everything that DDP waits for."""
    empty = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
    model = small()
    terms = model(dataclasses.replace(batch, targets=(empty,) * 3))
    assert terms["box"].item() == 0 == terms.positives.item()
    terms.total.backward()
    for name, grad in gradients(model).items():
        assert grad is not None, name
        assert grad.isfinite().all(), name
    assert gradients(model)["head.cls_logits.weight"].abs().sum() > 0


@pytest.mark.parametrize("box_loss", [SmoothL1Loss.Config(), GIoULoss.Config()])
def test_bfloat16_autocast_is_close_to_float32(
    small: Build, batch: Batch, box_loss: configs.Config
) -> None:
    model = small(box_loss=box_loss)
    full = model(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model(batch)
    assert half.total.dtype == torch.float32
    torch.testing.assert_close(half["classification"], full["classification"], rtol=0.02, atol=0)
    torch.testing.assert_close(half["box"], full["box"], rtol=0.02, atol=0)
    half.total.backward()
    assert all(g.isfinite().all() for g in gradients(model).values())


@pytest.mark.parametrize("prior", [1e-6, 0.01, 0.5])
def test_every_anchor_starts_with_the_prior(small: Build, batch: Batch, prior: float) -> None:
    model = small(head=DenseHead.Config(depth=1, prior_probability=prior))
    scores = model.head(model.features(batch)).cls.sigmoid()
    assert scores.mean().item() == pytest.approx(prior, rel=0.05)
    terms = model(batch)
    terms.total.backward()
    assert terms.total.isfinite()
    assert all(g.isfinite().all() for g in gradients(model).values())


def test_prior_keeps_cross_entropy_small_at_the_start(small: Build, batch: Batch) -> None:
    """Background alone: -ln(1 - 0.01) a logit instead of -ln(1 - 0.5), a 69th."""
    empty = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
    batch = dataclasses.replace(batch, targets=(empty,) * 3)
    losses = {}
    for prior in (0.01, 0.5):
        head = DenseHead.Config(depth=1, prior_probability=prior)
        model = small(head=head, loss=SigmoidCrossEntropyLoss.Config())
        losses[prior] = model(batch)["classification"].item()
    assert losses[0.5] / losses[0.01] == pytest.approx(math.log(0.5) / math.log(0.99), rel=0.05)


@pytest.mark.parametrize("settings", LOSSES, ids=kind_of)
@pytest.mark.parametrize("kind", ["global", "per_image"])
def test_every_loss_trains_and_takes_its_step(
    small: Build, batch: Batch, settings: type[configs.Config], kind: str
) -> None:
    counts = CategoryCounts(images=(50, 5, 2, 1), instances=(90, 7, 3, 1), num_images=60)
    model = small(loss=settings(), divisor=kind, counts=counts)
    before = copy.deepcopy(model.loss.state_dict())
    for _ in range(2):
        terms = model(batch)
        terms.total.backward()
        model.step()
        assert terms["classification"].isfinite()
        assert all(g.isfinite().all() for g in gradients(model).values())
    assert gradients(model)["head.cls_logits.weight"].abs().sum() > 0
    if isinstance(model.loss, LossWithMemory):
        after = {n: v for n, v in model.loss.state_dict().items() if "pending" not in n}
        assert any(not value.equal(before[name]) for name, value in after.items())


def test_quality_losses_aim_at_the_iou_of_the_predicted_boxes(small: Build, batch: Batch) -> None:
    model = small(loss=QualityFocalLoss.Config()).eval()
    seen = {}
    model.loss.forward = lambda logits, labels, z, quality: seen.update(quality=quality) or z.sum()
    model(batch)
    assignment, anchors = (
        model.criterion.assigner(model.priors(batch), batch.targets),
        model.priors(batch).boxes,
    )
    deltas = model.head(model.features(batch)).box
    expected = torch.zeros(assignment.labels.shape)
    for b, target in enumerate(batch.targets):
        for a in (assignment.positives(4)[b]).nonzero().flatten().tolist():
            box = decode_deltas(deltas[b, a], anchors[a])
            gt = target.boxes[assignment.gt_index[b, a]]
            expected[b, a] = box_iou(box[None], gt[None])
    assert (expected > 0).sum() > 3
    torch.testing.assert_close(seen["quality"].view_as(expected), expected)
    assert not seen["quality"].requires_grad


@pytest.mark.parametrize("kind", ["global", "per_image"])
@pytest.mark.parametrize("settings", [SigmoidFocalLoss.Config(), EqualizedFocalLoss.Config()])
def test_streaming_the_categories_changes_nothing(
    small: Build, batch: Batch, kind: str, settings: configs.Config
) -> None:
    head = DenseHead.Config(depth=1, prior_probability=0.2)
    whole, parts = (
        small(num_classes=300, head=head, loss=settings, divisor=kind, stream_from=n)
        for n in (10**6, 1000)
    )
    assert parts.streams
    assert not whole.streams
    for model in (whole, parts):
        for _ in range(2):  # the second time with the statistics of the first
            model.zero_grad()
            model(batch).total.backward()
            model.step()
    for name, grad in gradients(whole).items():
        assert_near(gradients(parts)[name], grad, of_largest=1e-4)
    for a, b in zip(whole.loss.buffers(), parts.loss.buffers(), strict=True):
        assert_near(b, a)
    for a, b in zip(whole.eval().detect(batch), parts.eval().detect(batch), strict=True):
        assert len(a) == 100
        torch.testing.assert_close(a.scores, b.scores, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(a.boxes.sum(0), b.boxes.sum(0), rtol=1e-3, atol=1e-1)


class LabelSmoothed(SigmoidFocalLoss):
    """A user's loss: overrides ``forward`` alone."""

    def forward(self, logits: Tensor, targets: Tensor, normalizer: float | Tensor = 1.0) -> Tensor:
        soft = F.one_hot(targets.clamp(min=0), logits.shape[-1] + 1)[..., :-1] * 0.9 + 0.02
        soft = soft.where((targets >= 0)[..., None], 0.0)
        entropy = F.binary_cross_entropy_with_logits(logits, soft, reduction="none")
        return entropy.sum() / normalizer


def test_a_loss_that_overrides_forward_is_called_with_any_number_of_categories(
    small: Build, batch: Batch
) -> None:
    """Its gradients are used, though the loss that it derives from could be streamed."""
    found = []
    for stream_from in (10**6, 1000):
        model = small(num_classes=300, stream_from=stream_from)
        model.criterion.loss = LabelSmoothed()
        model(batch).total.backward()
        found.append(gradients(model)["head.cls_logits.weight"])
    assert model.streams
    torch.testing.assert_close(found[1], found[0])
    model = small(num_classes=300, stream_from=1000)
    model(batch).total.backward()
    focal = gradients(model)["head.cls_logits.weight"]
    assert (found[1] - focal).abs().max() > 0.1 * focal.abs().max()


def test_stepping_the_losses_of_a_detector_steps_each_once(small: Build) -> None:
    stepped = small(loss=EqualizedFocalLoss.Config())
    times: list[int] = []
    stepped.loss.step = lambda: times.append(1)
    step_losses(stepped)
    assert len(times) == 1
    stepped.step()
    assert len(times) == 2


def test_a_box_loss_has_to_declare_what_it_compares() -> None:
    with pytest.raises(ConfigError, match=r"Undeclared.*BoxLoss"):
        RetinaNet(3, backbone=Backbone.Config("test_resnet", False), box_loss=Undeclared())


class Undeclared(torch.nn.Module):
    on_boxes = False


@pytest.mark.slow
def test_overfits_four_synthetic_images(four_images: Callable[[], Batch]) -> None:
    """Every object is found with a confident score."""
    batch = four_images()
    torch.manual_seed(0)
    model = RetinaNet.Config(
        backbone=Backbone.Config("resnet18", pretrained=False, norm="train"),
        neck=dataclasses.replace(RetinaNet.Config().neck, channels=64),
        head=DenseHead.Config(depth=2, norm="gn"),
    ).build(3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(80):
        loss = model(batch).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.1 * sum(losses[:10])
    with torch.no_grad():  # bring the running statistics to the weights as they are now
        for _ in range(20):
            model(batch)
    for found, target in zip(model.eval().detect(batch), batch.targets, strict=True):
        iou = box_iou(target.boxes * 2, found.boxes)  # the original is twice the size
        right = (iou > 0.5) & (found.labels == target.labels[:, None]) & (found.scores > 0.5)
        assert right.any(dim=1).all()


# ------------------------------------------------------------------ detections


def test_detections_are_within_the_original_image_best_first(small: Build, batch: Batch) -> None:
    model = small(head=DenseHead.Config(depth=1, prior_probability=0.5)).eval()
    for found, (height, width) in zip(model.detect(batch), batch.original_hw.tolist(), strict=True):
        assert len(found) == 100
        assert (found.scores.diff() <= 0).all()
        assert found.boxes.min() >= 0
        assert found.boxes[:, 0::2].max() <= width
        assert found.boxes[:, 1::2].max() <= height


def test_detections_scale_with_the_original(small: Build, batch: Batch) -> None:
    model = small(head=DenseHead.Config(depth=1, prior_probability=0.5)).eval()
    same = dataclasses.replace(batch, original_hw=batch.valid_hw)
    for a, b in zip(model.detect(same), model.detect(batch), strict=True):
        assert len(a) == 100
        torch.testing.assert_close(a.boxes * 2, b.boxes)


def test_padding_changes_nothing_but_what_convolutions_see_of_it(
    small: Build, batch: Batch
) -> None:
    """Whatever is in the padding is the same as zeros after normalisation."""
    model = small(head=DenseHead.Config(depth=1, prior_probability=0.5)).eval()
    loud = batch.images.clone()
    loud[2, :, 88:] = 255
    loud[2, :, :, 112:] = 255
    changed = dataclasses.replace(batch, images=loud)
    for a, b in zip(model.detect(batch), model.detect(changed), strict=True):
        assert len(a) == 100
        assert torch.equal(a.boxes, b.boxes)


def test_sizes_that_32_doesnt_divide(small: Build, batch: Batch) -> None:
    model = small(head=DenseHead.Config(depth=1, prior_probability=0.5)).eval()
    valid = batch.valid_hw.clamp(max=torch.tensor([83, 109]))
    odd = dataclasses.replace(batch, images=batch.images[:, :, :83, :109], valid_hw=valid)
    whole = dataclasses.replace(batch, valid_hw=valid)
    for a, b in zip(model.detect(odd), model.detect(whole), strict=True):
        assert len(a) == 100
        assert torch.equal(a.boxes, b.boxes)
    torch.testing.assert_close(model(odd).total, model(whole).total)


def test_detecting_twice_is_the_same_and_needs_no_gradients(small: Build, batch: Batch) -> None:
    model = small(head=DenseHead.Config(depth=1, prior_probability=0.5)).eval()
    first, second = model.detect(batch), model.detect(batch)
    for a, b in zip(first, second, strict=True):
        assert len(a) == 100
        assert torch.equal(a.boxes, b.boxes)
        assert not a.scores.requires_grad


# ------------------------------------------------------------------ pixels


def test_pixels_are_normalised_alike_from_bytes_and_floats(small: Build, batch: Batch) -> None:
    norm = small().pixels
    from_bytes = norm(batch)
    from_floats = norm(dataclasses.replace(batch, images=batch.images / 255))
    torch.testing.assert_close(from_bytes, from_floats, rtol=1e-5, atol=1e-5)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = (batch.images[0] / 255 - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(from_bytes[0], expected, rtol=1e-5, atol=1e-5)
    assert from_bytes[2, :, 88:].abs().sum() == 0
    assert from_bytes.is_contiguous(memory_format=torch.channels_last)


def test_padding_is_what_lies_outside_the_images() -> None:
    outside = padding(torch.tensor([[3, 5], [4, 2], [4, 6]]), 4, 6)
    assert outside.shape == (3, 1, 4, 6)
    for image, (height, width) in zip(outside[:, 0], ((3, 5), (4, 2), (4, 6)), strict=True):
        assert not image[:height, :width].any()
        assert image[height:].all()
        assert image[:, width:].all()


def test_caffes_pixels(batch: Batch) -> None:
    settings = PixelNorm.Config(mean=(102.98, 115.95, 122.77), std=(1, 1, 1), bgr=True)
    images = settings.build((0.5,) * 3, (0.5,) * 3)(batch)
    red = batch.images[0, 0].float()
    torch.testing.assert_close(images[0, 2], red - 122.77, rtol=1e-5, atol=1e-4)


def test_pixels_default_to_what_the_backbone_was_trained_with() -> None:
    norm = RetinaNet.Config(backbone=Backbone.Config("mobilenetv2_100", pretrained=False)).build(2)
    assert norm.pixels.mean.tolist() == pytest.approx([123.675, 116.28, 103.53])
    flipped = PixelNorm.Config(bgr=True).build((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert flipped.mean.tolist() == pytest.approx([76.5, 51, 25.5])


# ------------------------------------------------------------------ config and state


def test_config_survives_json() -> None:
    config = RetinaNet.Config(
        backbone=Backbone.Config("regnety_002", pretrained=False),
        box_loss=GIoULoss.Config(),
        divisor="ema",
    )
    assert configs.load(RetinaNet.Config, configs.dump(config)) == config


def test_state_dict_round_trip(small_config: RetinaNet.Config, batch: Batch) -> None:
    config = dataclasses.replace(
        small_config, divisor="ema", head=DenseHead.Config(depth=1, prior_probability=0.5)
    )
    model, other = config.build(4), config.offline().build(4)
    model(batch)  # moves running statistics and the average
    other.load_state_dict(model.state_dict())
    for a, b in zip(model.eval().detect(batch), other.eval().detect(batch), strict=True):
        assert len(a) == 100
        assert torch.equal(a.boxes, b.boxes)
    assert torch.equal(model.divisors(batch), other.divisors(batch))


@pytest.mark.parametrize("channels", [32, 80])
def test_group_norm_needs_whole_groups(small: Build, channels: int) -> None:
    with pytest.raises(ConfigError, match=f"towers of {channels} channels"):
        small(head=DenseHead.Config(norm="gn", channels=channels))


@pytest.mark.parametrize(
    "settings", [{"box_weight": -1.0}, {"delta_weights": (0.0, 1.0, 1.0, 1.0)}]
)
def test_bad_settings_are_named(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        RetinaNet.Config(**settings)


def test_bias_of_the_prior_is_the_papers() -> None:
    head = DenseHead(8, 9, 80, depth=1, channels=8, prior_probability=0.01)
    assert head.cls_logits.bias.unique().item() == pytest.approx(-math.log(99))
    assert head.cls_logits.bias.unique().item() == pytest.approx(-4.595, abs=1e-3)


# ------------------------------------------------------------------ waits for a GPU


class Waits(TorchDispatchMode):
    """Counts the operations whose result a host needs, and so waits for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket._qualified_op_name
        if name in ("aten::nonzero", "aten::_local_scalar_dense", "aten::masked_select"):
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


def test_a_training_step_waits_once_for_a_gpu(
    small: Build, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For where the positives are. With the branches that a GPU takes."""
    model = small()
    images = model.pixels(batch)
    monkeypatch.setattr(model.pixels, "forward", lambda batch: images)
    monkeypatch.setattr(
        model.head, "box_outputs_at", lambda x, _, where: model.head._from_all_box_outputs(x, where)
    )
    monkeypatch.setattr(checks, "check_range", lambda *_: None)  # looks at CPU tensors alone
    model(batch)  # anchors are kept
    with Waits() as waits:
        total = model(batch).total
    assert waits.seen == ["aten::nonzero"]
    total.backward()
