"""Conversion of configs to and from JSON."""

from __future__ import annotations

import dataclasses
import inspect
import json
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from hyperfocal.config.base import (
    Config,
    components,
    did_you_mean,
    hints,
    is_config,
    is_outside,
    is_union,
    listed,
    members,
    roles_of,
    walk,
)
from hyperfocal.config.outside import find_class, modules_of, reference
from hyperfocal.files import load_json, shown
from hyperfocal.types import ConfigError

C = TypeVar("C", bound=Config)

NAMES = ("kind", "class")
"""Entries of a component's JSON object that aren't fields."""


def dump(config: Config) -> dict[str, Any]:
    """The config as JSON-serialisable values, with the ``kind`` of components and the ``class`` of
    those of other modules.
    """
    out: dict[str, Any] = {"kind": config.kind} if config.kind else {}
    if is_outside(type(config)):
        out["class"] = reference(type(config))
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


def load(cls: type[C], data: object, where: str = "config", trust: Sequence[str] = ()) -> C:
    """Build ``cls`` from the result of `dump`.

    Args:
        cls: the config class expected.
        data: decoded JSON.
        where: name of the source in error messages, such as the file name.
        trust: modules that components may come from, see `outside`.

    Raises:
        ConfigError: unknown entries or entries of the wrong type, an unknown kind, a component of
            a module that isn't trusted, or an invalid value; the message names the file and the
            dotted field.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where}: expected an object with fields, found {shown(data)}")
    fields = hints(cls)
    given = {key: value for key, value in data.items() if key != "kind"}
    for old, new in cls.renamed.items():
        if old in given and new in given:
            raise ConfigError(f"{where}: {old} and {new} are one field; remove {old}")
        if old in given:
            given[new] = given.pop(old)
    if is_outside(cls):
        given.pop("class", None)
    if cls.kind and data.get("kind", cls.kind) != cls.kind:
        raise ConfigError(f"{where}.kind: expected {cls.kind!r}, found {shown(data['kind'])}")
    for key in given:
        if key not in fields:
            raise ConfigError(f"{where}.{key}: no such field ({did_you_mean(key, fields)})")
    values = {k: _load_value(fields[k], v, f"{where}.{k}", trust) for k, v in given.items()}
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    except TypeError as error:
        missing = sorted(_required(cls) - values.keys())
        what = f"missing field(s) {', '.join(missing)}" if missing else str(error)
        raise ConfigError(f"{where}: {what}") from None


def load_file(cls: type[C], path: str | Path, trust: Sequence[str] = ()) -> C:
    """`load` from a JSON file."""
    try:
        data = load_json(Path(path), ConfigError)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    return load(cls, data, str(path), trust)


def _load_value(hint: Any, value: Any, where: str, trust: Sequence[str]) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if value is None and type(None) in members(hint):
        return None
    if (known := components(hint)) or roles_of(hint):
        return _load_component(hint, known, value, where, trust)
    if is_union(hint):
        return _load_union(args, value, where, trust)
    if origin is Literal:
        if value not in args:
            raise ConfigError(f"{where} = {shown(value)}, but it must be one of {listed(args)}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where}: expected a list, found {shown(value)}")
        variadic = len(args) == 2 and args[1] is Ellipsis
        if not variadic and len(args) != len(value):
            raise ConfigError(f"{where}: expected {len(args)} values, found {shown(value)}")
        types = [args[0]] * len(value) if variadic else list(args)
        return tuple(
            _load_value(h, v, f"{where}[{i}]", trust)
            for i, (h, v) in enumerate(zip(types, value, strict=True))
        )
    if is_config(hint):
        return load(hint, value, where, trust)
    return _load_scalar(hint, value, where)


def _load_component(
    hint: Any, known: Mapping[str, type[Config]], value: Any, where: str, trust: Sequence[str]
) -> Config:
    """One of several components, by kind or, if the hint has a role, by class."""
    kind = value
    if isinstance(value, Mapping):
        if roles_of(hint) and "class" in value:
            cls = find_class(value["class"], roles_of(hint), trust, f"{where}.class")
            return load(cls, value, where, trust)
        where_kind, kind = f"{where}.kind", value.get("kind")
    elif isinstance(value, str):  # a component with its defaults
        where_kind, value = where, {}
    else:
        raise ConfigError(f"{where}: expected an object with fields, found {shown(value)}")
    if not isinstance(kind, str) or kind not in known:
        raise ConfigError(f"{where_kind} = {shown(kind)}, but it must be one of {listed(known)}")
    return load(known[kind], value, where, trust)


def _load_scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint is type(None) and value is None:
        return None
    # bool is a subclass of int in Python.
    matches = isinstance(hint, type) and type(value) is hint
    if not matches:
        name = getattr(hint, "__name__", str(hint))
        raise ConfigError(f"{where}: expected {name}, found {shown(value)}")
    return value


def _load_union(args: tuple[Any, ...], value: Any, where: str, trust: Sequence[str]) -> Any:
    errors = []
    for hint in args:
        try:
            return _load_value(hint, value, where, trust)
        except ConfigError as error:
            errors.append(str(error))
    raise ConfigError(errors[0])


def _required(cls: type[Config]) -> set[str]:
    return {
        field.name
        for field in dataclasses.fields(cls)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }


def by_name(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Name and value of each setting of a config in JSON form, such as ``train.lr``."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from by_name(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def check_reloads(config: Config) -> None:
    """Check that a config can be saved as JSON and loaded again.

    Raises:
        ConfigError: it can't; the message names the field or class, and the fix.
    """
    for name, part in walk(config):
        _check_class(type(part), name)
        for field in dataclasses.fields(part):
            at = f"{name}.{field.name}" if name else field.name
            _check_value(getattr(part, field.name), at)
    again = load(type(config), json.loads(json.dumps(dump(config))), trust=modules_of(config))
    for (name, before), (_, after) in zip(walk(config), walk(again), strict=False):
        if type(before) is not type(after):
            raise ConfigError(
                f"{name}: config.json can't store its class, {reference(type(before))}: the field "
                f"only accepts {type(after).__qualname__}"
            )
        for field in dataclasses.fields(before):
            value, loaded = getattr(before, field.name), getattr(after, field.name)
            if not isinstance(value, Config) and value != loaded and value == value:
                raise ConfigError(
                    f"{name}.{field.name} = {shown(value)}, which would be loaded from config.json "
                    f"as {shown(loaded)}; use the type of its annotation"
                )


def _check_value(value: object, name: str) -> None:
    if isinstance(value, tuple):
        for part in value:
            _check_value(part, name)
    elif not (value is None or isinstance(value, bool | int | float | str | Path | Config)):
        raise ConfigError(
            f"{name} is a {type(value).__name__}, which can't be written to config.json; settings "
            "must be numbers, strings, paths, tuples of these, or Configs"
        )


def _check_class(cls: type[Config], name: str) -> None:
    """Check that a class is a complete dataclass and, if from another package, importable."""
    declared = inspect.get_annotations(cls, eval_str=False)
    fields = {field.name for field in dataclasses.fields(cls)}
    lost = [n for n, hint in declared.items() if n not in fields and not _is_class_var(hint)]
    if lost:
        raise ConfigError(
            f"{name}: {lost[0]!r} isn't a field of {cls.__qualname__}; decorate the class with "
            "@dataclass(frozen=True)"
        )
    if not is_outside(cls):
        return
    assert cls.role is not None
    try:
        found: object = find_class(reference(cls), [cls.role], [cls.__module__], name)
    except ConfigError:
        found = None
    if found is not cls or cls.__module__ == "__main__":
        raise ConfigError(
            f"{name}: the class {cls.__qualname__} of {cls.__module__} can't be imported again, so "
            "the run couldn't be loaded; move it to the top level of a separate file, such as "
            "my_parts.py, and import it from there"
        )


def _is_class_var(hint: object) -> bool:
    return typing.get_origin(hint) is ClassVar or "ClassVar" in str(hint)
