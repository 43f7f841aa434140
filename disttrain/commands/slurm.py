"""What the batch scripts in slurm/ ask disttrain: `check` before a job is submitted, `row`, `before`, `unfit` and
`after` in the job.

Answers are shell assignments on standard output, what the user is to know is on standard error.
"""

from __future__ import annotations

from disttrain.system.import_path import leave_working_directory

if __name__ == "__main__":
    leave_working_directory()

import argparse
import csv
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from disttrain.commands.parser import parse
from disttrain.config import Config, load_config
from disttrain.config.text import parse_yaml
from disttrain.data.batch_plan import check_world_size
from disttrain.errors import ConfigError, exit_code_of, say
from disttrain.files import user_path
from disttrain.launch.env.launchers import hosts_of
from disttrain.launch.slurm.notice import notice_s
from disttrain.launch.slurm.requeue import judge, result_stamp
from disttrain.run_dir import check_run_dir, default_run_dir
from disttrain.system.streams import secure_streams

_MOST_LOADERS = 8  # loader processes of a rank
_BEYOND_TIMEOUT_S = 30  # for the ranks that are left to report, once one has ended


def _read_config(train: Sequence[str]) -> tuple[argparse.Namespace, Config, Path]:
    parsed = parse(["train", *train])
    if parsed.config is None:
        raise ConfigError("no config file: sbatch [options] slurm/train.sbatch CONFIG [options of disttrain train].")
    if parsed.workers is not None and parsed.workers != "auto":
        raise ConfigError(
            f"--workers {parsed.workers}: in a Slurm job sbatch's --ntasks-per-node says how many ranks there are. "
            "Leave --workers out."
        )
    config = load_config(parsed.config, parsed.overrides)
    named = user_path(parsed.run_dir) if parsed.run_dir is not None else default_run_dir(user_path(parsed.config))
    return parsed, config, named


