"""Where this package's processes look for modules: never in the working directory, which is the user's.

`disttrain.config.user_code` finds there what a config names. Nothing is imported here but what Python itself has loaded
before: any other name might be a file of the user's.
"""

import os
import sys

RUN_MODULE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "entry", "run_module.py")  # noqa: PTH100, PTH118, PTH120


def leave_working_directory() -> None:
    """For a module that `python -m` has started, which puts the working directory first on `sys.path`."""
    try:
        here = os.getcwd()  # noqa: PTH109
    except OSError:  # it has been removed
        return
    # Under `RUN_MODULE` Python has put nothing there: the first entry is the user's own, of PYTHONPATH.
    by_script = any(one.endswith("run_module.py") for one in sys.orig_argv)
    if not by_script and not getattr(sys.flags, "safe_path", False) and sys.path[:1] == [here]:
        del sys.path[0]
