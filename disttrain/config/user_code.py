"""`package.module:name` -> the object: the user's own models and datasets."""

from __future__ import annotations

import importlib
import sys
import traceback
import types
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from disttrain.errors import ConfigError, unknown_name


class _WorkingDirectory(MetaPathFinder):
    """Finds in the working directory the modules that a config names, and what their own code imports from there.

    Not so for anybody else: a library that looks for an optional package must not find a user's script or folder of
    that name, nor Python itself a `queue.py` in the place of its own.
    """

    def __init__(self) -> None:
        self._folder, self._ours = "", set[str]()

    def look_for(self, module: str, folder: Path) -> None:
        """From now on find `module` in the folder."""
        self._folder = str(folder)
        self._ours.add(module.partition(".")[0])
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        if path is not None or name in sys.stdlib_module_names or not (name in self._ours or self._is_ours_importing()):
            return None
        spec = PathFinder.find_spec(name, [self._folder])
        if spec is not None:
            self._ours.add(name)
        return spec

    def _is_ours_importing(self) -> bool:
        frame: types.FrameType | None = sys._getframe(2)
        while frame is not None:
            name = str(frame.f_globals.get("__name__", ""))
            if name.partition(".")[0] != "importlib" and not frame.f_code.co_filename.startswith("<frozen importlib"):
                return name.partition(".")[0] in self._ours
            frame = frame.f_back
        return False


_finder = _WorkingDirectory()


def _hidden(module_name: str, module: types.ModuleType) -> str:
    """A sentence where a file of the user's is not what was found, since a module of that name is loaded already."""
    top = module_name.partition(".")[0]
    if not any((Path.cwd() / name).exists() for name in (f"{top}.py", top)):
        return ""
    if (file := getattr(module, "__file__", None)) is None or Path(file).is_relative_to(Path.cwd()):
        return ""
    return f" This is {file}, not the one in {Path.cwd()}: give yours another name."


def import_object(path: str, field: str) -> Any:
    """The callable at `package.module:name`, found from the working directory too.

    Raises ConfigError, naming `field`: no such module or name, or the module fails while it is imported.
    """
    module_name, _, name = path.partition(":")
    if not module_name or not name:
        raise ConfigError(f"{field}={path!r} is not of the form package.module:function.")
    _finder.look_for(module_name, Path.cwd())
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{module_name}.".startswith(f"{error.name}."):
            raise ConfigError(
                f"{field}={path}: there is no module {error.name!r} in {Path.cwd()} or among the installed packages."
            ) from None
        frame = traceback.extract_tb(error.__traceback__)[-1]
        # A SyntaxError names its place itself.
        place = "" if isinstance(error, SyntaxError) else f" ({frame.filename}, line {frame.lineno})"
        raise ConfigError(
            f"{field}={path}: importing {module_name} raised {type(error).__name__}: {error}{place}."
        ) from error
    try:
        found = getattr(module, name)
    except AttributeError:
        public = [key for key in vars(module) if not key.startswith("_")]
        message = unknown_name(f"name in {module_name}", name, public)
        raise ConfigError(f"{field}={path}: {message}{_hidden(module_name, module)}") from None
    if not callable(found):
        raise ConfigError(f"{field}={path} is a {type(found).__name__}, not a function or class.")
    return found