def before(arguments: argparse.Namespace) -> int:
    """Find mistakes before any rank starts; how the ranks are to be started."""
    parsed, config, run_dir = _read_config(arguments.train)
    check_ranks(config, arguments.ranks, arguments.way)
    check_gpus(config, -(-arguments.ranks // arguments.nodes), arguments.gpus)
    check_run_dir(run_dir, config, parsed.resume, parsed.accept_changed_config)
    added = []
    notice = notice_s(arguments.signal)
    if notice is not None and not _is_given("checkpoint.notice_s", parsed):
        added.append(f"checkpoint.notice_s={notice:g}")
    if arguments.cpus and not _is_given("data.loader_workers", parsed):
        added.append(f"data.loader_workers={max(1, min(_MOST_LOADERS, arguments.cpus - 1))}")
    _answer(
        run_dir=str(run_dir.absolute()),
        wait_s=str(int(config.comm.timeout_s) + _BEYOND_TIMEOUT_S),
        result=result_stamp(run_dir),
        train=[*arguments.train, *added],
        doctor=[parsed.config, *parsed.overrides, *added, "--run-dir", str(run_dir.absolute())],
    )
    return 0


def unfit(arguments: argparse.Namespace) -> int:
    """Decide on a requeue without the nodes that the preflight, whose report is on standard input, found unfit."""
    nodes: list[str] = json.load(sys.stdin)["unfit_nodes"]
    before = hosts_of(arguments.before.replace("(null)", ""))
    exclude = ",".join([*before, *(node for node in nodes if node not in before)])
    if not nodes:
        say("exit code 1: not requeued, since other nodes would not help")
    elif arguments.wanted != "1":
        say(f"exit code 1: not requeued. SLURM_EXCLUDE_UNFIT=1 would requeue the job without {','.join(nodes)}.")
    elif len(before) + len(nodes) > arguments.most:
        say(
            f"exit code 1: {exclude} would be excluded, more than DISTTRAIN_MAX_REQUEUES={arguments.most}: not requeued"
        )
    else:
        say(f"the job is requeued without {','.join(nodes)}")
        _answer(exclude=exclude)
        return 0
    _answer(exclude="")
    return 0


def check_ranks(config: Config, ranks: int, way: str) -> None:
    """Raise ConfigError where the ranks that sbatch was asked for do not fit the config."""
    try:
        check_world_size(config.batch.global_batch_size, ranks)
    except ConfigError as error:
        raise ConfigError(f"{error} (sbatch's --nodes and --ntasks-per-node make {ranks} ranks.)") from None
    if way == "elastic" and config.comm.adasum:
        raise ConfigError("comm.adasum=true with DISTTRAIN_WAY=elastic: Adasum runs over MPI. Use train_mpi.sbatch.")


def check_gpus(config: Config, ranks_per_node: int, gpus: int) -> None:
    """Raise ConfigError for more ranks on a node than Slurm has given it GPUs (0: none, or nobody knows)."""
    if config.train.device == "cuda" and 0 < gpus < ranks_per_node:
        raise ConfigError(
            f"train.device=cuda with {ranks_per_node} ranks on a node for which the job has {gpus} GPUs: each needs "
            f"one. Submit with --ntasks-per-node={gpus}, or --gpus-per-node={ranks_per_node}."
        )


def after(arguments: argparse.Namespace) -> int:
    """Decide on a requeue."""
    verdict = judge(
        arguments.code, arguments.state, Path(arguments.run_dir), arguments.job, arguments.most, arguments.result
    )
    if verdict.line:
        say(verdict.line)
    _answer(code=str(verdict.code), requeue=str(int(verdict.requeue)))
    return 0


def check(arguments: argparse.Namespace) -> int:
    """Find mistakes in the config before a job waits in a queue; where the run will lie."""
    _answer(run_dir=str(_read_config(arguments.train)[2]))
    return 0


def row(arguments: argparse.Namespace) -> int:
    """The arguments of one task of an array."""
    parsed, _, run_dir = _read_config(arguments.train)
    index: int = arguments.index
    name, fields = f"seed_{index}", [f"train.seed={index}"]
    if arguments.rows:
        name, fields = f"row_{index}", read_row(user_path(arguments.rows), index)
    elif _is_given("train.seed", parsed):
        raise ConfigError(
            "train.seed is given, and an array without DISTTRAIN_ROWS trains one seed per task. Leave train.seed out."
        )
    _answer(train=[*arguments.train, *fields, "--run-dir", str(run_dir / name)])
    return 0


def read_row(path: Path, index: int) -> list[str]:
    """The overrides in a row of a CSV file, counted from 0, whose header names fields; empty cells leave theirs out.

    Raises ConfigError for a file that cannot be read, and a row that there is none of.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"cannot read the rows in DISTTRAIN_ROWS={path}: {error}") from None
    if index >= len(rows):
        raise ConfigError(
            f"array task {index}, but DISTTRAIN_ROWS={path} has {len(rows)} rows, counted from 0. Submit with "
            f"--array=0-{max(0, len(rows) - 1)}."
        )
    if None in rows[index]:
        raise ConfigError(f"DISTTRAIN_ROWS={path}: row {index} has more cells than the header. Correct the file.")
    return [f"{field}={value}" for field, value in rows[index].items() if value]


def _is_given(field: str, parsed: argparse.Namespace) -> bool:
    """Whether the user has set a field, in the file or on the command line."""
    if any(one.startswith(f"{field}=") for one in parsed.overrides):
        return True
    path = user_path(parsed.config)
    section, _, name = field.partition(".")
    return name in ((parse_yaml(path.read_text(encoding="utf-8-sig"), str(path)) or {}).get(section) or {})


def _answer(**values: str | Sequence[str]) -> None:
    for name, value in values.items():
        text = shlex.quote(value) if isinstance(value, str) else f"({shlex.join(value)})"
        sys.stdout.write(f"{name}={text}\n")


def start(argv: Sequence[str]) -> int:
    """One question. Raises DisttrainError for a mistake of the user's."""
    parser = argparse.ArgumentParser(prog="slurm", allow_abbrev=False)
    questions = parser.add_subparsers(dest="question", required=True)
    for question in (check, before):
        one = questions.add_parser(question.__name__)
        one.set_defaults(answer=question)
        one.add_argument("train", nargs=argparse.REMAINDER)
    one.add_argument("--signal", default="")
    one.add_argument("--way", default="ranks")
    one.add_argument("--ranks", type=int, required=True)
    one.add_argument("--nodes", type=int, default=1)
    for name in ("--gpus", "--cpus"):  # of a node, of a task; 0 where Slurm says nothing
        one.add_argument(name, type=int, default=0)
    one = questions.add_parser("row")
    one.set_defaults(answer=row)
    one.add_argument("--index", type=int, required=True)
    one.add_argument("--rows", default="")
    one.add_argument("train", nargs=argparse.REMAINDER)
    one = questions.add_parser("unfit")
    one.set_defaults(answer=unfit)
    for name in ("--before", "--wanted"):
        one.add_argument(name, default="")
    one.add_argument("--most", type=int, default=3)
    one = questions.add_parser("after")
    one.set_defaults(answer=after)
    for name in ("--run-dir", "--job", "--state", "--result"):
        one.add_argument(name, required=True)
    one.add_argument("--code", type=int, required=True)
    one.add_argument("--most", type=int, default=3)
    arguments = parser.parse_args(list(argv))
    if hasattr(arguments, "train"):
        arguments.train = arguments.train[arguments.train[:1] == ["--"] :]
    answered: int = arguments.answer(arguments)
    return answered


def main() -> int:
    """The command line."""
    secure_streams()
    return exit_code_of(lambda: start(sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(main())
