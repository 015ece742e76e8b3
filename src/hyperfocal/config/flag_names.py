"""Names of command-line flags: short ones, and the closest ones to a misspelt flag."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence

from hyperfocal.config.base import Config, components, hints, listed, roles_of, walk

ALIASES = {
    "loss": "model.loss",
    "mining": "model.mining",
    "sampler": "data.sampler",
    "lr": "train.lr",
    "epochs": "train.epochs",
    "on-nonfinite": "train.on-nonfinite",
    "from": "model.weights",
}
"""Short names of common flags."""

SHARED = {
    "max-detections": ("model.inference.max-detections", "evaluation.max-detections"),
}
"""Flags that set several fields."""

SIMILAR = 0.7
"""Least similarity of a proposed flag, as `difflib.SequenceMatcher.ratio`."""


def unknown_flag(config: Config, words: Sequence[str]) -> str:
    """A message for words that no setting has taken, with the closest flags to the first one."""
    word = next((word for word in words if word.startswith("--")), None)
    if word is None:
        return f"{words[0]}: not a flag; settings are given as --NAME VALUE"
    name = _short(word[2:].partition("=")[0])
    if close := closest_flags(config, name):
        return f"--{name}: no such setting (did you mean {' or '.join(close)}?)"
    path, _, field = _long(name).rpartition(".")
    holder = _holder(config, path)
    if holder is None:
        return f"--{name}: no such setting"
    at = f"--{_short(path)}"
    has = f"; it has {listed(_settings(holder))}" if _settings(holder) else ""
    others = [
        kind
        for kind, other in (components(holder.role) if holder.role else {}).items()
        if field.replace("-", "_") in hints(other)
    ]
    of_others = f"; {at} {' and '.join(others)} would have it" if others else ""
    return f"--{name}: {f'{at} {holder.kind}'.strip()} has no such setting{has}{of_others}"


def closest_flags(config: Config, name: str, most: int = 2) -> list[str]:
    """The flags whose names are most similar to a misspelt one, each in its shortest spelling.

    A name without a dot, such as ``batchsize``, is also compared with the last part of the flags:
    ``train.batch-size``. If all but the last part of a name exists, as in ``loss.alhpa``, only that
    part is compared. Hyphens, underscores and case make no difference.

    Args:
        config: the settings.
        name: the misspelt name, without dashes in front.
        most: number of flags to return, if several are as similar.
    """
    path, _, field = _long(name).rpartition(".")
    found: dict[str, float] = {}
    if (holder := _holder(config, path)) is not None:
        for known in _settings(holder):
            found[_short(f"{path}.{known}")] = _similarity(field, [known])
    else:
        for flag in _flags(config):
            last = [] if "." in name else [flag.rpartition(".")[2]]
            found[flag] = _similarity(name, [flag, _long(flag), *last])
    # As similar: those that are typed in full first (--max-detections before those it sets).
    best = sorted(found, key=lambda flag: (-found[flag], flag.count("."), len(flag)))
    least = max(SIMILAR, *found.values(), 0.0)
    alike = [flag for flag in best if found[flag] >= least]
    for flag in list(alike):
        alike = [other for other in alike if other not in SHARED.get(flag, ())]
    return [f"--{flag}" for flag in alike[:most]]


def _flags(config: Config) -> Iterator[str]:
    """All flags without dashes in front, in their shortest spelling."""
    yield from SHARED
    for path, part in walk(config):
        for field, hint in hints(type(part)).items():
            value = getattr(part, field)
            if not isinstance(value, Config) or components(hint) or roles_of(hint):
                yield _short(f"{path}.{field}".lstrip(".").replace("_", "-"))


def _holder(config: Config, path: str) -> Config | None:
    """The component or group of settings with a dotted name, such as ``data.sampler``."""
    return next((c for at, c in walk(config) if path and _plain(at) == _plain(path)), None)


def _settings(config: Config) -> list[str]:
    return [name.replace("_", "-") for name in hints(type(config))]


def _similarity(typed: str, spellings: Sequence[str]) -> float:
    return max(
        difflib.SequenceMatcher(None, _plain(typed), _plain(spelling), autojunk=False).ratio()
        for spelling in spellings
    )


def _short(flag: str) -> str:
    for short, long in ALIASES.items():
        if flag == long or flag.startswith(f"{long}."):
            return short + flag.removeprefix(long)
    return flag


def _long(flag: str) -> str:
    head, dot, rest = flag.partition(".")
    return ALIASES.get(head, head) + dot + rest


def _plain(name: str) -> str:
    return name.replace("-", "").replace("_", "").lower()
