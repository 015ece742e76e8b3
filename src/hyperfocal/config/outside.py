"""Components of modules outside the package, which are imported only if they are trusted.

Importing a module executes it. Therefore a file, such as the config.json of a downloaded run, can
only use classes of modules that the caller trusts: ``hyperfocal.load(run, trust=["my_losses"])``,
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
    """``module:Class``, the reference that `find_class` resolves."""
    return f"{cls.__module__}:{cls.__qualname__}"


def modules_of(config: Config) -> tuple[str, ...]:
    """The modules outside the package that a config's components are defined in."""
    outside = [type(part) for _, part in walk(config) if is_outside(type(part))]
    return tuple(dict.fromkeys(cls.__module__ for cls in outside))


def trusted(names: Sequence[str]) -> tuple[str, ...]:
    """Module names from a list of modules and files; files are imported.

    Args:
        names: modules (a package includes all modules in it), or paths that end in .py.

    Raises:
        ConfigError: a file doesn't exist or can't be imported under its name.
    """
    if isinstance(names, str):
        raise ConfigError(f"trust = {names!r}: expected a list of modules, such as [{names!r}]")
    return tuple(_module_of(name) for name in names)


def _module_of(name: str) -> str:
    return import_file(Path(name)).__name__ if name.endswith(".py") else name


def find_named(name: str, roles: Sequence[type[Config]], where: str) -> type[Config]:
    """The component that the user specified as ``module:Class`` or ``file.py:Class``.

    Raises:
        ConfigError: the module or class doesn't exist, or doesn't have one of the roles.
    """
    module, colon, path = name.rpartition(":")
    if not (colon and module and path):
        raise ConfigError(f"{where} {shown(name)}: expected module:Class")
    found = _module_of(module)
    return find_class(f"{found}:{path}", roles, [found], where)


def find_class(
    name: object, roles: Sequence[type[Config]], trust: Sequence[str], where: str
) -> type[Config]:
    """The Config class of a reference to a Config, or to a component with a nested ``Config``.

    Args:
        name: ``module:Class``.
        roles: the roles that it may have.
        trust: names of modules that may be imported.
        where: start of error messages.

    Raises:
        ConfigError: the module isn't trusted, the class doesn't exist, or doesn't have one of the
            roles.
    """
    module, colon, path = name.partition(":") if isinstance(name, str) else ("", "", "")
    if not colon or not all(part.isidentifier() for part in (*module.split("."), *path.split("."))):
        raise ConfigError(f"{where} = {shown(name)}, but it must be module:Class")
    if not is_trusted(module, trust):
        raise ConfigError(
            f"{where}: {shown(name)} would execute the module {shown(module)}, which isn't "
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
        raise ConfigError(f"{where}: {shown(name)} isn't a {names} or a class with one as Config")
    if found in roles:
        raise ConfigError(f"{where}: {shown(name)} is the base class of the components itself")
    return found


def is_trusted(module: str, trust: Sequence[str]) -> bool:
    """Whether a module, or a package that contains it, is trusted."""
    return any(module == name or module.startswith(f"{name}.") for name in trust)


def _import(module: str, where: str) -> ModuleType:
    top = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the module exists, but imports another one that doesn't
    here = Path.cwd()
    if (here / f"{top}.py").is_file() or (here / top).is_dir():
        add_to_path(here)
        try:
            return importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise
    raise ConfigError(
        f"{where}: there is no module {module!r} in {here} or on Python's path; pass its file: "
        f"--trust path/to/{top}.py"
    )


def import_file(path: Path) -> ModuleType:
    """Execute a Python file as a module, and append its folder to Python's path.

    Each call executes it again. If its name isn't a valid module name or is that of another module,
    it gets a name from which its classes can't be imported again (checked by `check_reloads`).

    Raises:
        ConfigError: the file doesn't exist.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such file")
    path = path.resolve()
    name = path.stem if _is_free(path) else f"file {path.name}"
    module = ModuleType(name)
    module.__file__ = str(path)
    code = compile(path.read_bytes(), str(path), "exec")
    before = sys.modules.get(name)
    sys.modules[name] = module  # dataclasses resolve annotations there
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
    """Whether the file's name can be used as module name."""
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
    """Append a folder to Python's path; loader processes inherit it."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
        importlib.invalidate_caches()
