"""Fine-tuning: a detector starts with another one's weights (``--model.weights RUN|FILE``).

Tensors of the same name and shape are copied. The last classification convolution has a row for
each anchor and category: rows of categories of the same name are copied, the others keep their
initialisation, with the prior in their bias. So the number of categories may differ, and before the
first step a kept category is detected exactly as by the source.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hyperfocal import config as configs
from hyperfocal.files import shown
from hyperfocal.fine_tuning.source import Source, check_backbone, read_source, some
from hyperfocal.losses._core.memory import own_buffers
from hyperfocal.models import CategoryRows, Detector, DetectorConfig
from hyperfocal.types import Category, CategoryCounts, ConfigError

OF_TRAINING = (
    *(
        "weights",
        "reset_classifier",
        "loss",
        "mining",
        "assigner",
        "box_loss",
        "box_weight",
        "divisor",
        "normalizer",
        "inference",
    ),
    *(
        "stream_from",
        "head.prior_probability",
        "backbone.name",
        "backbone.pretrained",
        "backbone.weights",
    ),
    *("backbone.frozen_stages", "backbone.norm", "pixels.mean", "pixels.std", "quality.weight"),
    "stream_logits",
)
"""Detector settings that don't affect the meaning of the weights, or are saved with them."""


@dataclass(frozen=True)
class Transfer:
    """What was copied from a `Source` to a detector.

    Attributes:
        source: path of the run or file.
        taken: names of the tensors copied, with the classifier's if a row was.
        left: the detector's other tensors, which keep their initialisation.
        unused: the source's other tensors.
        kept: categories whose rows of the classifier were copied.
        new: the other categories, newly initialised.
        dropped: the source's other categories.
        similar: of ``new``, the source's category of nearly the same name.
        no_names: the source has no category names, so that no row could be copied.
        settings: those that differ between the two detectors, ``(name, own, source's)``.
    """

    source: Path
    taken: tuple[str, ...]
    left: tuple[str, ...]
    unused: tuple[str, ...]
    kept: tuple[str, ...]
    new: tuple[str, ...]
    dropped: tuple[str, ...]
    similar: Mapping[str, str]
    no_names: bool
    settings: tuple[tuple[str, Any, Any], ...]

    def as_json(self) -> dict[str, Any]:
        """As JSON-serializable values, for environment.json."""
        return {
            "source": str(self.source),
            "tensors_taken": list(self.taken),
            "tensors_new": list(self.left),
            "tensors_unused": list(self.unused),
            "categories_kept": list(self.kept),
            "categories_new": list(self.new),
            "categories_dropped": list(self.dropped),
            "settings_that_differ": [list(row) for row in self.settings],
        }

    def __str__(self) -> str:
        total = len(self.taken) + len(self.left)
        lines = [f"{self.source}: {len(self.taken)} of {total} tensors copied"]
        if self.left:
            lines[0] += f"; new: {some(self.left)}"
        if self.no_names:
            lines.append(
                "the classifier is newly initialised: there is no categories.json beside the "
                "weights, so the categories of its outputs are unknown"
            )
        else:
            parts = [f"kept by name: {some(self.kept)}"] if self.kept else []
            parts += [f"new: {some(self.new)}"] if self.new else []
            parts += [f"dropped: {some(self.dropped)}"] if self.dropped else []
            total = len(self.kept) + len(self.new)
            lines.append(f"{len(self.kept)} of {total} categories {'; '.join(parts)}")
        lines += [
            f"{shown(new)} is new, but the source has {shown(old)}"
            for new, old in self.similar.items()
        ]
        if self.settings:
            rows = [f"model.{name} = {own} (source: {its})" for name, own, its in self.settings]
            lines.append(f"settings that change the meaning of the weights: {'; '.join(rows)}")
        return "\n  ".join(lines)


def build_detector(
    config: DetectorConfig,
    categories: Sequence[Category],
    counts: CategoryCounts | None,
    resumes: bool = False,
) -> tuple[Detector, Transfer | None]:
    """Build the detector for training, with its initial weights.

    Args:
        config: with or without ``weights``.
        categories: in label order.
        counts: how often each occurs in training.
        resumes: a checkpoint is loaded next, so no initial weights are read or downloaded.

    Raises:
        ConfigError: the weights can't be read, or don't fit.
    """
    k = len(categories)
    if resumes:
        return config.offline().build(k, counts), None
    if config.weights is None:
        if config.reset_classifier:
            raise ConfigError(
                "model.reset_classifier needs the weights of a trained detector: give --from RUN"
            )
        return config.build(k, counts), None
    source = read_source(config.weights)
    model = config.offline().build(k, counts)
    return model, transfer(model, source, [c.name for c in categories], configs.dump(config))


