"""Settings of the data: files, sampling, augmentation and loading."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from hyperfocal import config
from hyperfocal.data.formats.base import AnnotationFormat
from hyperfocal.data.formats.openimages_split import OpenImagesFiles
from hyperfocal.data.images import MAX_PIXELS
from hyperfocal.data.samplers import PlainSampler, SamplerConfig
from hyperfocal.data.transforms import TransformConfig


@dataclass(frozen=True)
class Split(config.Config):
    """Files of a split."""

    annotations: Path | None = None
    """COCO .json file, YOLO data.yaml or folder, folder of Pascal VOC .xml files, or CSV of Open
    Images' boxes."""
    images: Path | None = None
    """Image folder; by default, that of the format."""
    classes: Path | None = None
    """Open Images: class descriptions CSV; for val by default those of train."""
    image_labels: Path | None = None
    """Open Images: CSV of verified image labels, for its protocol."""
    hierarchy: Path | None = None
    """Open Images: hierarchy JSON, for its protocol."""
    more_annotations: tuple[Path, ...] = ()
    """Further annotation files of the split, in the same format; categories are joined by name."""
    more_images: tuple[Path, ...] = ()
    """Image folder for each of more_annotations; by default, that of annotations."""

    def __post_init__(self) -> None:
        fits = len(self.more_images) in (0, len(self.more_annotations))
        self._require(fits, "more_images", "one folder for each of more_annotations, or none")
        has_first = self.annotations is not None or not self.more_annotations
        self._require(has_first, "more_annotations", "empty without annotations")

    @property
    def files(self) -> tuple[tuple[Path, Path | None], ...]:
        """Every annotation file with its image folder."""
        if self.annotations is None:
            return ()
        folders: tuple[Path | None, ...] = self.more_images
        folders = folders or (self.images,) * len(self.more_annotations)
        more = zip(self.more_annotations, folders, strict=True)
        return ((self.annotations, self.images), *more)

    @property
    def openimages(self) -> OpenImagesFiles:
        """The files of Open Images."""
        return OpenImagesFiles(self.classes, self.image_labels, self.hierarchy)


@dataclass(frozen=True)
class DataConfig(config.Config):
    """Training and validation data, and how images are sampled, augmented and loaded."""

    train: Split = field(default_factory=Split)
    """The training split."""
    val: Split = field(default_factory=Split)
    """The validation split."""
    categories: tuple[str, ...] = ()
    """Names of the categories to train on; none: all. Objects of the others count as background."""
    format: AnnotationFormat | None = None
    """A dataset format of your own: module:Class (docs/extend.md); none: detected."""
    sampler: SamplerConfig = field(default_factory=PlainSampler.Config)
    """Images of an epoch."""
    train_transform: TransformConfig = field(default_factory=lambda: TransformConfig(flip=0.5))
    """Resizing and augmentation of training images."""
    val_transform: TransformConfig = field(default_factory=TransformConfig)
    """Resizing of images for evaluation and prediction."""
    group_by_aspect: bool = True
    """Put landscape and portrait images into separate batches, which needs less padding."""
    divisor: int = 32
    """Batches are padded to a multiple of this many pixels."""
    workers: int = 1
    """Number of processes that load images; 0: images are loaded in the main process."""
    check: Literal["none", "headers", "decode"] = "headers"
    """Check of image files before training: none, their headers and ends, or by decoding them."""
    bad_images: Literal["error", "skip"] = "error"
    """Images that can't be used: stop with an error, or skip them with a warning."""
    max_broken: float = 0.01
    """Maximum share of a split's images that may become unreadable during a run. They are counted
    and replaced; above this share the run stops and lists them. Each process counts the images that
    it reads."""
    max_pixels: int = MAX_PIXELS
    """Maximum number of pixels of an image file, which protects against files that would fill the
    memory."""
    follow_links: bool = False
    """Allow image files that are links to files outside the image folder. Links in a downloaded
    archive may point to any file on this machine."""

    def __post_init__(self) -> None:
        self._require(self.divisor >= 1, "divisor", "at least 1")
        self._require(self.workers >= 0, "workers", "at least 0")
        self._require(self.max_pixels >= 1, "max_pixels", "at least 1")
        self._require(0 <= self.max_broken <= 1, "max_broken", "a share in [0, 1]")
        self._require(not self.val_transform.is_random, "val_transform", "free of randomness")

    @property
    def val_split(self) -> Split:
        """``val``, for Open Images with the class descriptions of train unless it has its own."""
        boxes = self.val.annotations
        if self.val.classes is None and boxes is not None and boxes.suffix.lower() == ".csv":
            return replace(self.val, classes=self.train.classes)
        return self.val
