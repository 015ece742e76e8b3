"""`hyperfocal.losses` and `hyperfocal.ops` need torch and what torch itself needs, no more."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = '''
import importlib, importlib.abc, importlib.metadata as metadata, pkgutil, re, sys

def required(name, found):
    """Names of a distribution and of all that it can't do without."""
    name = re.split(r"[^A-Za-z0-9._-]", name)[0].lower().replace("_", "-")
    if name not in found:
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            return found
        found.add(name)
        for need in needs:
            if "extra ==" not in need:
                required(need, found)
    return found

allowed = required("torch", set())
modules = {
    module for module, owners in metadata.packages_distributions().items()
    if {owner.lower().replace("_", "-") for owner in owners} & allowed
} | {"hyperfocal", *sys.stdlib_module_names}

class Only(importlib.abc.MetaPathFinder):
    """Finds what another finder finds, as if nothing else were installed."""

    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        # _sysconfigdata_* is the standard library's, under a name of the platform's.
        if name.partition(".")[0] in modules or name.startswith("_sysconfigdata"):
            return self.finder.find_spec(name, path, target)
        return None

assert "numpy" not in modules and "yaml" not in modules
sys.meta_path[:] = [Only(finder) for finder in sys.meta_path]

import torch
import hyperfocal.losses, hyperfocal.ops
for package in (hyperfocal.losses, hyperfocal.ops):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)

from hyperfocal.config import kinds
from hyperfocal.types import CategoryCounts
counts = CategoryCounts((5, 4, 3), (9, 7, 5), 10)
built = 0
for config in kinds(hyperfocal.losses.ClassificationLossConfig).values():
    torch.manual_seed(0)
    loss = config().build(3, counts)
    logits = torch.randn(6, hyperfocal.losses.num_logits(loss, 3), requires_grad=True)
    labels = torch.tensor([0, 1, 2, 3, 3, -1])
    quality = torch.tensor([0.5, 0.6, 0.7, 0.0, 0.0, 0.0])
    more = {"quality": quality} if isinstance(loss, hyperfocal.losses.QualityLoss) else {}
    loss(logits, labels, normalizer=2.0, **more).backward()
    assert logits.grad.isfinite().all(), config
    built += 1
assert built >= 8
boxes = torch.tensor([[0.0, 0, 4, 4], [1, 1, 5, 5]])
assert hyperfocal.ops.box_iou(boxes, boxes).shape == (2, 2)
print("unblocked:", sorted(set(sys.modules) & {"numpy", "yaml", "torchvision", "tyro", "rich"}))
'''


def test_losses_and_ops_run_with_every_other_package_blocked() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "unblocked: []" in done.stdout
