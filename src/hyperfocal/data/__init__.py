"""Annotations, images, transforms, samplers and loaders."""

from hyperfocal.data.annotations import read_annotations
from hyperfocal.data.batches import BatchStream, Sampled
from hyperfocal.data.broken import BrokenFileWarning
from hyperfocal.data.datasets import annotations_of
from hyperfocal.data.formats import (
    AnnotationFormat,
    RawAnnotations,
    RawImage,
    Row,
    SplitName,
    raw_from_rows,
)
from hyperfocal.data.images import read_image, to_image
from hyperfocal.data.loader import epoch_length, eval_batches, train_batches
from hyperfocal.data.samplers import (
    ClassBalancedSampler,
    ImageWeightSampler,
    PlainSampler,
    RepeatFactorSampler,
    Sampler,
    SamplerConfig,
    category_repeat_factors,
    image_repeat_factors,
)
from hyperfocal.data.samples import collate, load_sample, prepare_image
from hyperfocal.data.settings import DataConfig, Split
from hyperfocal.data.subset import only_categories
from hyperfocal.data.transforms import TransformConfig, TransformStep, resized_hw, transform

__all__ = [
    "AnnotationFormat",
    "BatchStream",
    "BrokenFileWarning",
    "ClassBalancedSampler",
    "DataConfig",
    "ImageWeightSampler",
    "PlainSampler",
    "RawAnnotations",
    "RawImage",
    "RepeatFactorSampler",
    "Row",
    "Sampled",
    "Sampler",
    "SamplerConfig",
    "Split",
    "SplitName",
    "TransformConfig",
    "TransformStep",
    "annotations_of",
    "category_repeat_factors",
    "collate",
    "epoch_length",
    "eval_batches",
    "image_repeat_factors",
    "load_sample",
    "only_categories",
    "prepare_image",
    "raw_from_rows",
    "read_annotations",
    "read_image",
    "resized_hw",
    "to_image",
    "train_batches",
    "transform",
]
