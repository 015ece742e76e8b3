"""The smallest images in bf16: finite gradients, close to those of fp32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.close import assert_near
from tests.components import DENSE
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from hyperfocal.losses import EqualizedFocalLoss
from hyperfocal.models import PAA, Backbone, RetinaNet
from hyperfocal.models.detector import Detector
from hyperfocal.models.layers import StridedConv
from hyperfocal.types import Batch, Target

CONFIGS = list(DENSE)
SIZES = [(32, 32), (64, 32), (32, 64), (64, 64), (96, 64)]


def poison_memory() -> None:
    """Leave NaN in the memory that the next tensors are likely to get."""
    blocks = [torch.full((1 << size,), torch.nan) for size in range(4, 20) for _ in range(4)]
    del blocks


def batch_of(hw: tuple[int, int], seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (2, 3, *hw), dtype=torch.uint8, generator=generator)
    sizes = torch.tensor([hw, hw])
    box = torch.tensor([[4.0, 4.0, 24.0, 26.0]])
    target = Target(box, torch.tensor([seed % 3]))
    return Batch(images, sizes, sizes, (target, target), (0, 1))


def gradients(model: Detector, batch: Batch, bf16: bool) -> dict[str, Tensor]:
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        total = model.loss_terms(batch).total
    poison_memory()
    total.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


class NarrowGradients(TorchDispatchMode):
    """Records in which dtypes padded convolutions differentiate maps smaller than their stride."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: list[torch.dtype] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution_backward.default:
            image, stride, padding = args[1], args[4], args[5]
            sides = zip(image.shape[-2:], stride, padding, strict=True)
            if any(step > 1 and side <= step and pad for side, step, pad in sides):
                self.dtypes.append(image.dtype)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
def test_gradients_in_bf16_are_finite_and_near_those_in_fp32(config: Any) -> None:
    torch.manual_seed(0)
    settings = config(
        backbone=Backbone.Config("test_resnet", pretrained=False), loss=EqualizedFocalLoss.Config()
    )
    model = settings.build(3)
    for module in model.modules():  # batch norms of a few pixels have hardly any variance
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    dtypes, tolerance = [], 1.0 if config is PAA.Config else 0.5
    for seed, hw in enumerate(SIZES):
        batch = batch_of(hw, seed)
        with NarrowGradients() as narrow:
            found = gradients(model, batch, bf16=True)
        dtypes += narrow.dtypes
        exact = gradients(model, batch, bf16=False)
        assert found.keys() == exact.keys()
        largest = max(float(g.norm()) for g in exact.values())
        for name, gradient in found.items():
            assert gradient.isfinite().all(), (hw, name)
            # Rounding to 8 bits, for each parameter by itself; the smallest are all rounding, and
            # PAA's positives depend on rounded predictions.
            off, size = float((gradient - exact[name]).norm()), float(exact[name].norm())
            assert off < tolerance * (size + 0.1 * largest), (hw, name)
    assert dtypes, "no map smaller than a stride was met, so nothing was tested"
    assert set(dtypes) == {torch.float32}


@pytest.mark.parametrize("hw", [(96, 32), (32, 96), (160, 64), (64, 160), (256, 128)])
@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_100"])
def test_outputs_in_bf16_are_those_in_fp32(name: str, hw: tuple[int, int]) -> None:
    # Wide networks: the failures need 96 channels or more.
    torch.manual_seed(0)
    model = RetinaNet.Config(backbone=Backbone.Config(name, pretrained=False)).build(3).eval()
    maps: dict[bool, list[Tensor]] = {}
    pixels = torch.rand(2, 3, *hw)
    for bf16 in (False, True):
        poison_memory()
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            maps[bf16] = list(model.neck(model.backbone(pixels)))
    for exact, rounded in zip(maps[False], maps[True], strict=True):
        # Each map as a whole: of thousands of elements, one may be off by several rounding errors.
        assert float((rounded - exact).norm()) < 0.2 * float(exact.norm())


def strided(kernel: int = 3, stride: int = 2) -> StridedConv:
    torch.manual_seed(0)
    conv = StridedConv(96, 128, kernel, stride=stride, padding=kernel // 2)
    return conv.to(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("kernel", "stride", "hw"),
    [
        (3, 2, (1, 1)),
        (3, 2, (2, 1)),
        (3, 2, (7, 1)),
        (3, 2, (1, 7)),
        (5, 3, (3, 2)),
        (7, 4, (5, 3)),
        (3, 2, (5, 2)),
        (3, 3, (4, 3)),
        (3, 2, (2, 5)),
    ],
)
def test_weight_gradients_in_bf16_are_near_those_in_fp32(
    kernel: int, stride: int, hw: tuple[int, int]
) -> None:
    conv = strided(kernel, stride)
    for n in range(1, 5):
        image = torch.randn(n, 96, *hw).contiguous(memory_format=torch.channels_last)
        exact = conv(image)
        grad = torch.randn_like(exact)
        expected = torch.autograd.grad(exact, list(conv.parameters()), grad)
        poison_memory()
        with torch.autocast("cpu", torch.bfloat16):
            output = conv(image)
        assert output.dtype == torch.bfloat16
        poison_memory()
        found = torch.autograd.grad(output, list(conv.parameters()), grad.bfloat16())
        for got, wanted in zip((output, *found), (exact, *expected), strict=True):
            assert_near(got, wanted, of_largest=0.03)


@pytest.mark.parametrize("hw", [(1, 1), (2, 1), (7, 1), (1, 2), (1, 7), (3, 5)])
def test_the_convolution_is_torchs(hw: tuple[int, int]) -> None:
    mine, theirs = strided(), nn.Conv2d(96, 128, 3, stride=2, padding=1)
    theirs.load_state_dict(mine.state_dict())
    image = torch.randn(2, 96, *hw)
    with torch.no_grad():
        assert_near(mine(image), theirs(image), of_largest=1e-5)
        for dtype in (torch.bfloat16, torch.float32):
            with torch.autocast("cpu", torch.bfloat16):
                assert mine(image.to(dtype)).dtype == theirs(image.to(dtype)).dtype
        half = mine.bfloat16()(image.bfloat16())
        assert half.dtype == torch.bfloat16
        assert_near(half, theirs(image), of_largest=0.03)


def test_the_convolution_compiles_whole() -> None:
    conv = strided()
    compiled = torch.compile(conv, backend="eager", fullgraph=True)
    for hw in ((1, 1), (6, 6)):
        image = torch.randn(2, 96, *hw)
        for bf16 in (False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                assert_near(compiled(image), conv(image))


def test_other_devices_take_torchs_convolution() -> None:
    conv, narrow = strided().to("meta").bfloat16(), torch.empty(2, 96, 1, 1, device="meta")
    with Dtypes() as seen:
        conv(narrow.bfloat16())
    assert seen.dtypes == [torch.bfloat16]


class Dtypes(TorchDispatchMode):
    """Records the dtypes that convolutions compute in."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: list[torch.dtype] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution.default:
            self.dtypes.append(args[0].dtype)
        return func(*args, **(kwargs or {}))
