"""Command-line flags of configs, such as ``--train.lr 0.01 --loss efl --loss.scale 4``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from hyperfocal.config.base import (
    Config,
    closest,
    components,
    hints,
    listed,
    members,
    roles_of,
    walk,
    with_field,
)
from hyperfocal.config.flag_names import ALIASES, SHARED, unknown_flag
from hyperfocal.config.outside import find_named
from hyperfocal.types import ConfigError

C = TypeVar("C", bound=Config)


def override(config: C, args: Sequence[str], prog: str, description: str = "") -> C:
    """Apply command-line flags such as ``--train.lr 0.01 --loss efl --loss.scale 4``.

    ``--FIELD KIND`` replaces a component (keeping its settings if the kind is unchanged, else those
    in `Config.kept_when_swapped` of both); ``--FIELD module:Class`` uses one from outside the
    package. Other values are parsed by the dataclass annotations. ``--help`` lists all fields with
    their defaults.

    Args:
        config: the defaults, usually the result of a recipe.
        args: the command-line arguments.
        prog: program name in usage lines.
        description: first lines of ``--help``.

    Raises:
        ConfigError: an unknown flag or kind, with the closest match; or an invalid value.
        SystemExit: status 2 after printing a value of the wrong type; status 0 after ``--help``.
    """
    import tyro

    words = [_expand_alias(word) for word in _expand_shared(args)]
    config, words = _swap_components(config, words)
    given = {word.partition("=")[0].replace("_", "-") for word in words if word.startswith("--")}
    words += _unset_alternatives(config, given)
    try:
        found, unknown = tyro.cli(
            type(config),
            prog=prog,
            description="\n\n".join((*([description] if description else []), _kinds(config))),
            default=config,
            args=words,
            config=(tyro.conf.AvoidSubcommands,),
            return_unknown_args=True,
        )
    except ConfigError as error:
        raise ConfigError(str(error)) from None
    if unknown:
        raise ConfigError(f"{unknown_flag(config, unknown)}. `{prog} --help` lists all settings.")
    return found


def _kinds(config: Config) -> str:
    """The available components, for ``--help``."""
    short = {path: name for name, path in ALIASES.items()}
    lines = ["Components, selected by --FIELD KIND, or --FIELD module:Class for your own:"]
    for path, hint in _swappable(config):
        known = components(hint)
        if len(known) > 1 or (known and type(None) in members(hint)):
            name = path.replace("_", "-")
            kinds = [*known, *(["none"] if type(None) in members(hint) else [])]
            lines.append(f"--{short.get(name, name)} {listed(kinds)}")
    return "\n".join(lines)


def _swappable(config: Config) -> Iterator[tuple[str, Any]]:
    """The fields for one of several components: dotted name and annotation."""
    for at, part in walk(config):
        for field, hint in hints(type(part)).items():
            if components(hint) or roles_of(hint):
                yield f"{at}.{field}" if at else field, hint


def _expand_shared(args: Sequence[str]) -> list[str]:
    """Replace ``--max-detections N`` by the flags that it sets."""
    words: list[str] = []
    rest = iter(args)
    for word in rest:
        name, equals, value = word.removeprefix("--").partition("=")
        flags = SHARED.get(name.replace("_", "-")) if word.startswith("--") else None
        if flags is None:
            words.append(word)
            continue
        values = [value] if equals else [v for v in [next(rest, None)] if v is not None]
        words += [part for flag in flags for part in (f"--{flag}", *values)]
    return words


def _expand_alias(word: str) -> str:
    if not word.startswith("--"):
        return word
    name, equals, value = word[2:].partition("=")
    head, dot, rest = name.partition(".")
    return f"--{ALIASES.get(head, head)}{dot}{rest}{equals}{value}"


def _swap_components(config: C, words: list[str]) -> tuple[C, list[str]]:
    """Apply every ``--path KIND`` that names a component, and remove it from ``words``."""
    rest: list[str] = []
    index = 0
    while index < len(words):
        word = words[index]
        name, equals, value = word[2:].partition("=") if word.startswith("--") else ("", "", "")
        path = name.replace("-", "_").split(".")
        hint = _component_at(config, path) if name else None
        if hint is None:
            rest.append(word)
            index += 1
            continue
        if not equals:
            index += 1
            value = words[index] if index < len(words) else ""
        old: Any = config
        for part in path:
            old = getattr(old, part)
        config = with_field(config, path, _named(old, hint, value, f"--{name}"))
        index += 1
    return config, rest


def _component_at(config: Config, path: Sequence[str]) -> Any | None:
    """The annotation of the field at ``path`` if it is for one of several components."""
    holder: object = config
    for name in path[:-1]:
        known = hints(type(holder)) if isinstance(holder, Config) else {}
        holder = getattr(holder, name) if name in known else None
    if not isinstance(holder, Config):
        return None
    hint = hints(type(holder)).get(path[-1])
    return hint if components(hint) or roles_of(hint) else None


def named(role: Any, value: str, flag: str) -> Any:
    """The component of a role named by kind or ``module:Class``, with its defaults.

    Raises:
        ConfigError: the component doesn't exist.
    """
    return _named(None, role, value, flag)


def _named(old: Any, hint: Any, value: str, flag: str) -> Config | None:
    """The component that replaces ``old`` for ``--FIELD VALUE``."""
    known, optional = components(hint), type(None) in members(hint)
    if optional and value.lower() == "none":
        return None
    if ":" in value and roles_of(hint):
        member = find_named(value, roles_of(hint), flag)
    elif value in known:
        member = known[value]
    else:
        kinds = [*known, *(["none"] if optional else [])]
        close = closest(value, kinds) if value else None
        did_you = "" if close is None else f" (did you mean {close!r}?)"
        found = f"{flag} {value}".strip()
        raise ConfigError(
            f"{found}: must be one of {listed(kinds)}{did_you}"
            + (", or your own module:Class" if roles_of(hint) else "")
        )
    if type(old) is member:
        return old
    try:
        return _swapped(old, member)
    except TypeError as error:  # a setting without a default, or a missing method
        raise ConfigError(f"{flag} {value}: {error}") from None


def _swapped(old: object, member: type[Config]) -> Config:
    """A ``member`` that keeps settings of ``old``; see `Config.kept_when_swapped`."""
    if not isinstance(old, Config) or not old.kept_when_swapped:
        return member()
    untouched = type(old)()
    passed = {
        name: getattr(old, name)
        for name in old.kept_when_swapped
        if name in member.kept_when_swapped and getattr(old, name) != getattr(untouched, name)
    }
    return member(**passed)


def _unset_alternatives(config: Config, given: set[str], at: str = "--") -> list[str]:
    """Flags that unset mutually exclusive fields: ``--train.epochs None`` for ``iterations``."""
    flags = {at + name.replace("_", "-") for name in config.alternatives}
    unset = []
    if len(flags & given) == 1:
        unset = [word for flag in flags - given for word in (flag, "None")]
    for name in hints(type(config)):
        if isinstance(part := getattr(config, name), Config):
            unset += _unset_alternatives(part, given, f"{at}{name.replace('_', '-')}.")
    return unset