@torch.no_grad()
def transfer(
    model: Detector, source: Source, names: Sequence[str], settings: Mapping[str, Any]
) -> Transfer:
    """Copy the tensors of ``source`` that fit into ``model``.

    Statistics of the training data are not copied; a loss's memory is copied only for the same
    categories, in the same order, and a loss of the same kind.

    Args:
        model: newly initialised.
        source: the weights to start from.
        names: of the model's categories, in label order.
        settings: of the model, as in config.json.

    Raises:
        ConfigError: the source lacks part of the backbone, so it is another detector's.
    """
    own, given = model.state_dict(), source.tensors
    fitting = {n: given[n] for n, v in own.items() if n in given and given[n].shape == v.shape}
    check_backbone(source, own, fitting, settings)
    of_data = tuple(f"{module}." for module in model.statistics)
    memory = _memory(model, fitting, source, names, settings)
    fitting = {n: v for n, v in fitting.items() if n in memory or not n.startswith(of_data)}
    pairs = _pairs(names, source.categories)
    classifier = f"{model.classifier}."  # one layer, or a list of layers
    if model.classifier is not None:  # without an order of its rows, it starts anew
        fitting = {n: v for n, v in fitting.items() if not n.startswith(classifier)}
    keeps = False
    for rows in model.category_rows:
        mixed = {
            name: _rows(value, given.get(name), rows, len(names), source.categories, pairs)
            for name, value in own.items()
            if name.rpartition(".")[0] == rows.layer
        }
        fitting = {name: value for name, value in fitting.items() if name not in mixed}
        classifies = f"{rows.layer}.".startswith(classifier)
        if classifies and settings.get("reset_classifier"):
            continue
        if pairs and all(value is not None for value in mixed.values()):
            fitting |= {name: value for name, value in mixed.items() if value is not None}
            keeps = keeps or classifies
    pairs = pairs if keeps else {}
    model.load_state_dict(fitting, strict=False)
    new = [name for label, name in enumerate(names) if label not in pairs]
    dropped = [n for m, n in enumerate(source.categories or ()) if m not in pairs.values()]
    return Transfer(
        source.path,
        taken=tuple(fitting),
        left=tuple(n for n in own if n not in fitting and not n.endswith("num_batches_tracked")),
        unused=tuple(name for name in given if name not in fitting),
        kept=tuple(names[label] for label in pairs),
        new=tuple(new),
        dropped=tuple(dropped),
        similar=_similar(new, dropped),
        no_names=source.categories is None,
        settings=tuple(_differences(settings, source.model)),
    )


def _pairs(names: Sequence[str], source: Sequence[str] | None) -> dict[int, int]:
    """The source's label for each label, if both have a category of that name.

    A name that several categories share matches none, unless all categories are the same.
    """
    if source is None:
        return {}
    if list(names) == list(source):
        return {label: label for label in range(len(names))}
    times, theirs = Counter(names), Counter(source)
    label_of = {name: label for label, name in enumerate(source) if theirs[name] == 1}
    return {
        label: label_of[name]
        for label, name in enumerate(names)
        if times[name] == 1 and name in label_of
    }


def _rows(
    own: Tensor,
    given: Tensor | None,
    rows: CategoryRows,
    k: int,
    source: Sequence[str] | None,
    pairs: Mapping[int, int],
) -> Tensor | None:
    """A layer's own tensor with the rows of the paired categories, and of no category, replaced.

    None if the source has other anchors or channels.
    """
    if given is None or not source or given.shape[1:] != own.shape[1:]:
        return None
    n, theirs = rows.per_category, len(source)
    if len(given) != theirs * n + rows.others:
        return None
    mixed, dim = own.clone(), 0 if rows.category_first else 1

    def by_category(tensor: Tensor, categories: int) -> Tensor:
        shape = (categories, n) if rows.category_first else (n, categories)
        return tensor[: categories * n].view(*shape, *own.shape[1:])

    new = torch.tensor(list(pairs), dtype=torch.int64, device=own.device)
    old = torch.tensor(list(pairs.values()), dtype=torch.int64, device=own.device)
    taken = by_category(given.to(own), theirs).index_select(dim, old)
    by_category(mixed, k).index_copy_(dim, new, taken)
    mixed[k * n :] = given[theirs * n :].to(own)
    return mixed


def _memory(
    model: Detector,
    fitting: Mapping[str, Tensor],
    source: Source,
    names: Sequence[str],
    settings: Mapping[str, Any],
) -> set[str]:
    """Buffers of a loss with memory, if it is the same loss with the same categories."""
    losses = [side.get("loss", {}) for side in (settings, source.model)]
    kinds = [(loss.get("kind"), loss.get("class")) for loss in losses]
    buffers = set(own_buffers(model)) & model.state_dict().keys()
    same = list(source.categories or ()) == list(names) and kinds[0] == kinds[1]
    return buffers if same and buffers <= fitting.keys() else set()


def _similar(new: Sequence[str], dropped: Sequence[str]) -> dict[str, str]:
    """Names that differ only in case, spaces and dashes."""

    def plain(name: str) -> str:
        return "".join(c for c in name.casefold() if c.isalnum())

    known = {plain(name): name for name in dropped}
    return {name: known[plain(name)] for name in new if plain(name) in known and plain(name)}


def _differences(own: Mapping[str, Any], source: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Settings that affect the meaning of the weights and differ between the detectors."""
    if not source:
        return []
    mine, theirs = dict(configs.by_name(own)), dict(configs.by_name(source))
    return [
        (name, mine[name], theirs[name])
        for name in mine
        if name in theirs and mine[name] != theirs[name] and not _is_of_training(name)
    ]


def _is_of_training(name: str) -> bool:
    return any(name == one or name.startswith(f"{one}.") for one in OF_TRAINING)
