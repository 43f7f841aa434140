"""What `launchers/torchrun.sh` calls: `[torchrun options] CONFIG [options of disttrain train]`."""

from __future__ import annotations

from disttrain.system.import_path import RUN_MODULE, leave_working_directory

if __name__ == "__main__":
    leave_working_directory()

import os
import sys

from disttrain.commands.parser import parse
from disttrain.commands.start import PRELOAD
from disttrain.config import load_config
from disttrain.errors import exit_code_of
from disttrain.launch.env import torchrun_environ
from disttrain.launch.local import default_worker_count, run_agent
from disttrain.system.processes import replace_environ
from disttrain.system.streams import secure_streams


def start(argv: list[str]) -> int:
    """Train under an elastic agent with torchrun's own options; the exit code of the job."""
    from torch.distributed.run import get_args_parser

    replace_environ(torchrun_environ(os.environ, default_worker_count))
    parsed = get_args_parser().parse_args(argv)
    command = ["train", parsed.training_script, *parsed.training_script_args]
    train = parse(command)
    config = load_config(train.config, train.overrides)
    options = argv[: len(argv) - len(command) + 1]
    if train.max_restarts is not None:  # it may stand before or behind CONFIG
        options += ["--max-restarts", str(train.max_restarts)]
    return run_agent([*options, RUN_MODULE, "disttrain", *command], config.checkpoint.notice_s, PRELOAD)


def main() -> int:
    """The command line."""
    secure_streams()
    return exit_code_of(lambda: start(sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(main())
