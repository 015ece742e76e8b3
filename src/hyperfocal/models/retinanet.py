"""RetinaNet (Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from torch import nn

from hyperfocal.models.dense import NOTHING_BUILT, DenseConfig, DenseDetector, DenseParts
from hyperfocal.models.divisors import DivisorKind, LossDivisors
from hyperfocal.ops import DeltaCoder, DeltaWeights
from hyperfocal.types import CategoryCounts


class RetinaNet(DenseDetector):
    """Nine anchors per location, assigned by IoU, with focal loss over all of them.

    Args:
        num_classes: K.
        counts: images and boxes per category, for losses that weight categories.
        config: the settings; default: `RetinaNet.Config()`.
        settings: settings that override the config's, see `DenseConfig.with_settings`.

    Examples:
        >>> import hyperfocal, torch
        >>> from hyperfocal.models import Backbone
        >>> small = Backbone.Config("test_resnet", pretrained=False)
        >>> model = hyperfocal.RetinaNet(num_classes=3, backbone=small)
        >>> images = [torch.rand(3, 64, 96)]
        >>> boxes = torch.tensor([[8.0, 8.0, 60.0, 56.0]])
        >>> targets = [{"boxes": boxes, "labels": torch.tensor([1])}]
        >>> sorted(model(images, targets))
        ['box', 'classification']
        >>> sorted(model.eval()(images)[0])
        ['boxes', 'labels', 'scores']

    From a config: ``RetinaNet.Config(...).build(num_classes=3)``.
    """

    @dataclass(frozen=True)
    class Config(DenseConfig):
        """Settings of `RetinaNet`; the defaults are the paper's, as far as stated there."""

        kind: ClassVar[str] = "retinanet"

        renamed: ClassVar[Mapping[str, str]] = MappingProxyType({"normalizer": "divisor"})

        divisor: DivisorKind = "global"
        """Divisor of the losses: number of positives in the step over all processes (global), in
        each image (per_image), or a moving average of the former (ema)."""
        delta_weights: DeltaWeights = (1.0, 1.0, 1.0, 1.0)
        """Factors on the encoded box deltas x, y, w, h."""

        def __post_init__(self) -> None:
            super().__post_init__()
            self._require(all(w > 0 for w in self.delta_weights), "delta_weights", "positive")

        def parts(
            self,
            num_classes: int,
            counts: CategoryCounts | None = None,
            built: Mapping[str, nn.Module] = NOTHING_BUILT,
        ) -> DenseParts:
            """See `DenseConfig.compose`."""
            return self.compose(
                num_classes,
                counts,
                built,
                assigner=built.get("assigner") or self.assigner.build(num_classes),
                coder=DeltaCoder(self.delta_weights),
                divisors=LossDivisors(self.divisor),
            )

        def build(self, num_classes: int, counts: CategoryCounts | None = None) -> RetinaNet:
            """The detector for K categories, in channels_last memory.

            Args:
                num_classes: K.
                counts: images and boxes per category, for losses that weight categories.

            Raises:
                ConfigError: incompatible parts, or backbone weights that can't be loaded.
            """
            return RetinaNet(num_classes, counts=counts, config=self)

    def __init__(
        self,
        num_classes: int,
        *,
        counts: CategoryCounts | None = None,
        config: RetinaNet.Config | None = None,
        **settings: Any,
    ) -> None:
        chosen, built = (config or RetinaNet.Config()).with_settings(settings)
        super().__init__(chosen.parts(num_classes, counts, built))
