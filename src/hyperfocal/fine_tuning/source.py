"""Sources of initial weights for fine-tuning: a run folder or a weights file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from hyperfocal.models.backbone import read_state_dict
from hyperfocal.names import command, one_name
from hyperfocal.runs.categories import TrainedCategories
from hyperfocal.runs.folder import RunFolder
from hyperfocal.runs.json_files import read_json
from hyperfocal.types import ConfigError

SHOWN = 5
"""Maximum number of names in a line; environment.json has all of them."""


@dataclass(frozen=True)
class Source:
    """A trained detector to start from.

    Attributes:
        path: as given by the user.
        tensors: by name.
        categories: names in label order; None without a categories.json beside the weights.
        model: settings of the detector, as in config.json; empty without one.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    categories: tuple[str, ...] | None
    model: Mapping[str, Any]


def read_source(path: Path) -> Source:
    """Read a run folder, or a weights file inside or outside a run folder.

    Raises:
        ConfigError: there is no such run or file, or it is something else.
    """
    if path.is_dir():
        run = RunFolder(path)
        if not run.config.exists():
            raise ConfigError(f"{path}: not a run folder (it has no {run.config.name})")
        if not run.weights.exists():
            raise ConfigError(
                f"{path}: no weights yet ({run.weights.name}); has the run finished an evaluation?"
            )
        file = run.weights
    else:
        run, file = RunFolder(path.parent), path
        whole = RunFolder(path.parent.parent)
        if whole.config.exists() and whole.checkpoints == path.parent:
            raise ConfigError(
                f"{path} is a checkpoint, for --resume; to start from the run's best weights give "
                f"its folder, {whole.path}"
            )
    tensors = read_state_dict(file)
    categories: tuple[str, ...] | None = None
    model: Any = None
    if run.categories.exists():
        found = TrainedCategories.from_json(read_json(run.categories), run.categories)
        categories = tuple(category.name for category in found.categories)
    if run.config.exists():
        data = read_json(run.config)
        model = data.get("model", {}) if isinstance(data, dict) else {}
    return Source(path, tensors, categories, model if isinstance(model, dict) else {})


def check_out(run: RunFolder, weights: Path | None) -> None:
    """Raise `ConfigError` if a new run would overwrite the weights that it starts from."""
    if weights is None:
        return
    out, source = run.path.resolve(), weights.resolve()
    if out == source or out in source.parents:
        raise ConfigError(
            f"--out {run.path} contains the model.weights ({weights}), which would be overwritten: "
            "choose another --out"
        )


def check_backbone(
    source: Source,
    own: Mapping[str, Tensor],
    fitting: Mapping[str, Tensor],
    settings: Mapping[str, Any],
) -> None:
    """Raise `ConfigError` if the source lacks part of the backbone.

    Args:
        source: the weights.
        own: the detector's tensors by name.
        fitting: the source's tensors that fit.
        settings: of the detector, as in config.json.
    """
    wanted = [n for n in own if n.startswith("backbone.") and not n.endswith("batches_tracked")]
    missing = [name for name in wanted if name not in fitting]
    if not missing and fitting:
        return
    holds = f"it has {len(source.tensors)} tensors, such as {some(list(source.tensors), 3)}"
    name = settings.get("backbone", {}).get("name")
    lacks = (
        f"{len(missing)} of the {len(wanted)} tensors of the backbone {name} are missing or have "
        f"another shape, such as {missing[0]}"
        if missing
        else "it has none of this detector's tensors"
    )
    raise ConfigError(
        f"{source.path}: not weights of this detector: {lacks}; {holds}. "
        + _advice(source, wanted, settings)
    )


def _advice(source: Source, wanted: Sequence[str], settings: Mapping[str, Any]) -> str:
    theirs = source.model.get("backbone", {}).get("name")
    if theirs is not None and theirs != settings.get("backbone", {}).get("name"):
        return f"Its run's backbone is {theirs}: add --model.backbone.name {command(theirs)}"
    names = source.tensors.keys()
    if any(name.startswith(("backbone.body.", "head.classification_head.")) for name in names):
        first = command("hyperfocal", "import", "torchvision", source.path)
        return f"They look like torchvision's: {first} --out RUN, then --model.weights RUN"
    plain = {name.removeprefix("backbone.net.").replace(".", "_") for name in wanted}
    if plain & {name.replace(".", "_") for name in names}:
        return f"They look like backbone weights: --model.backbone.weights {command(source.path)}"
    return "Give a run folder, or the model.safetensors of one, with the same backbone"


def some(names: Sequence[str], most: int = SHOWN) -> str:
    """The first names of a list, and the number of further ones."""
    rest = len(names) - most
    return ", ".join(map(one_name, names[:most])) + (f" and {rest} more" if rest > 0 else "")
