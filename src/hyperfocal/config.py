"""Typed configs: frozen dataclasses that go to JSON and back and take command-line overrides.

A component keeps its settings in a nested ``Config`` with a ``build(...)`` method::

    class SigmoidFocalLoss(nn.Module):
        @dataclass(frozen=True)
        class Config(config.Config):
            kind: ClassVar[str] = "focal"
            alpha: float = 0.25
            gamma: float = 2.0

            def build(self, num_classes: int, counts: CategoryCounts | None = None):
                return SigmoidFocalLoss(self.alpha, self.gamma)

Where a field may hold one of several components its annotation is the union of their configs
(``loss: SigmoidFocalLoss.Config | SigmoidCrossEntropyLoss.Config``) and ``kind`` tells them apart,
in JSON (``{"kind": "focal", ...}``) and on the command line (``--loss focal --loss.gamma 1``).
Loading only ever builds classes that an annotation names: a file can't name a class of its own.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from hyperfocal.files import load_json, shown
from hyperfocal.types import ConfigError

C = TypeVar("C", bound="Config")


@dataclass(frozen=True)
class Config:
    """Base of every config. Impossible values raise `ConfigError` when it is made."""

    kind: ClassVar[str] = ""
    """Name among the alternatives of a union field; empty where there are none."""
    alternatives: ClassVar[tuple[str, ...]] = ()
    """Optional fields of which one is set: a flag for one of them unsets the others."""
    by_category: ClassVar[tuple[str, ...]] = ()
    """Fields that may name categories (``cat=0.5,dog=0.2``), which a training turns into one value
    a category, in label order."""
    kept_when_swapped: ClassVar[tuple[str, ...]] = ()
    """Fields that a component passes on to the one that ``--FIELD KIND`` puts in its place, where
    they were set to something else than their default and the other has them too."""

    def __init_subclass__(cls) -> None:
        # tyro tells the members of a union apart by __name__, which nested classes all share.
        cls.__name__ = cls.__qualname__.rpartition("<locals>.")[2].replace(".", "")
        check = cls.__dict__.get("__post_init__")
        if check is not None:  # its own checks come after those of the annotations

            @functools.wraps(check)
            def both(self: Config) -> None:
                Config.__post_init__(self)
                check(self)

            cls.__post_init__ = both  # type: ignore[method-assign]

    def __post_init__(self) -> None:
        """Hold the fields to their annotations as far as Python code can easily miss them.

        One of a `Literal`'s words, and files by name (``str``), which become paths.
        """
        for field, hint in _hints(type(self)).items():
            value, members = getattr(self, field), _members(hint)
            if isinstance(value, str):
                choices = [m for m in members if typing.get_origin(m) is Literal]
                words = [word for choice in choices for word in typing.get_args(choice)]
                if words and str not in members:
                    self._require(value in words, field, f"one of {_list(words)}")
                elif Path in members:
                    object.__setattr__(self, field, Path(value))  # frozen

    def _require(self, ok: bool, field: str, must: str) -> None:
        """Raise `ConfigError` naming the field and its value unless ``ok``."""
        if not ok:
            owner = self.kind or type(self).__qualname__.removesuffix(".Config")
            raise ConfigError(f"{owner}: {field} = {getattr(self, field)!r}, but it must be {must}")


# --------------------------------------------------------------------------- JSON


def dump(config: Config) -> dict[str, Any]:
    """The config as JSON-able values; members of a union carry their ``kind``."""
    out: dict[str, Any] = {"kind": config.kind} if config.kind else {}
    for field in dataclasses.fields(config):
        out[field.name] = _dump_value(getattr(config, field.name))
    return out


def _dump_value(value: Any) -> Any:
    if isinstance(value, Config):
        return dump(value)
    if isinstance(value, tuple):
        return [_dump_value(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    return value


def load(cls: type[C], data: object, where: str = "config") -> C:
    """Build ``cls`` from what `dump` made.

    Args:
        cls: the config class expected.
        data: decoded JSON.
        where: what to call the place in errors, such as the file's name.

    Raises:
        ConfigError: unknown or ill-typed entries, an unknown kind, or an impossible value; the
            message names the file and the dotted field.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where}: expected an object with fields, found {shown(data)}")
    hints = _hints(cls)
    given = {key: value for key, value in data.items() if key != "kind"}
    if cls.kind and data.get("kind", cls.kind) != cls.kind:
        raise ConfigError(f"{where}.kind: expected {cls.kind!r}, found {data['kind']!r}")
    for key in given:
        if key not in hints:
            raise ConfigError(f"{where}.{key}: no such field ({did_you_mean(key, hints)})")
    values = {key: _load_value(hints[key], value, f"{where}.{key}") for key, value in given.items()}
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    except TypeError:
        missing = sorted(_required(cls) - values.keys())
        raise ConfigError(f"{where}: missing field(s) {', '.join(missing)}") from None


