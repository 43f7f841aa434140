"""`python .../run_module.py MODULE ARGUMENTS`: `python -m MODULE` for modules of the package that holds this script.

`python -m` puts the working directory first on `sys.path`, where a user's `random.py` or `queue.py` would take the
place of Python's own in every rank, and a `disttrain.py` that of the package.

`python .../run_module.py --fork AGENT CONTROL PRELOAD...` does so in each process that an agent forks from it, whose
`MODULE ARGUMENTS` come from the agent. `--with-server MODULE ARGUMENTS` there is for a process that is an agent itself,
and has its own ranks forked as quickly.
"""

import os
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 (nothing is imported before the next line)
sys.path[:] = [place for place in sys.path if place != _HERE]

import importlib.util  # noqa: E402
import runpy  # noqa: E402
from pathlib import Path  # noqa: E402


def _load_package(folder: Path) -> None:
    """The package by its place, whatever lies elsewhere under its name."""
    spec = importlib.util.spec_from_file_location(
        folder.name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules[folder.name] = package
    spec.loader.exec_module(package)


if __name__ == "__main__":
    _load_package(Path(_HERE).parents[1])
    del sys.argv[0]
    if sys.argv[0] == "--fork":
        from disttrain.system.forkserver import serve

        serve()  # returns in the forked processes only
    if sys.argv[0] == "--with-server":
        from disttrain.system.forkserver import serve_own_ranks

        serve_own_ranks()
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
