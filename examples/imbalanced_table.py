"""Imbalanced tabular data, one positive in 200 rows: focal loss and calibrated probabilities.

Run: python examples/imbalanced_table.py        (about five seconds on a laptop's CPU)

Each row has ten numbers; the probability that it is a fraud is known by construction. A small
network is trained with cross entropy and with focal loss. Prints the average precision, which only
depends on the order of the rows, and the expected number of frauds (the sum of the probabilities)
beside the true number. Focal loss preserves the order but not the probabilities, which it shifts
towards 1/2; `posterior_from_focal` recovers them.
"""

import torch
from torch import nn

from hyperfocal.losses import posterior_from_focal, sigmoid_cross_entropy, sigmoid_focal_loss

ALPHA, GAMMA = 0.25, 2.0


def draw(rows: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features ``(N, 10)`` and 0/1 labels ``(N,)``."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 10, generator=generator)
    chance = torch.sigmoid(-8.5 + 2 * x[:, 0] + 1.5 * x[:, 1] * x[:, 2])
    return x, torch.bernoulli(chance, generator=generator).long()


def train(loss, x: torch.Tensor, y: torch.Tensor, epochs: int) -> nn.Module:
    """Train a network with the loss."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(10, 32), nn.SiLU(), nn.Linear(32, 1))
    nn.init.constant_(net[-1].bias, -5.0)
    optimizer = torch.optim.AdamW(net.parameters(), lr=5e-3, weight_decay=1e-2)
    for epoch in range(epochs):
        generator = torch.Generator().manual_seed(epoch)
        for rows in torch.randperm(len(x), generator=generator).split(2000):
            optimizer.zero_grad()
            loss(net(x[rows])[:, 0], y[rows]).backward()
            optimizer.step()
    return net


def average_precision(p: torch.Tensor, y: torch.Tensor) -> float:
    """Mean precision over the positives, highest scores first."""
    hits = y[p.argsort(descending=True)]
    precision = hits.cumsum(0) / torch.arange(1, len(hits) + 1)
    return (precision * hits).sum().item() / max(int(hits.sum()), 1)


def main(rows: int = 100_000, epochs: int = 6) -> dict[str, dict[str, float]]:
    """Train with both losses and print the table."""
    x, y = draw(rows, seed=0)
    new_x, new_y = draw(rows, seed=1)
    losses = {
        "cross entropy": lambda x, y: sigmoid_cross_entropy(x, y, reduction="mean"),
        "focal": lambda x, y: sigmoid_focal_loss(
            x, y, alpha=ALPHA, gamma=GAMMA, reduction="sum", normalizer=y.sum().clamp(min=1)
        ),
    }
    results = {}
    for name, loss in losses.items():
        net = train(loss, x, y, epochs)
        with torch.no_grad():
            results[name] = net(new_x)[:, 0].sigmoid()
    results["focal, recovered"] = posterior_from_focal(results["focal"], gamma=GAMMA, alpha=ALPHA)
    true = int(new_y.sum())
    table = {
        name: {"AP": average_precision(p, new_y), "expected": p.sum().item(), "true": true}
        for name, p in results.items()
    }
    for name, row in table.items():
        print(f"{name:17} AP {row['AP']:.3f}  frauds expected {row['expected']:6.0f}, true {true}")
    return table


if __name__ == "__main__":
    main()