def load_file(cls: type[C], path: str | Path) -> C:
    """`load` from a JSON file."""
    try:
        data = load_json(Path(path), ConfigError)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    return load(cls, data, str(path))


def _load_value(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if _is_union(hint):
        return _load_union(args, value, where)
    if origin is Literal:
        if value not in args:
            raise ConfigError(f"{where} = {shown(value)}, but it must be one of {_list(args)}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where}: expected a list, found {shown(value)}")
        variadic = len(args) == 2 and args[1] is Ellipsis
        if not variadic and len(args) != len(value):
            raise ConfigError(f"{where}: expected {len(args)} values, found {shown(value)}")
        hints = [args[0]] * len(value) if variadic else list(args)
        return tuple(
            _load_value(h, v, f"{where}[{i}]")
            for i, (h, v) in enumerate(zip(hints, value, strict=True))
        )
    if isinstance(hint, type) and issubclass(hint, Config):
        return load(hint, value, where)
    return _load_scalar(hint, value, where)


def _load_scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint is type(None) and value is None:
        return None
    # bool is an int to Python, not to a person.
    matches = isinstance(hint, type) and type(value) is hint
    if not matches:
        name = getattr(hint, "__name__", str(hint))
        raise ConfigError(f"{where}: expected {name}, found {shown(value)}")
    return value


def _load_union(args: tuple[Any, ...], value: Any, where: str) -> Any:
    members = {member.kind: member for member in _config_members(args)}
    if value is None and type(None) in args:
        return None
    if isinstance(value, Mapping) and members:
        kind = value.get("kind")
        if not isinstance(kind, str) or kind not in members:
            raise ConfigError(
                f"{where}.kind = {shown(kind)}, but it must be one of {_list(members)}"
            )
        return load(members[kind], value, where)
    errors = []
    for hint in args:
        try:
            return _load_value(hint, value, where)
        except ConfigError as error:
            errors.append(str(error))
    raise ConfigError(errors[0])


# --------------------------------------------------------------------------- command line

ALIASES = {
    "loss": "model.loss",
    "mining": "model.mining",
    "sampler": "data.sampler",
    "lr": "train.lr",
    "epochs": "train.epochs",
    "on-nonfinite": "train.on-nonfinite",
}
"""Short names for the flags that people reach for first."""


def override(config: C, args: Sequence[str], prog: str, description: str = "") -> C:
    """Apply command-line flags such as ``--train.lr 0.01 --loss efl --loss.scale 4``.

    ``--FIELD KIND`` on a union field swaps the component (and keeps its settings where the kind is
    unchanged, else those that both share: `Config.kept_when_swapped`); the rest is typed by the
    dataclass annotations. ``--help`` lists every field with its default.

    Args:
        config: the defaults, usually what a recipe returned.
        args: the words of the command line.
        prog: what usage lines call the program.
        description: first lines of ``--help``.

    Raises:
        ConfigError: an unknown kind or an impossible value.
        SystemExit: status 2 after printing an unknown flag or an ill-typed value with the nearest
            match; status 0 after ``--help``.
    """
    import tyro

    words = [_expand_alias(word) for word in args]
    config, words = _swap_components(config, words)
    given = {word.partition("=")[0].replace("_", "-") for word in words if word.startswith("--")}
    words += _unset_alternatives(config, given)
    try:
        return tyro.cli(
            type(config),
            prog=prog,
            description=description,
            default=config,
            args=words,
            config=(tyro.conf.AvoidSubcommands,),
        )
    except ConfigError as error:
        raise ConfigError(str(error)) from None


def _expand_alias(word: str) -> str:
    if not word.startswith("--"):
        return word
    name, equals, value = word[2:].partition("=")
    head, dot, rest = name.partition(".")
    return f"--{ALIASES.get(head, head)}{dot}{rest}{equals}{value}"


def _swap_components(config: C, words: list[str]) -> tuple[C, list[str]]:
    """Take every ``--path KIND`` that names a union field out of ``words`` and apply it."""
    rest: list[str] = []
    index = 0
    while index < len(words):
        word = words[index]
        name, equals, value = word[2:].partition("=") if word.startswith("--") else ("", "", "")
        path = name.replace("-", "_").split(".")
        members = _union_at(config, path) if name else {}
        if not members:
            rest.append(word)
            index += 1
            continue
        if not equals:
            index += 1
            value = words[index] if index < len(words) else ""
        if value not in members:
            found = f"--{name} {value}".strip()
            close = _closest(value, members) if value else None
            hint = "" if close is None else f" (did you mean {close!r}?)"
            raise ConfigError(f"{found}: must be one of {_list(members)}{hint}")
        config = _replace_at(config, path, members[value])
        index += 1
    return config, rest


def _unset_alternatives(config: Config, given: set[str], at: str = "--") -> list[str]:
    """``--train.epochs None`` where ``--train.iterations N`` is given, and alike."""
    flags = {at + name.replace("_", "-") for name in config.alternatives}
    unset = []
    if len(flags & given) == 1:
        unset = [word for flag in flags - given for word in (flag, "None")]
    for name in _hints(type(config)):
        if isinstance(part := getattr(config, name), Config):
            unset += _unset_alternatives(part, given, f"{at}{name.replace('_', '-')}.")
    return unset


def _union_at(config: Config, path: Sequence[str]) -> dict[str, type[Config] | None]:
    """The kinds that the field at ``path`` can hold, empty where it isn't a union of configs."""
    holder: object = config
    for name in path[:-1]:
        holder = getattr(holder, name, None)
    if not isinstance(holder, Config):
        return {}
    hint = _hints(type(holder)).get(path[-1])
    members = _config_members(typing.get_args(hint))
    kinds: dict[str, type[Config] | None] = {m.kind: m for m in members if m.kind}
    if kinds and type(None) in typing.get_args(hint):
        kinds["none"] = None
    return kinds


def _replace_at(config: C, path: Sequence[str], member: type[Config] | None) -> C:
    old = getattr(config, path[0])
    if len(path) > 1:
        new = _replace_at(old, path[1:], member)
    elif member is None:
        new = None
    else:
        new = old if type(old) is member else _swapped(old, member)
    return dataclasses.replace(config, **{path[0]: new})


def _swapped(old: object, member: type[Config]) -> Config:
    """A ``member`` with what it shares with ``old``; see `Config.kept_when_swapped`."""
    if not isinstance(old, Config) or not old.kept_when_swapped:
        return member()
    untouched = type(old)()
    passed = {
        name: getattr(old, name)
        for name in old.kept_when_swapped
        if name in member.kept_when_swapped and getattr(old, name) != getattr(untouched, name)
    }
    return member(**passed)


# --------------------------------------------------------------------------- shared


def _hints(cls: type[Config]) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _members(hint: Any) -> tuple[Any, ...]:
    """What a union may be, or the hint itself."""
    return typing.get_args(hint) if _is_union(hint) else (hint,)


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (types.UnionType, typing.Union)


def _config_members(args: tuple[Any, ...]) -> list[type[Config]]:
    return [a for a in args if isinstance(a, type) and issubclass(a, Config)]


def _required(cls: type[Config]) -> set[str]:
    return {
        field.name
        for field in dataclasses.fields(cls)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }


def did_you_mean(word: object, known: typing.Iterable[str]) -> str:
    """``did you mean 'x'?`` for the nearest known word; ``there are x, y, z`` if none is near."""
    close = _closest(word, known)
    return f"there are {_list(known)}" if close is None else f"did you mean {close!r}?"


def _closest(word: object, known: typing.Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(str(word), list(known), n=1)), None)


def _list(names: typing.Iterable[Any]) -> str:
    return ", ".join(str(name) for name in names)
