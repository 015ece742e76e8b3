"""Replays of a network: when a call is recorded, and that replays equal calls."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from hyperfocal.models import Backbone, RetinaNet, replays
from hyperfocal.models.replays import Recording, Replays
from hyperfocal.types import Batch


class Watched:
    """A function on a module; counts its calls, and recordings that call it at each replay."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails: bool = False) -> None:
        self.net = nn.Linear(3, 2).eval()
        self.calls = self.recorded = self.replayed = 0
        self.fails = fails
        monkeypatch.setattr(replays, "can_be_replayed", lambda module, given: not module.training)
        monkeypatch.setattr(replays, "record", self.record)

    def __call__(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.net(x)

    def record(self, function: object, given: Tensor) -> Recording:
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.recorded += 1
        out = torch.empty(len(given), 2)

        def replay() -> None:
            self.replayed += 1
            out.copy_(self.net(given))

        return Recording(given, replay, out)


@torch.no_grad()
def test_a_shape_that_comes_again_is_recorded_and_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    watched, own = Watched(monkeypatch), Replays()
    for n in range(6):
        x = torch.randn(4, 3)
        assert own(watched, watched.net, x).equal(watched.net(x)), n
        watched.net.weight.mul_(1.5)  # new values in the same place
    assert (watched.calls, watched.recorded, watched.replayed) == (2, 1, 4)
    own(watched, watched.net, torch.randn(5, 3))  # another shape
    assert (watched.calls, watched.recorded) == (3, 1)
    watched.net.train()
    own(watched, watched.net, torch.randn(4, 3))
    assert (watched.calls, watched.replayed) == (4, 4)


@torch.no_grad()
def test_weights_that_move_are_recorded_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    watched, own, x = Watched(monkeypatch), Replays(), torch.randn(4, 3)
    for _ in range(4):
        own(watched, watched.net, x)
    kept = watched.net.weight  # its memory must not be used again
    watched.net.weight = nn.Parameter(torch.randn(2, 3))
    assert own(watched, watched.net, x).equal(watched.net(x))
    assert kept is not watched.net.weight
    assert watched.calls == 3


@torch.no_grad()
def test_few_recordings_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    watched, own = Watched(monkeypatch), Replays()
    shapes = range(1, replays.KEPT + 3)
    for n in shapes:
        for _ in range(4):
            own(watched, watched.net, torch.randn(n, 3))
    assert len(own._recordings) == replays.KEPT
    assert watched.recorded == len(shapes)


@torch.no_grad()
def test_what_cannot_be_recorded_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    watched, own = Watched(monkeypatch, fails=True), Replays()
    for _ in range(6):
        x = torch.randn(4, 3)
        assert own(watched, watched.net, x).equal(watched.net(x))
    assert watched.calls == 6


@torch.no_grad()
def test_copies_of_a_module_have_no_recordings(monkeypatch: pytest.MonkeyPatch) -> None:
    watched, own = Watched(monkeypatch), Replays()
    for _ in range(4):
        own(watched, watched.net, torch.randn(4, 3))
    for copied in (copy.deepcopy(own), pickle.loads(pickle.dumps(own))):
        assert not copied._recordings
        assert not copied._calls


def test_on_a_cpu_nothing_is_replayed() -> None:
    net = nn.Linear(3, 2).eval()
    with torch.no_grad():
        assert not replays.can_be_replayed(net, torch.randn(4, 3))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("autocast", [False, True])
def test_detections_are_the_same_replayed(autocast: bool) -> None:
    torch.manual_seed(0)
    model = RetinaNet.Config(backbone=Backbone.Config("resnet18", pretrained=False)).build(5)
    nn.init.normal_(model.head.cls_logits.weight, std=0.1)
    model.cuda().eval()
    hw = torch.tensor([[256, 320]], device="cuda")
    images = [torch.randint(0, 256, (1, 3, 256, 320), dtype=torch.uint8) for _ in range(5)]
    batches = [Batch(image.cuda(), hw, hw, (), (0,)) for image in images]
    with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
        replayed = [model.detect(batch)[0] for batch in batches]
        assert model._replays._recordings
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(replays, "can_be_replayed", lambda *_: False)
            called = [model.detect(batch)[0] for batch in batches]
        for mine, wanted in zip(replayed, called, strict=True):
            torch.testing.assert_close(mine.boxes, wanted.boxes, rtol=1e-4, atol=1e-2)
            torch.testing.assert_close(mine.scores, wanted.scores, rtol=1e-4, atol=1e-5)
            assert mine.labels.equal(wanted.labels)
        with torch.no_grad():
            model.head.cls_logits.weight.zero_()
            model.head.cls_tower[0].weight.zero_()
        assert (model.detect(batches[0])[0].scores < 0.5).all()
    with torch.enable_grad():
        model.train()
        assert not replays.can_be_replayed(model, images[0].cuda().float())
