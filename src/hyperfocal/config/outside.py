"""Components made outside the package: found by module and class, trusted by name or refused.

Importing a module executes it. So a file, such as the config.json of a run that somebody sent, may
only name a class of a module that the caller trusts: ``hyperfocal.load(run, trust=["my_losses"])``,
``--trust my_losses``, or by naming the component itself (``--loss my_losses:MyLoss``).
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from hyperfocal.config.base import Config, is_config, is_outside, walk
from hyperfocal.files import one_line, shown
from hyperfocal.types import ConfigError


def reference(cls: type[Config]) -> str:
    """``module:Class``, by which a class is found again."""
    return f"{cls.__module__}:{cls.__qualname__}"


def modules_of(config: Config) -> tuple[str, ...]:
    """The modules outside the package that a config's components come from."""
    outside = [type(part) for _, part in walk(config) if is_outside(type(part))]
    return tuple(dict.fromkeys(cls.__module__ for cls in outside))


def trusted(names: Sequence[str]) -> tuple[str, ...]:
    """Names of modules from names of modules and files; a file is imported.

    Args:
        names: modules (a package stands for all modules in it), or paths that end in .py.

    Raises:
        ConfigError: there is no such file, or it can't be imported under its name.
    """
    if isinstance(names, str):
        raise ConfigError(f"trust = {names!r}: expected a list of modules, such as [{names!r}]")
    return tuple(_module_of(name) for name in names)


def _module_of(name: str) -> str:
    return import_file(Path(name)).__name__ if name.endswith(".py") else name


def find_named(name: str, roles: Sequence[type[Config]], where: str) -> type[Config]:
    """The component that a user named, as ``module:Class`` or ``file.py:Class``.

    Raises:
        ConfigError: there is no such module or class, or it isn't of that role.
    """
    module, colon, path = name.rpartition(":")
    if not (colon and module and path):
        raise ConfigError(f"{where} {shown(name)}: expected module:Class")
    found = _module_of(module)
    return find_class(f"{found}:{path}", roles, [found], where)


def find_class(
    name: object, roles: Sequence[type[Config]], trust: Sequence[str], where: str
) -> type[Config]:
    """The Config class that a reference names; of a component with a nested ``Config``, that.

    Args:
        name: ``module:Class``.
        roles: what it has to be a subclass of.
        trust: names of modules that may be imported.
        where: what errors begin with.

    Raises:
        ConfigError: the module isn't trusted, there is no such class, or it isn't of that role.
    """
    module, colon, path = name.partition(":") if isinstance(name, str) else ("", "", "")
    if not colon or not all(part.isidentifier() for part in (*module.split("."), *path.split("."))):
        raise ConfigError(f"{where} = {shown(name)}, but it must be module:Class")
    if not is_trusted(module, trust):
        raise ConfigError(
            f"{where}: {shown(name)} would execute the module {shown(module)}, which is not "
            f"part of hyperfocal. If you trust it: --trust {one_line(module)} (in Python "
            f"trust=[{shown(module)}])"
        )
    found: object = _import(module, where)
    for part in path.split("."):
        found = vars(found).get(part) if isinstance(found, ModuleType | type) else None
    if isinstance(found, type) and not is_config(found):
        found = vars(found).get("Config", found)
    names = " or ".join(role.__qualname__ for role in roles)
    if not (isinstance(found, type) and is_config(found) and issubclass(found, tuple(roles))):
        raise ConfigError(f"{where}: {shown(name)} is no {names}, nor a class with one as Config")
    if found in roles:
        raise ConfigError(f"{where}: {shown(name)} is the base class of the components itself")
    return found


def is_trusted(module: str, trust: Sequence[str]) -> bool:
    """Whether a module, or a package that it lies in, is among those trusted."""
    return any(module == name or module.startswith(f"{name}.") for name in trust)


def _import(module: str, where: str) -> ModuleType:
    top = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the module is there, and imports another one that isn't
    here = Path.cwd()
    if (here / f"{top}.py").is_file() or (here / top).is_dir():
        add_to_path(here)
        try:
            return importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise
    raise ConfigError(
        f"{where}: there is no module {module!r} in {here} or on Python's path; give its file: "
        f"--trust path/to/{top}.py"
    )


def import_file(path: Path) -> ModuleType:
    """Execute a Python file as a module of its name, with its folder at the end of Python's path.

    Each call executes it anew. Where its name is no Python name, or that of another module, it gets
    a name under which nothing can be imported again (`check_reloads` says so where it matters).

    Raises:
        ConfigError: there is no such file.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such file")
    path = path.resolve()
    name = path.stem if _is_free(path) else f"file {path.name}"
    module = ModuleType(name)
    module.__file__ = str(path)
    code = compile(path.read_bytes(), str(path), "exec")
    before = sys.modules.get(name)
    sys.modules[name] = module  # dataclasses look their annotations up there
    add_to_path(path.parent)
    try:
        exec(code, module.__dict__)
    except BaseException:
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before
        raise
    return module


def _is_free(path: Path) -> bool:
    """Whether a module may be called as the file is."""
    name = path.stem
    if not name.isidentifier():
        return False
    known = sys.modules.get(name)
    if known is not None:
        file = known.__file__
    else:
        spec = importlib.util.find_spec(name)
        file = None if spec is None else spec.origin
        if spec is None:
            return True
    return file is not None and Path(file).resolve() == path


def add_to_path(folder: Path) -> None:
    """Let modules of a folder be found, after all others; loader processes inherit it."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
        importlib.invalidate_caches()
