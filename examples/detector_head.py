"""The classification head of a dense detector on long-tailed data: focal loss and EFL.

Run: python examples/detector_head.py        (about ten seconds on a laptop's CPU)

The "image" is a feature map in which a few cells contain an object of one of 20 categories, the
most frequent 150 times as frequent as the rarest; all other cells are background. The head is a
single convolution with one sigmoid per category, as in RetinaNet. Prints the mean probability that
each head gives to the true category of held-out objects, by frequency, and to background cells.
"""

import torch
from torch import nn

from hyperfocal.losses import EqualizedFocalLoss, SigmoidFocalLoss, step_losses

K, CHANNELS, SIZE, PRIOR = 20, 32, 16, 0.001
FREQUENCY = torch.logspace(0, -2.2, K)  # of each category, relative to the first


def draw(
    images: int, prototypes: torch.Tensor, frequency: torch.Tensor, generator: torch.Generator
):
    """Feature maps ``(B, C, H, W)`` and labels ``(B, H, W)``: 0..K-1, or K for background."""
    labels = torch.full((images, SIZE * SIZE), K)
    objects = torch.multinomial(frequency, images * 6, replacement=True, generator=generator)
    cells = torch.rand(images, SIZE * SIZE, generator=generator).argsort(-1)[:, :6]
    labels.scatter_(1, cells, objects.view(images, 6))
    known = torch.cat([prototypes, torch.zeros(1, CHANNELS)])
    noise = torch.randn(images, SIZE * SIZE, CHANNELS, generator=generator)
    features = known[labels] + 1.2 * noise
    return features.mT.reshape(images, CHANNELS, SIZE, SIZE), labels.view(images, SIZE, SIZE)


def train(loss: nn.Module, prototypes: torch.Tensor, steps: int) -> nn.Conv2d:
    """Train a head with the loss."""
    torch.manual_seed(0)
    head = nn.Conv2d(CHANNELS, K, 1)
    # A small initial prior, or background dominates the first steps.
    nn.init.constant_(head.bias, -torch.tensor((1 - PRIOR) / PRIOR).log().item())
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.02)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        features, labels = draw(8, prototypes, FREQUENCY, generator)
        logits = head(features).movedim(1, -1)  # (B, H, W, K): categories last
        positives = (labels < K).sum().clamp(min=1)
        optimizer.zero_grad()
        loss(logits, labels, normalizer=positives).backward()
        optimizer.step()
        step_losses(loss)  # losses with memory update their statistics
    return head


def main(steps: int = 400) -> dict[str, dict[str, float]]:
    """Train with both losses and print the table."""
    prototypes = torch.randn(K, CHANNELS, generator=torch.Generator().manual_seed(2))
    held_out = draw(200, prototypes, torch.ones(K), torch.Generator().manual_seed(3))
    features, labels = held_out
    groups = {"frequent": (0, 7), "common": (7, 14), "rare": (14, K)}
    results = {}
    for name, loss in {"focal": SigmoidFocalLoss(), "efl": EqualizedFocalLoss(K)}.items():
        head = train(loss, prototypes, steps)
        with torch.no_grad():
            p = head(features).sigmoid().movedim(1, -1)
        true = p.gather(-1, labels.clamp(max=K - 1)[..., None])[..., 0]
        row = {
            group: true[(labels >= low) & (labels < high)].mean().item()
            for group, (low, high) in groups.items()
        }
        row["background"] = p[labels == K].mean().item()
        results[name] = row
        print(f"{name:6}", "  ".join(f"{key} {value:.3f}" for key, value in row.items()))
    return results


if __name__ == "__main__":
    main()
