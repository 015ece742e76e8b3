"""Backbone: any timm model with feature maps at strides 8, 16 and 32, optionally also 4."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import timm
import torch
from torch import Tensor, nn

from hyperfocal.models.folding import NORMS, fold_norms
from hyperfocal.models.layers import StridedConv
from hyperfocal.models.roles import BackboneConfig, FeatureNetwork, NeckConfig
from hyperfocal.types import ConfigError

FirstStride = Literal[4, 8]
"""Stride of a backbone's finest map."""


def strides_from(first: FirstStride) -> tuple[int, ...]:
    """Strides of the maps: those of (C2,) C3, C4 and C5."""
    return (4, 8, 16, 32) if first == 4 else (8, 16, 32)


NormMode = Literal["auto", "frozen", "train"]


class Backbone(FeatureNetwork):
    """Features at strides (4,) 8, 16 and 32 of a timm model.

    Weights in a local file must have timm's names; unused ones (classifier, ...) are ignored, all
    others are required.

    Attributes:
        channels: channels of the maps.
        mean: RGB mean in [0, 1] that the architecture's published weights expect.
        std: standard deviation, likewise.
    """

    @dataclass(frozen=True)
    class Config(BackboneConfig):
        """Settings of `Backbone`."""

        kind: ClassVar[str] = "backbone"

        name: str = "resnet50.tv_in1k"
        """timm model (https://huggingface.co/timm), with a tag to select among several weights."""
        pretrained: bool = True
        """Initialise with timm's published weights (downloaded once)."""
        weights: Path | None = None
        """Initialise from a local file with timm's key names instead (.pth, .pt, .safetensors)."""
        frozen_stages: int = 0
        """Freeze the layers up to the feature map of stride 2^N; 0: none; 2: conv1 and the first
        stage of a ResNet."""
        norm: NormMode = "auto"
        """Batch norm: keep the loaded statistics and scales (frozen), or train them. auto: frozen
        if initialised with weights. Weights with norms folded into the convolutions need frozen."""
        norm_eps: float | None = None
        """Epsilon of the batch norms; none: the default of the architecture."""
        first_stride: FirstStride = 8
        """Stride of the finest map. A detector sets it to that of its neck's first level."""

        def __post_init__(self) -> None:
            self._require(0 <= self.frozen_stages <= 5, "frozen_stages", "between 0 and 5")
            self._require(self.norm_eps is None or self.norm_eps >= 0, "norm_eps", "at least 0")
            plain = self.name.partition(".")[0]
            if not timm.is_model(plain):
                close = difflib.get_close_matches(plain, timm.list_models(), n=3)
                hint = f", such as {', '.join(close)}" if close else ""
                self._require(False, "name", f"a model of timm {timm.__version__}{hint}")

        @property
        def freezes_norms(self) -> bool:
            """Whether batch norms keep their initial statistics and scales."""
            if self.norm == "auto":
                return self.pretrained or self.weights is not None
            return self.norm == "frozen"

        def offline(self) -> Self:
            """The same network without initial weights, for loading a trained state dict."""
            norm: NormMode = "frozen" if self.freezes_norms else "train"
            return replace(self, pretrained=False, weights=None, norm=norm)

        def build(self) -> Backbone:
            """The backbone with its initial weights.

            Raises:
                ConfigError: the model has no features at strides 8, 16 and 32, or its weights
                    can't be loaded.
            """
            net, frozen = _create(self)
            if self.weights is not None:
                load_backbone_weights(net, self.weights)
            return Backbone(
                net, frozen, self.freezes_norms, self.norm_eps, strides_from(self.first_stride)
            )

    def __init__(
        self,
        net: nn.Module,
        frozen: Collection[str] = (),
        freeze_norms: bool = False,
        norm_eps: float | None = None,
        strides: tuple[int, ...] = (8, 16, 32),
    ) -> None:
        super().__init__()
        self.net = net
        self.strides = strides
        info: Any = net.feature_info
        reductions: list[int] = info.reduction()
        self._levels = tuple(_last_index(reductions, stride) for stride in strides)
        self.channels: tuple[int, ...] = tuple(info.channels()[i] for i in self._levels)
        data: dict[str, Any] = getattr(net, "pretrained_cfg", None) or {}
        self.mean: tuple[float, ...] = tuple(data.get("mean", (0.485, 0.456, 0.406)))
        self.std: tuple[float, ...] = tuple(data.get("std", (0.229, 0.224, 0.225)))
        norms = [module for module in net.modules() if isinstance(module, NORMS)]
        if norm_eps is not None:
            for norm in norms:
                norm.eps = norm_eps
        self._probe()
        fixed = {p for name, p in net.named_parameters() if name in frozen}
        for parameter in fixed:
            parameter.requires_grad_(False)
        if freeze_norms:
            for norm in norms:
                norm.requires_grad_(False)
        else:
            norms = [norm for norm in norms if norm.weight in fixed]
        self._frozen_norms = norms
        self.fixed = False
        self.train()

    def fix(self) -> None:
        """Freeze all parameters and statistics."""
        self.fixed = True
        self.net.requires_grad_(False)
        self.train(self.training)

    def _probe(self) -> None:
        """Run once to check the maps and fold the norms."""
        self.net.eval()
        maps: list[Tensor] = []
        fold_norms(self.net, lambda: maps.extend(_run(self.net)))
        for module in self.net.modules():
            if type(module) is nn.Conv2d and max(module.stride) > 1:
                module.__class__ = StridedConv  # the same parameters
        for level, stride, channels in zip(self._levels, self.strides, self.channels, strict=True):
            shape, expected = tuple(maps[level].shape), (1, channels, 64 // stride, 64 // stride)
            if shape != expected:
                raise ConfigError(
                    f"the backbone's map at stride {stride} has shape {shape} for a 64x64 image, "
                    f"but a feature pyramid needs {expected}"
                )

    def train(self, mode: bool = True) -> Self:
        """Training mode, except for frozen parts."""
        nn.Module.train(self, mode)
        if self.fixed:
            self.net.eval()
        for norm in self._frozen_norms:
            norm.eval()
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(C2,) C3, C4 and C5 ``(B, C, H/s, W/s)`` of normalised images ``(B, 3, H, W)``.

        H and W are multiples of 32.
        """
        maps = self.net(images)
        return tuple(maps[level] for level in self._levels)


def with_first_stride(backbone: BackboneConfig, neck: NeckConfig) -> BackboneConfig:
    """The backbone with a map at the stride of the neck's first level, if that is 4 or 8."""
    first = neck.strides[0]
    if isinstance(backbone, Backbone.Config) and first in (4, 8):
        return replace(backbone, first_stride=4 if first == 4 else 8)
    return backbone


def _create(settings: Backbone.Config) -> tuple[nn.Module, set[str]]:
    """The network, and the names of its frozen parameters."""
    # Only the maps that are needed: the others are the largest, and would be kept as long.
    indices, frozen = _explore(settings)
    download = settings.pretrained and settings.weights is None
    try:
        net: nn.Module = timm.create_model(
            settings.name, features_only=True, out_indices=indices, pretrained=download
        )
    except Exception as error:  # hub clients raise the exceptions of their transport
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise ConfigError(
            f"can't get the weights of backbone {settings.name!r} ({reason}). Without network "
            "access, set a local file (model.backbone.weights), or start from random weights "
            "(model.backbone.pretrained = False)."
        ) from error
    return net, frozen


def _explore(settings: Backbone.Config) -> tuple[tuple[int, ...], set[str]]:
    """Timm's indices of the maps, and the parameters of the frozen stages."""
    strides = strides_from(settings.first_stride)
    try:
        with torch.device("meta"):  # only shapes and graph: no memory, no initialisation
            net: Any = timm.create_model(settings.name, features_only=True, pretrained=False)
        reductions: list[int] = net.feature_info.reduction()
    except (RuntimeError, AttributeError, ValueError, TypeError, AssertionError) as error:
        raise ConfigError(
            f"backbone {settings.name!r} has no feature maps ({error}); use one with maps at "
            f"strides {', '.join(map(str, strides))}, such as a ResNet, RegNet or ConvNeXt"
        ) from None
    missing = [stride for stride in strides if stride not in reductions]
    if missing:
        raise ConfigError(
            f"backbone {settings.name!r} has features at strides "
            f"{', '.join(map(str, sorted(set(reductions))))}, but a detector needs "
            f"{', '.join(map(str, strides))}"
        )
    numbers: Sequence[int] = net.feature_info.out_indices
    indices = tuple(numbers[_last_index(reductions, stride)] for stride in strides)
    early = [n for n, stride in enumerate(reductions) if stride <= 2**settings.frozen_stages]
    if settings.frozen_stages == 0 or not early:
        return indices, set()
    maps = _run(net.eval(), "meta")[: early[-1] + 1]
    total = torch.stack([level.sum() for level in maps]).sum()
    names, parameters = zip(*net.named_parameters(), strict=True)
    grads = torch.autograd.grad(total, parameters, allow_unused=True)
    return indices, {name for name, grad in zip(names, grads, strict=True) if grad is not None}


def _run(net: nn.Module, device: str = "cpu") -> list[Tensor]:
    """The maps of a small image."""
    try:
        with torch.device(device):
            maps: list[Tensor] = net(torch.zeros(1, 3, 64, 64))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ConfigError(f"the backbone doesn't accept images of any size ({error})") from None
    return maps


def _last_index(reductions: list[int], stride: int) -> int:
    return len(reductions) - 1 - reductions[::-1].index(stride)


def load_backbone_weights(net: nn.Module, path: str | Path) -> None:
    """Load a file with timm's key names into a model with ``features_only``.

    Nothing in the file is executed.

    Raises:
        ConfigError: the file is missing or unreadable, or a weight is missing or of another shape.
    """
    given = {key.replace(".", "_"): value for key, value in read_state_dict(path).items()}
    own = net.state_dict()
    loaded: dict[str, Tensor] = {}
    missing, misshapen = [], []
    for key, value in own.items():
        found = given.get(key.replace(".", "_"))  # timm flattens nested names in feature models
        if found is None:
            if not key.endswith("num_batches_tracked"):
                missing.append(key)
        elif found.shape != value.shape:
            misshapen.append(f"{key} {tuple(found.shape)} for {tuple(value.shape)}")
        else:
            loaded[key] = found
    for what, keys in (("lacks", missing), ("has the wrong shape in", misshapen)):
        if keys:
            raise ConfigError(
                f"{path}: not weights of this backbone with timm's names: of {len(own)} tensors "
                f"it {what} {len(keys)}, such as {keys[0]}"
            )
    net.load_state_dict(loaded, strict=False)


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Tensors by name from a .safetensors file or a PyTorch checkpoint (``weights_only``).

    Raises:
        ConfigError: the file is missing, damaged, or contains something else.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path}: no such weights file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        data = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and safetensors raise many exceptions
        # Not torch's message, which recommends to allow executing the file's code.
        raise ConfigError(
            f"{path}: not a readable weights file: damaged, not a PyTorch or safetensors file of "
            f"named tensors, or with executable code ({type(error).__name__})"
        ) from None
    for nested in ("state_dict", "model"):
        if isinstance(data, dict) and isinstance(data.get(nested), dict):
            data = data[nested]
    if not isinstance(data, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in data.items()
    ):
        raise ConfigError(f"{path}: contains no state dict (tensors by name)")
    return data
