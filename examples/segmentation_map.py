"""Segmentation with thin, rare structures: cross entropy against focal loss.

Run: python examples/segmentation_map.py        (about ten seconds on a laptop's CPU)

Images with two categories of structures, discs (about 6 % of the pixels) and cracks one pixel wide
(about 1 %), on background; a band of pixels is unlabelled (-1). The logits have shape ``(N, K, H,
W)`` and are passed to the losses with ``channel_dim=1``. Prints the IoU of each category on new
images. A pixel is predicted positive if its posterior is above 1/2; with focal loss that differs
from its probability (`posterior_from_focal`), and both are shown.
"""

import torch
from torch import nn

from hyperfocal.losses import posterior_from_focal, sigmoid_cross_entropy, sigmoid_focal_loss

K, SIZE, IGNORED = 2, 48, -1
DISC, CRACK = 0, 1


def draw(n: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Images ``(N, 1, H, W)`` and labels ``(N, H, W)``: 0, 1, K background, -1 unlabelled."""
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    labels = torch.full((n, SIZE, SIZE), K)
    for image in labels:
        cx, cy, r, start, slope, part = torch.rand(6, generator=generator).tolist()
        disc = (x - SIZE * cx) ** 2 + (y - SIZE * cy) ** 2 < (4 + 5 * r) ** 2
        crack = (y - (SIZE * start + (2 * slope - 1) * x)).abs() < 0.5
        image[disc] = DISC
        image[crack & (x > SIZE * part / 2) & (x < SIZE * (part / 2 + 0.5))] = CRACK
    brightness = torch.tensor([0.8, 0.7, 0.0])[labels]
    images = brightness + 0.35 * torch.randn(labels.shape, generator=generator)
    labels[:, :, -4:] = IGNORED
    return images[:, None], labels


def train(loss, steps: int) -> nn.Module:
    """Train a network with the loss."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 5, padding=2),
        nn.ReLU(),
        nn.Conv2d(16, 16, 5, padding=2),
        nn.ReLU(),
        nn.Conv2d(16, K, 1),
    )
    nn.init.constant_(net[-1].bias, -3.0)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        images, labels = draw(8, generator)
        optimizer.zero_grad()
        loss(net(images), labels).backward()
        optimizer.step()
    return net


def main(steps: int = 500) -> dict[str, dict[str, float]]:
    """Train with both losses and print the table."""
    losses = {
        "cross entropy": lambda x, y: sigmoid_cross_entropy(x, y, channel_dim=1, reduction="mean"),
        "focal": lambda x, y: sigmoid_focal_loss(
            x, y, channel_dim=1, reduction="sum", normalizer=((y >= 0) & (y < K)).sum()
        ),
    }
    images, labels = draw(64, torch.Generator().manual_seed(2))
    probabilities = {}
    for name, loss in losses.items():
        net = train(loss, steps)
        with torch.no_grad():
            probabilities[name] = net(images).sigmoid()
    probabilities["focal, recovered"] = posterior_from_focal(probabilities["focal"], alpha=0.25)
    kept = labels != IGNORED
    results = {}
    for name, p in probabilities.items():
        row = {}
        for category, index in {"disc": DISC, "crack": CRACK}.items():
            true, mine = (labels == index) & kept, (p[:, index] > 0.5) & kept
            row[category] = ((true & mine).sum() / (true | mine).sum().clamp(min=1)).item()
        results[name] = row
        print(f"{name:17}", "  ".join(f"IoU of {key} {value:.3f}" for key, value in row.items()))
    return results


if __name__ == "__main__":
    main()
