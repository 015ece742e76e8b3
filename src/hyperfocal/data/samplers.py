"""Samplers: the images of each epoch, as a pure function of (annotations, seed, epoch)."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from hyperfocal.config import Config
from hyperfocal.types import AnnotationSet, CategoryCounts, DataError

# Last word of a generator's key. It keeps the order of images apart from their augmentation
# (`batches.Sampled.rng`): numpy pads short keys with zeros, so length alone would not.
_KEY = 1


class Sampler(Protocol):
    """Gives the images of each epoch.

    Attributes:
        epoch_length: number of images in an epoch; the expected number if it varies.
    """

    epoch_length: float

    def epoch_indices(self, epoch: int) -> NDArray[np.int64]:
        """``(N,)`` int64 indices into ``AnnotationSet.images``, shuffled."""
        ...


@dataclass(frozen=True)
class SamplerConfig(Config, role=True):
    """Settings of a sampler."""

    @abstractmethod
    def build(self, annotations: AnnotationSet, seed: int) -> Sampler:
        """The sampler for a training split.

        Raises:
            DataError: the split lacks something that the sampler needs, such as boxes.
        """


def _rng(seed: int, epoch: int) -> np.random.Generator:
    return np.random.default_rng([seed, epoch, 0, _KEY])


class PlainSampler:
    """Every image once an epoch, in a new order each time."""

    @dataclass(frozen=True)
    class Config(SamplerConfig):
        """Every image once an epoch."""

        kind: ClassVar[str] = "plain"

        def build(self, annotations: AnnotationSet, seed: int) -> PlainSampler:
            """The sampler for a training split."""
            return PlainSampler(len(annotations.images), seed)

    def __init__(self, num_images: int, seed: int) -> None:
        self.seed = seed
        self.num_images = num_images
        self.epoch_length = float(num_images)

    def epoch_indices(self, epoch: int) -> NDArray[np.int64]:
        """A permutation of all images."""
        return _rng(self.seed, epoch).permutation(self.num_images)


def category_repeat_factors(counts: CategoryCounts, threshold: float) -> NDArray[np.float64]:
    """Repeat factor of each category, ``r_c = max(1, sqrt(t / f_c))``.

    ``f_c`` is the fraction of training images that contain the category (Gupta et al. 2019, LVIS,
    section 5). A category without images gets 1.

    Args:
        counts: images and boxes per category of the training split.
        threshold: ``t``; categories in fewer than this fraction of the images are repeated.

    Returns:
        ``(K,)`` float64, at least 1.

    Examples:
        >>> counts = CategoryCounts(images=(1, 101), instances=(1, 300), num_images=100_170)
        >>> category_repeat_factors(counts, 0.001).round(4)
        array([10.0085,  1.    ])
    """
    images = np.asarray(counts.images, dtype=np.float64)
    fraction = np.where(images > 0, images, np.inf) / max(counts.num_images, 1)
    return np.maximum(1.0, np.sqrt(threshold / fraction))


def image_repeat_factors(annotations: AnnotationSet, threshold: float) -> NDArray[np.float64]:
    """Repeat factor of each image: the largest one of its categories, or 1 without boxes.

    Returns:
        ``(M,)`` float64, at least 1.
    """
    factors = category_repeat_factors(annotations.counts(), threshold)
    return np.array(
        [factors[record.labels[~record.crowd]].max(initial=1.0) for record in annotations.images]
    )


class RepeatFactorSampler:
    """Repeat factor sampling (RFS): images with rare categories are repeated in an epoch.

    An image is repeated ``r`` times (`image_repeat_factors`), which isn't an integer.
    ``"stochastic"`` rounds it randomly in every epoch, up with the probability of its fractional
    part, so that the mean is ``r`` (LVIS's authors); ``"ceil"`` always rounds up (the released code
    of Equalized Focal Loss). An epoch contains all repetitions.
    """

    @dataclass(frozen=True)
    class Config(SamplerConfig):
        """Images with rare categories come several times an epoch (LVIS)."""

        kind: ClassVar[str] = "rfs"

        threshold: float = 0.001
        """Categories in fewer than this fraction of the images are repeated."""
        rounding: Literal["stochastic", "ceil"] = "stochastic"
        """How a repeat factor becomes a whole number."""

        def __post_init__(self) -> None:
            self._require(0 < self.threshold <= 1, "threshold", "in (0, 1]")

        def build(self, annotations: AnnotationSet, seed: int) -> RepeatFactorSampler:
            """The sampler for a training split."""
            factors = image_repeat_factors(annotations, self.threshold)
            return RepeatFactorSampler(factors, self.rounding, seed)

    def __init__(
        self, factors: NDArray[np.float64], rounding: Literal["stochastic", "ceil"], seed: int
    ) -> None:
        self.seed = seed
        self.rounding = rounding
        # A factor that is whole but for rounding error must not be rounded up.
        self.factors = np.ceil(factors - 1e-9) if rounding == "ceil" else factors
        self.epoch_length = float(self.factors.sum())

    def epoch_indices(self, epoch: int) -> NDArray[np.int64]:
        """Image indices, repeated by their factors and shuffled."""
        rng = _rng(self.seed, epoch)
        whole = np.floor(self.factors)
        repeats = whole + (rng.random(len(whole)) < self.factors - whole)
        return rng.permutation(np.repeat(np.arange(len(whole)), repeats.astype(np.int64)))


class ClassBalancedSampler:
    """Class-balanced sampling (CBS): samples a category uniformly, then an image that contains it.

    Categories are sampled in shuffled rounds, each once per round, and so are the images of a
    category. An epoch has as many images as the split. Images without boxes are never sampled (Kang
    et al. 2020, "Decoupling", section 3).
    """

    @dataclass(frozen=True)
    class Config(SamplerConfig):
        """All categories equally often, whatever their number of images."""

        kind: ClassVar[str] = "class_balanced"

        def build(self, annotations: AnnotationSet, seed: int) -> ClassBalancedSampler:
            """The sampler for a training split."""
            images: list[list[int]] = [[] for _ in annotations.categories]
            for n, record in enumerate(annotations.images):
                for label in np.unique(record.labels[~record.crowd]).tolist():
                    images[label].append(n)
            members = [np.array(found, dtype=np.int64) for found in images if found]
            if not members:
                raise DataError(f"{annotations.source}: no boxes to balance categories by")
            return ClassBalancedSampler(members, len(annotations.images), seed)

    def __init__(self, members: list[NDArray[np.int64]], num_draws: int, seed: int) -> None:
        self.seed = seed
        self.members = members
        self.num_draws = num_draws
        self.epoch_length = float(num_draws)

    def epoch_indices(self, epoch: int) -> NDArray[np.int64]:
        """Image indices, sampled category by category."""
        rng = _rng(self.seed, epoch)
        classes = _rounds(np.arange(len(self.members)), self.num_draws, rng)
        indices = np.empty(self.num_draws, dtype=np.int64)
        for label, members in enumerate(self.members):
            turns = np.flatnonzero(classes == label)
            indices[turns] = _rounds(members, len(turns), rng)
        return indices


class ImageWeightSampler:
    """Image weights by category: each image is sampled by the frequency of its categories.

    A category in ``n_c`` images is sampled with a probability proportional to ``n_c^power``, and
    then one of its images uniformly, so that an image's weight is:

        w = Σ_c n_c^(power - 1)    over the categories c in the image

    Power 0 weights all categories equally, as `ClassBalancedSampler` does; 1/2 is square-root
    sampling; 1 keeps their frequencies (Kang et al. 2020, "Decoupling", section 3). Unlike there,
    the number of times that an image occurs in an epoch is its expected number rounded up or down.
    An epoch has as many images as the split. Images without boxes are never sampled.
    """

    @dataclass(frozen=True)
    class Config(SamplerConfig):
        """Images weighted by the categories in them, between even and as they occur."""

        kind: ClassVar[str] = "image_weights"

        power: float = 0.5
        """A category in n images is sampled in proportion to n^power (0: equally)."""

        def __post_init__(self) -> None:
            self._require(0 <= self.power <= 1, "power", "in [0, 1]")

        def build(self, annotations: AnnotationSet, seed: int) -> ImageWeightSampler:
            """The sampler for a training split."""
            return ImageWeightSampler(image_weights(annotations, self.power), seed)

    def __init__(self, weights: NDArray[np.float64], seed: int) -> None:
        self.seed = seed
        self.expected = weights * (len(weights) / weights.sum())
        self.epoch_length = float(len(weights))

    def epoch_indices(self, epoch: int) -> NDArray[np.int64]:
        """Image indices, sampled by weight."""
        rng = _rng(self.seed, epoch)
        drawable = rng.permutation(np.flatnonzero(self.expected))
        # A comb of teeth one apart, laid over the images side by side, each as wide as its weight.
        ends = self.expected[drawable].cumsum()
        teeth = rng.random() + np.arange(len(self.expected))
        hit = np.searchsorted(ends, teeth, side="right").clip(max=len(drawable) - 1)
        return rng.permutation(drawable[hit])


def image_weights(annotations: AnnotationSet, power: float) -> NDArray[np.float64]:
    """Weight of each image, see `ImageWeightSampler`; 0 without boxes.

    Returns:
        ``(M,)`` float64.

    Raises:
        DataError: no image has boxes.
    """
    images = np.array(annotations.counts().images, dtype=np.float64)
    per_category = np.where(images > 0, np.maximum(images, 1) ** (power - 1), 0.0)
    weights = np.array(
        [
            per_category[np.unique(record.labels[~record.crowd])].sum()
            for record in annotations.images
        ]
    )
    if not weights.any():
        raise DataError(f"{annotations.source}: no boxes to weigh images by")
    return weights


def _rounds(values: NDArray[np.int64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """``count`` values from consecutive shuffled rounds through all values."""
    rounds = [rng.permutation(values) for _ in range(-(-count // len(values)))]
    return np.concatenate([*rounds, values[:0]])[:count]
