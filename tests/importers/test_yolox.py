"""Import of YOLOX's weights: the detections of a restatement of the authors' network.

The restatement is written in functions, with the names and shapes of the authors' tensors.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tests.close import assert_near
from torch import Tensor
from torchvision.ops import batched_nms

import hyperfocal
from hyperfocal import cli
from hyperfocal.importers import import_yolox
from hyperfocal.types import Batch, ConfigError, Target

K = 3
STEM = "backbone.backbone.stem.conv.conv"


class Network:
    """The authors' network in eval mode; tensors are drawn when they are first used."""

    def __init__(self, width: float, blocks: int, depthwise: bool) -> None:
        self.width, self.blocks, self.depthwise = width, blocks, depthwise
        self.tensors: dict[str, Tensor] = {}
        self.generator = torch.Generator().manual_seed(0)

    def tensor(self, name: str, *shape: int, scale: float = 1.0, shift: float = 0.0) -> Tensor:
        if name not in self.tensors:
            values = torch.rand(shape, generator=self.generator) - 0.5
            self.tensors[name] = values * scale + shift
        return self.tensors[name]

    def conv(
        self, name: str, x: Tensor, out: int, k: int, stride: int = 1, groups: int = 1
    ) -> Tensor:
        inner = x.shape[1] // groups
        weight = self.tensor(
            f"{name}.conv.weight", out, inner, k, k, scale=3 / (inner * k * k) ** 0.5
        )
        x = F.conv2d(x, weight, None, stride, k // 2, groups=groups)
        mean = self.tensor(f"{name}.bn.running_mean", out)
        var = self.tensor(f"{name}.bn.running_var", out, shift=1.0)
        scale = self.tensor(f"{name}.bn.weight", out, shift=1.0)
        bias = self.tensor(f"{name}.bn.bias", out)
        self.tensors[f"{name}.bn.num_batches_tracked"] = torch.tensor(7)
        a, b, c, d = (v[:, None, None] for v in (mean, var, scale, bias))
        x = (x - a) / (b + 1e-3).sqrt() * c + d
        return x * x.sigmoid()

    def spatial(self, name: str, x: Tensor, out: int, stride: int = 1) -> Tensor:
        if not self.depthwise:
            return self.conv(name, x, out, 3, stride)
        x = self.conv(f"{name}.dconv", x, x.shape[1], 3, stride, groups=x.shape[1])
        return self.conv(f"{name}.pconv", x, out, 1)

    def csp(self, name: str, x: Tensor, out: int, n: int, shortcut: bool) -> Tensor:
        first = self.conv(f"{name}.conv1", x, out // 2, 1)
        second = self.conv(f"{name}.conv2", x, out // 2, 1)
        for i in range(n):
            y = self.conv(f"{name}.m.{i}.conv1", first, out // 2, 1)
            y = self.spatial(f"{name}.m.{i}.conv2", y, out // 2)
            first = first + y if shortcut else y
        return self.conv(f"{name}.conv3", torch.cat((first, second), 1), out, 1)

    def maps(self, x: Tensor) -> list[Tensor]:
        base, n = int(64 * self.width), self.blocks
        corners = x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]
        x = self.conv("backbone.backbone.stem.conv", torch.cat(corners, 1), base, 3)
        maps = []
        for stage, (times, depth) in enumerate(((2, n), (4, 3 * n), (8, 3 * n), (16, n)), 2):
            name = f"backbone.backbone.dark{stage}"
            x = self.spatial(f"{name}.0", x, times * base, 2)
            if stage == 5:
                x = self.conv(f"{name}.1.conv1", x, x.shape[1] // 2, 1)
                pools = [F.max_pool2d(x, k, 1, k // 2) for k in (5, 9, 13)]
                x = self.conv(f"{name}.1.conv2", torch.cat((x, *pools), 1), times * base, 1)
            x = self.csp(f"{name}.{2 if stage == 5 else 1}", x, times * base, depth, stage != 5)
            maps.append(x)
        return maps[1:]

    def levels(self, x: Tensor) -> list[Tensor]:
        c3, c4, c5 = self.maps(x)
        w3, w4, w5 = (c.shape[1] for c in (c3, c4, c5))

        def csp(name: str, *parts: Tensor, out: int) -> Tensor:
            return self.csp(f"backbone.{name}", torch.cat(parts, 1), out, self.blocks, False)

        p5 = self.conv("backbone.lateral_conv0", c5, w4, 1)
        up = F.interpolate(p5, scale_factor=2.0)
        p4 = self.conv("backbone.reduce_conv1", csp("C3_p4", up, c4, out=w4), w3, 1)
        n3 = csp("C3_p3", F.interpolate(p4, scale_factor=2.0), c3, out=w3)
        n4 = csp("C3_n3", self.spatial("backbone.bu_conv2", n3, w3, 2), p4, out=w4)
        n5 = csp("C3_n4", self.spatial("backbone.bu_conv1", n4, w4, 2), p5, out=w5)
        return [n3, n4, n5]

    def predict(self, name: str, x: Tensor, out: int) -> Tensor:
        weight = self.tensor(f"{name}.weight", out, x.shape[1], 1, 1, scale=0.3)
        return F.conv2d(x, weight, self.tensor(f"{name}.bias", out))

    def __call__(self, x: Tensor) -> Tensor:
        """``(B, A, 4 + 1 + K)``: boxes as centre and size in pixels, and probabilities."""
        width, rows = int(256 * self.width), []
        for n, level in enumerate(self.levels(x)):
            stem = self.conv(f"head.stems.{n}", level, width, 1)
            towers = {}
            for kind in ("cls", "reg"):
                y = stem
                for i in (0, 1):
                    y = self.spatial(f"head.{kind}_convs.{n}.{i}", y, width)
                towers[kind] = y
            box = self.predict(f"head.reg_preds.{n}", towers["reg"], 4)
            obj = self.predict(f"head.obj_preds.{n}", towers["reg"], 1).sigmoid()
            cls = self.predict(f"head.cls_preds.{n}", towers["cls"], K).sigmoid()
            y, x_ = torch.meshgrid(*(torch.arange(s) for s in box.shape[2:]), indexing="ij")
            stride = 8 * 2**n
            center = (box[:, :2] + torch.stack((x_, y))) * stride
            rows.append(torch.cat((center, box[:, 2:].exp() * stride, obj, cls), 1).flatten(2))
        return torch.cat(rows, 2).transpose(1, 2)


def network(width: float = 0.25, blocks: int = 1, depthwise: bool = True) -> Network:
    net = Network(width, blocks, depthwise)
    net(torch.zeros(1, 3, 64, 64))
    return net


def saved(net: Network, path: Path) -> Path:
    torch.save({"start_epoch": 300, "model": net.tensors}, path)
    return path


@pytest.mark.parametrize(
    ("size", "scale"), [("nano", (0.25, 1, True)), ("tiny", (0.375, 1, False))]
)
def test_detections_are_those_of_the_authors_network(
    tmp_path: Path, size: str, scale: tuple[float, int, bool]
) -> None:
    net = network(*scale)
    found = import_yolox(saved(net, tmp_path / "w.pth"))
    assert found.config.backbone.size == size
    model = found.config.build(K).eval()
    model.load_state_dict(found.state_dict)
    images = torch.randint(
        0, 256, (2, 3, 96, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    sizes = torch.tensor([[96, 64]] * 2)
    nothing = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    ours = model.detect(Batch(images, sizes, sizes, (nothing,) * 2, (0, 1)))
    with torch.no_grad():
        theirs = net(images.flip(1).float())  # BGR in 0..255
    for detections, rows in zip(ours, theirs, strict=True):
        scores = rows[:, 4:5] * rows[:, 5:]
        prior, label = (scores > 0.01).nonzero(as_tuple=True)
        center, half = rows[prior, :2], rows[prior, 2:4] / 2
        limit = torch.tensor([64.0, 96, 64, 96])
        boxes = torch.cat((center - half, center + half), 1).clamp(min=0).minimum(limit)
        there = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
        boxes, label, own = boxes[there], label[there], scores[prior, label][there]
        kept = batched_nms(boxes, own, label, 0.65)[:100]
        assert len(kept) > 20
        assert len(detections) == len(kept)
        assert_near(detections.scores, own[kept], rtol=1e-3)
        # Boxes of the same order, but for neighbours of nearly equal scores.
        same = (detections.boxes - boxes[kept]).abs().amax(dim=1) < 0.05
        assert same.float().mean() > 0.9
        assert (detections.labels == label[kept])[same].all()


def test_a_run_folder_is_written(tmp_path: Path) -> None:
    weights = saved(network(), tmp_path / "w.pth")
    run = tmp_path / "run"
    assert cli.main(["import", "yolox", str(weights), "--out", str(run)]) == 0
    loaded = hyperfocal.load(run, device="cpu")
    assert [category.name for category in loaded.categories] == [
        "category 1",
        "category 2",
        "category 3",
    ]


def test_80_categories_are_those_of_coco() -> None:
    from hyperfocal.importers.yolox import _categories

    categories = _categories(80)
    assert (categories[0].id, categories[0].name) == (1, "person")
    assert (categories[-1].id, categories[-1].name) == (90, "toothbrush")
    assert len(categories) == 80


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("head.cls_preds.0.bias"), "there is no head"),
        (lambda t: t.pop("backbone.C3_p4.conv1.bn.bias"), r"neck.top_down.0.main.1.bias must"),
        (lambda t: t.update(more=torch.zeros(1)), r"1 unknown tensor\(s\), such as more"),
        (
            lambda t: t.update(
                {"backbone.backbone.stem.conv.conv.weight": torch.zeros(20, 12, 3, 3)}
            ),
            "20 channels of the stem and 1 bottlenecks in the first stage aren't those",
        ),
    ],
)
def test_other_files_are_refused(tmp_path: Path, change: object, message: str) -> None:
    net = network()
    change(net.tensors)
    with pytest.raises(ConfigError, match=message):
        import_yolox(saved(net, tmp_path / "w.pth"))
