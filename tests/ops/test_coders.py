import math

import pytest
import torch
from torchvision.models.detection._utils import BoxCoder

from hyperfocal.ops import (
    DistanceForm,
    decode_deltas,
    decode_distances,
    encode_deltas,
    encode_distances,
)

WEIGHTS = [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)]


def boxes(n: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(n, 2, generator=generator) * 100
    return torch.cat((corner, corner + 2 + torch.rand(n, 2, generator=generator) * 60), dim=1)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_decoding_undoes_encoding(weights: tuple[float, float, float, float]) -> None:
    gt, anchors = boxes(40, 0).double(), boxes(40, 1).double()
    deltas = encode_deltas(gt, anchors, weights)
    torch.testing.assert_close(decode_deltas(deltas, anchors, weights), gt)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_same_as_torchvisions(weights: tuple[float, float, float, float]) -> None:
    coder = BoxCoder(weights)
    torch.manual_seed(0)
    gt, anchors = boxes(40, 0), boxes(40, 1)
    deltas = encode_deltas(gt, anchors, weights)
    torch.testing.assert_close(deltas, coder.encode_single(gt, anchors))
    wild = deltas + 3 * torch.tensor(weights) * torch.randn(40, 4)
    # Some are clamped; scales multiply, so a missing clamp shows.
    assert ((wild / torch.tensor(weights))[:, 2:] > math.log(1000 / 16)).any()
    torch.testing.assert_close(
        decode_deltas(wild, anchors, weights), coder.decode_single(wild, anchors)
    )


def test_an_anchor_on_its_box_has_no_deltas() -> None:
    gt = boxes(5, 0)
    assert encode_deltas(gt, gt).abs().max() == 0


def test_decoding_is_finite_for_wild_outputs_of_low_precision() -> None:
    anchors = torch.tensor([[0.0, 0, 16, 16]])
    deltas = torch.tensor([[0.0, 0, 1e4, 1e4]], dtype=torch.bfloat16)
    decoded = decode_deltas(deltas, anchors)
    assert decoded.dtype == torch.float32
    width = decoded[0, 2] - decoded[0, 0]
    assert math.isclose(width, 1000, rel_tol=1e-5)  # the clamp: 16 · 1000 / 16


@pytest.mark.parametrize("form", ["linear", "exp"])
def test_distances_go_there_and_back(form: DistanceForm) -> None:
    squares = torch.tensor([[0.0, 0, 8, 8], [16, 16, 32, 32]])
    boxes = torch.tensor([[1.0, 2, 20, 30], [10, 20, 25, 90]])
    values = encode_distances(boxes, squares, form)
    torch.testing.assert_close(decode_distances(values, squares, form), boxes)
    by_hand = torch.tensor([3.0, 2, 16, 26])  # from (4, 4)
    expected = by_hand.log() if form == "exp" else by_hand / 8
    torch.testing.assert_close(values[0], expected)


def test_a_location_on_the_border_has_a_finite_logarithm() -> None:
    square = torch.tensor([[0.0, 0, 8, 8]])  # its centre is (4, 4)
    values = encode_distances(torch.tensor([[4.0, 0, 10, 10]]), square, "exp")
    torch.testing.assert_close(values.exp(), torch.tensor([[1e-3, 4.0, 6, 6]]))


@pytest.mark.parametrize("form", ["linear", "exp"])
def test_wild_distances_stay_finite(form: DistanceForm) -> None:
    values = torch.tensor([[1e4, -1e4, 0.0, 200.0]], requires_grad=True)
    boxes = decode_distances(values, torch.tensor([[0.0, 0, 8, 8]]), form)
    boxes.sum().backward()
    assert boxes.isfinite().all()
    # The negative output, like the others, gives a distance that isn't negative.
    assert (boxes[:, :2] <= 4).all()
    assert (boxes[:, 2:] >= 4).all()
    assert values.grad is not None
    assert values.grad.isfinite().all()
