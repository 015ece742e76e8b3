"""Versions, hardware and command of a run: environment.json."""

from __future__ import annotations

import os
import platform
import sys
import time
from typing import Any

import torch

from hyperfocal.names import command
from hyperfocal.versions import version_of


def describe_environment() -> dict[str, Any]:
    """Versions, hardware and command line, for repeating the run."""
    packages = ("hyperfocal", "torch", "torchvision", "timm", "lightning-fabric", "numpy")
    cuda = torch.cuda.is_available()
    return {
        "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "command": command("hyperfocal", *sys.argv[1:]),
        "python": platform.python_version(),
        "packages": {name: version_of(name) for name in packages},
        "system": f"{platform.system()} {platform.machine()}",
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        if cuda
        else [],
    }
