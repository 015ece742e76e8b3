"""The smallest images in bf16: finite gradients, close to those of fp32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hyperfocal.losses import EqualizedFocalLoss
from hyperfocal.models import ATSS, FCOS, PAA, Backbone, ImprovedBaseline, RetinaNet
from hyperfocal.models.detector import Detector
from hyperfocal.models.fpn import StridedConv
from hyperfocal.types import Batch, Target

CONFIGS = [RetinaNet.Config, FCOS.Config, ATSS.Config, PAA.Config, ImprovedBaseline]
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


class StridedGradients(TorchDispatchMode):
    """Records the dtypes and shapes of maps one column wide in strided convolutions' backward."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[torch.dtype, tuple[int, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution_backward.default:
            image, stride = args[1], args[4]
            if stride[-1] > 1 and image.shape[-1] == 1:
                self.seen.append((image.dtype, tuple(image.shape)))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
def test_gradients_in_bf16_are_finite_and_near_those_in_fp32(config: Any) -> None:
    torch.manual_seed(0)
    settings = config(
        backbone=Backbone.Config("test_resnet", pretrained=False), loss=EqualizedFocalLoss.Config()
    )
    model = settings.build(3)
    model.backbone.eval()  # batch norms of a single pixel have no variance
    seen = []
    for seed, hw in enumerate(SIZES):
        batch = batch_of(hw, seed)
        with StridedGradients() as strided:
            found = gradients(model, batch, bf16=True)
        exact = gradients(model, batch, bf16=False)
        assert found.keys() == exact.keys()
        for name, gradient in found.items():
            assert gradient.isfinite().all(), (hw, name)
        scale = max(float(g.abs().max()) for g in exact.values())
        difference = max(float((found[n] - g).abs().max()) for n, g in exact.items())
        assert difference < 0.2 * scale
        seen += strided.seen
    assert seen, "no map of one column was met, so nothing was tested"
    assert {dtype for dtype, _ in seen} == {torch.float32}


@pytest.mark.parametrize("hw", [(1, 1), (2, 1), (7, 1), (1, 2), (1, 7), (3, 5)])
def test_the_convolution_is_torchs(hw: tuple[int, int]) -> None:
    torch.manual_seed(0)
    mine = StridedConv(4, 6, 3, stride=2, padding=1)
    theirs = torch.nn.Conv2d(4, 6, 3, stride=2, padding=1)
    theirs.load_state_dict(mine.state_dict())
    x, y = (torch.randn(2, 4, *hw).requires_grad_() for _ in range(2))
    y.data.copy_(x.data)
    ours, reference = mine(x), theirs(y)
    torch.testing.assert_close(ours, reference)
    ours.square().sum().backward()
    reference.square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad)
    torch.testing.assert_close(mine.weight.grad, theirs.weight.grad)
    half = mine(x.detach().bfloat16()) if hw[1] == 1 else None
    assert half is None or half.dtype == torch.bfloat16
