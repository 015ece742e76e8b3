"""`Config`, roles, and the annotations of fields."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import types
import typing
from abc import ABC
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal, TypeGuard

from hyperfocal.types import ConfigError


@dataclass(frozen=True)
class Config(ABC):  # noqa: B024, the roles have the abstract methods
    """Base class of configs. Invalid values raise `ConfigError` on construction.

    A role is declared with ``class LossConfig(Config, role=True)``.
    """

    kind: ClassVar[str] = ""
    """Name among the components of its role; empty if it is the only one."""
    role: ClassVar[type[Config] | None] = None
    """Its role: the base class that annotates the fields whose value it may be."""
    alternatives: ClassVar[tuple[str, ...]] = ()
    """Mutually exclusive optional fields: a flag for one of them unsets the others."""
    by_category: ClassVar[tuple[str, ...]] = ()
    """Fields that may name categories (``cat=0.5,dog=0.2``), which are resolved to one value per
    category, in label order, before training."""
    renamed: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """Fields by their names in older files, which are still read."""
    kept_when_swapped: ClassVar[tuple[str, ...]] = ()
    """Fields whose values are kept when ``--FIELD KIND`` replaces the component: those that differ
    from their default and that the new component lists too."""

    def __init_subclass__(cls, role: bool = False) -> None:
        super().__init_subclass__()
        if role:
            cls.role = cls
        # tyro distinguishes the members of a union by __name__, which nested classes all share.
        cls.__name__ = cls.__qualname__.rpartition("<locals>.")[2].replace(".", "")
        check = cls.__dict__.get("__post_init__")
        if check is not None:  # runs after the checks of the annotations

            @functools.wraps(check)
            def both(self: Config) -> None:
                Config.__post_init__(self)
                check(self)

            cls.__post_init__ = both  # type: ignore[method-assign]

    def __post_init__(self) -> None:
        """Check the values of `Literal` fields and the roles of Configs, and convert values.

        Names (``str``) of files and components are converted to paths and Configs, and lists to
        tuples.
        """
        for field, hint in hints(type(self)).items():
            value, options = getattr(self, field), members(hint)
            if isinstance(value, str):
                choices = [m for m in options if typing.get_origin(m) is Literal]
                words = [word for choice in choices for word in typing.get_args(choice)]
                known = components(hint)
                if words and str not in options:
                    self._require(value in words, field, f"one of {listed(words)}")
                elif Path in options:
                    object.__setattr__(self, field, Path(value))  # frozen
                elif known and str not in options:
                    self._require(value in known, field, f"one of {listed(known)}")
                    object.__setattr__(self, field, known[value]())
            elif isinstance(value, list) and any(typing.get_origin(o) is tuple for o in options):
                object.__setattr__(self, field, tuple(value))
            elif isinstance(value, Config) and (roles := roles_of(hint)):
                names = " or a ".join(role.__qualname__ for role in roles)
                fits = isinstance(value, tuple(o for o in options if isinstance(o, type)))
                self._require(fits, field, f"a {names}")

    def arguments(self, *without: str, **computed: Any) -> dict[str, Any]:
        """The fields by name, to pass to the constructor of the component.

        Args:
            without: fields that the constructor doesn't take.
            computed: values that replace fields or are passed in addition.
        """
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in own.items() if name not in without} | computed

    def _require(self, ok: bool, field: str, must: str) -> None:
        """Raise `ConfigError` naming the field and its value unless ``ok``."""
        if not ok:
            owner = self.kind or type(self).__qualname__.removesuffix(".Config")
            raise ConfigError(f"{owner}: {field} = {getattr(self, field)!r}, but it must be {must}")


def hints(cls: type[Config]) -> dict[str, Any]:
    """The annotation of each field."""
    try:
        found = typing.get_type_hints(cls)
    except NameError as error:
        raise ConfigError(
            f"{cls.__module__}:{cls.__qualname__}: the annotation of a setting uses "
            f"{error.name!r}, which is not defined at the top level of its module"
        ) from None
    return {field.name: found[field.name] for field in dataclasses.fields(cls)}


def members(hint: Any) -> tuple[Any, ...]:
    """The members of a union; for any other annotation itself."""
    return typing.get_args(hint) if is_union(hint) else (hint,)


def is_union(hint: Any) -> bool:
    """Whether an annotation is a union."""
    return typing.get_origin(hint) in (types.UnionType, typing.Union)


def is_config(hint: Any) -> TypeGuard[type[Config]]:
    """Whether an annotation is a Config class."""
    return isinstance(hint, type) and issubclass(hint, Config)


def roles_of(hint: Any) -> tuple[type[Config], ...]:
    """The roles among the members of an annotation."""
    return tuple(m for m in members(hint) if is_config(m) and m.role is m)


def kinds(role: type[Config]) -> dict[str, type[Config]]:
    """The components of a role in the role's package, by ``kind``.

    They are found as subclasses of the role, so defining one and importing its module is enough.
    Those of other packages are excluded: they are named by module and class.
    """
    package = role.__module__.partition(".")[0]
    found: dict[str, type[Config]] = {}
    queue = role.__subclasses__()
    for cls in queue:
        queue += cls.__subclasses__()
        own = cls.__module__.partition(".")[0] == package
        if own and vars(cls).get("kind") and "<locals>" not in cls.__qualname__:
            found.setdefault(cls.kind, cls)
    return found


def components(hint: Any) -> dict[str, type[Config]]:
    """The possible components of a field by ``kind``; empty if it doesn't have several."""
    found: dict[str, type[Config]] = {}
    for member in members(hint):
        if member in roles_of(hint):
            found |= kinds(member)
        elif is_config(member) and is_union(hint):
            found[member.kind] = member
    found.pop("", None)
    return found


def is_outside(cls: type[Config]) -> bool:
    """Whether a component is named by module and class, because it isn't in its role's package."""
    return cls.role is not None and cls.role is not cls and kinds(cls.role).get(cls.kind) is not cls


def walk(config: Config, path: str = "") -> Iterator[tuple[str, Config]]:
    """A config and all nested configs, with dotted names; that of ``config`` itself is empty."""
    yield path, config
    for field in dataclasses.fields(config):
        name = f"{path}.{field.name}" if path else field.name
        value = getattr(config, field.name)
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, Config):
                yield from walk(part, name)


def did_you_mean(word: object, known: typing.Iterable[str]) -> str:
    """``did you mean 'x'?`` for the closest known word; ``there are x, y, z`` if none is close."""
    close = closest(word, known)
    return f"there are {listed(known)}" if close is None else f"did you mean {close!r}?"


def closest(word: object, known: typing.Iterable[str]) -> str | None:
    """The closest known word, or None."""
    return next(iter(difflib.get_close_matches(str(word), list(known), n=1)), None)


def listed(names: typing.Iterable[Any]) -> str:
    """``x, y, z``."""
    return ", ".join(str(name) for name in names)


def with_field(config: Any, path: Sequence[str], value: Any) -> Any:
    """The config with the field at a path of names replaced."""
    head, *rest = path
    new = with_field(getattr(config, head), rest, value) if rest else value
    return dataclasses.replace(config, **{head: new})
