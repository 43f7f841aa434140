"""What is imported when: the user's code by path with helpful errors, and nothing heavy before it is needed."""

from __future__ import annotations

import collections
from collections.abc import Callable

import pytest

from disttrain.config.user_code import import_object
from disttrain.errors import ConfigError

from .helpers import run_python

Write = Callable[[str], str]


def refused(path: str) -> str:
    with pytest.raises(ConfigError) as error:
        import_object(path, "model.name")
    return str(error.value)


def test_an_installed_module_and_one_in_the_working_directory_are_found(user_module: Write) -> None:
    assert import_object("collections:OrderedDict", "model.name") is collections.OrderedDict
    name = user_module("def make(): return 5")
    assert import_object(f"{name}:make", "model.name")() == 5


def test_a_missing_module_is_told_apart_from_one_that_a_module_misses(user_module: Write) -> None:
    assert "there is no module 'nowhere_at_all'" in refused("nowhere_at_all.sub:make")
    name = user_module("import nowhere_at_all")
    message = refused(f"{name}:make")
    assert f"importing {name} raised ModuleNotFoundError: No module named 'nowhere_at_all'" in message
    assert f"{name}.py, line 1" in message


@pytest.mark.parametrize("code", ["1 / 0", "raise SystemExit(3)", "def broken(:"])
def test_a_module_that_fails_is_named_with_the_error_and_its_place(user_module: Write, code: str) -> None:
    name = user_module(f"x = 1\n{code}")
    message = refused(f"{name}:make")
    assert message.startswith(f"model.name={name}:make: importing {name} raised ")
    assert f"{name}.py, line 2" in message


def test_a_missing_name_is_told_with_the_nearest(user_module: Write) -> None:
    assert "Did you mean 'make_model'?" in refused(f"{user_module('def make_model(): pass')}:make_modl")


def test_what_cannot_be_called_is_refused(user_module: Write) -> None:
    assert "is a int, not a function or class" in refused(f"{user_module('width = 3')}:width")


@pytest.mark.parametrize("path", [":make", "module:", ":"])
def test_a_path_of_another_form_is_refused(path: str) -> None:
    assert f"model.name={path!r} is not of the form package.module:function" in refused(path)


HEAVY = ("torch", "torchvision", "numpy", "PIL", "ray", "horovod", "fastapi", "starlette", "uvicorn", "tqdm")


@pytest.mark.parametrize(
    "code",
    [
        "import disttrain",
        "import disttrain.errors, disttrain.config, disttrain.launch.env, disttrain.data.batch_plan",
        "from disttrain.config.reference import render_reference; render_reference()",
        "from disttrain.commands.parser import parse; parse(['train', 'x.yaml', 'optim.lr=1'])",
        "from disttrain.commands.main import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass",
        "from disttrain.commands.main import main\ntry:\n    main(['predict', '--help'])\nexcept SystemExit:\n    pass",
        "from disttrain.commands.main import main; assert main(['train', '--help-config']) == 0",
        "from disttrain.commands.main import main; assert main(['train', 'nowhere.yaml']) == 2",
        "from disttrain.commands.main import main; assert main(['doctor', '--job']) in (0, 1)",
    ],
)
def test_nothing_heavy_is_imported_before_there_is_work(code: str) -> None:
    done = run_python(f"{code}\nimport sys\nprint('HEAVY', [one for one in {HEAVY!r} if one in sys.modules])")
    assert done.stdout.splitlines()[-1] == "HEAVY []", done.stdout + done.stderr


def test_fit_is_there_on_first_use() -> None:
    done = run_python(
        "import sys, disttrain\nbefore = 'torch' in sys.modules\n"
        "print(disttrain.fit.__name__, before, 'torch' in sys.modules)"
    )
    assert done.stdout.strip() == "fit False True", done.stderr
    assert "has no attribute 'fti'" in run_python("import disttrain; disttrain.fti").stderr
