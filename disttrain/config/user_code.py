"""`package.module:name` -> the object: the user's own models and datasets."""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path
from typing import Any

from disttrain.errors import ConfigError, unknown_name


def import_object(path: str, field: str) -> Any:
    """The callable at `package.module:name`, found from the working directory too.

    Raises ConfigError, naming `field`: no such module or name, or the module fails while it is imported.
    """
    module_name, _, name = path.partition(":")
    if not module_name or not name:
        raise ConfigError(f"{field}={path!r} is not of the form package.module:function.")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
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
        raise ConfigError(f"{field}={path}: {unknown_name(f'name in {module_name}', name, public)}") from None
    if not callable(found):
        raise ConfigError(f"{field}={path} is a {type(found).__name__}, not a function or class.")
    return found
