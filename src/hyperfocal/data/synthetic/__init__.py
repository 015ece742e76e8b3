"""A synthetic long-tailed detection dataset: images, boxes and what its categories look like."""

from hyperfocal.data.synthetic.dataset import (
    MARKER,
    SyntheticConfig,
    categories,
    generated_with,
    is_generated,
    make_dataset,
    train_image_counts,
    val_image_counts,
)

__all__ = [
    "MARKER",
    "SyntheticConfig",
    "categories",
    "generated_with",
    "is_generated",
    "make_dataset",
    "train_image_counts",
    "val_image_counts",
]
