"""Data types shared by the packages.

Label convention: ``0..K-1`` a category, ``K`` background, ``-1`` ignored.
Box convention: float ``(x1, y1, x2, y2)`` in pixels, half-open, no "+1 pixel".
"""

from hyperfocal.types.annotations import (
    AnnotationSet,
    Category,
    CategoryCounts,
    Federated,
    ImageRecord,
    ImageSource,
    OpenImagesBoxes,
    OpenImagesLists,
    OpenImagesTruth,
    category_index,
)
from hyperfocal.types.batch import (
    Batch,
    Sample,
    Target,
)
from hyperfocal.types.detection import (
    IGNORED,
    Assignment,
    Detections,
    LossTerms,
    Priors,
)
from hyperfocal.types.errors import (
    ConfigError,
    DataError,
    HyperfocalError,
    HyperfocalWarning,
)

__all__ = [
    "IGNORED",
    "AnnotationSet",
    "Assignment",
    "Batch",
    "Category",
    "CategoryCounts",
    "ConfigError",
    "DataError",
    "Detections",
    "Federated",
    "HyperfocalError",
    "HyperfocalWarning",
    "ImageRecord",
    "ImageSource",
    "LossTerms",
    "OpenImagesBoxes",
    "OpenImagesLists",
    "OpenImagesTruth",
    "Priors",
    "Sample",
    "Target",
    "category_index",
]
