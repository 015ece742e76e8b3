"""torchvision's training loop with a RetinaNet of hyperfocal: only one line differs.

    python examples/torchvision_loop.py

A dataset returns ``(image, {"boxes": ..., "labels": ...})``, a loader collates tuples, the model
returns a dict of losses in training mode and a list of detections in eval mode. Losses with memory
(EFL, EQLv2) need ``model.step()`` after the optimizer's step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import hyperfocal
from hyperfocal.losses import EqualizedFocalLoss
from hyperfocal.models import Backbone


class Squares(Dataset[Any]):
    """Bright (label 1) and dim squares (label 2) on a dark background; label 0 is background."""

    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        generator = torch.Generator().manual_seed(index)
        image = 0.2 * torch.rand(3, 96, 96, generator=generator)
        x, y = torch.randint(0, 64, (2,), generator=generator).tolist()
        label = 1 + index % 2
        image[:, y : y + 32, x : x + 32] = 1.0 if label == 1 else 0.6
        boxes = torch.tensor([[x, y, x + 32, y + 32]], dtype=torch.float32)
        return image, {"boxes": boxes, "labels": torch.tensor([label])}


def main(epochs: int = 10) -> float:
    """Train, and return the mean score of the best detection."""
    torch.manual_seed(0)
    loader = DataLoader(
        Squares(),
        batch_size=4,
        shuffle=True,
        collate_fn=lambda items: tuple(zip(*items, strict=True)),
    )
    # torchvision.models.detection.retinanet_resnet50_fpn(num_classes=3) in torchvision's script.
    model = hyperfocal.RetinaNet(
        num_classes=3,
        backbone=Backbone.Config("test_resnet", pretrained=False),
        loss=EqualizedFocalLoss.Config(),
    )
    model.resize = None  # the images are small; by default they are resized as torchvision does
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for epoch in range(epochs):
        model.train()
        for images, targets in loader:
            losses = model(images, targets)
            loss = sum(losses.values())
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
            model.step()
        print(f"epoch {epoch + 1}: " + ", ".join(f"{n} {v:.3f}" for n, v in losses.items()))
    model.eval()
    found = model([Squares()[n][0] for n in range(4)])
    best = [float(one["scores"][0]) if len(one["scores"]) else 0.0 for one in found]
    print("best score of each image:", [round(score, 3) for score in best])
    return sum(best) / len(best)


if __name__ == "__main__":
    main()
