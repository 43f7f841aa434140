"""The arguments of every command. Heavy imports happen inside a command, so that `disttrain --help` answers at once."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from disttrain import __version__


def build_parser() -> argparse.ArgumentParser:
    """All commands with their options."""
    parser = argparse.ArgumentParser(
        prog="disttrain", description="Train one PyTorch model on any number of workers, from one config file."
    )
    parser.add_argument("--version", action="version", version=f"disttrain {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    train = commands.add_parser(
        "train", help="train a model", description="Train as CONFIG says, or go on with its run."
    )
    train.add_argument("config", nargs="?", metavar="CONFIG", help="YAML file; see --help-config")
    train.add_argument("overrides", nargs="*", metavar="section.field=value", help="settings that replace the file's")
    train.add_argument("--run-dir", metavar="DIR", help="where the run is kept (default: runs/<name of CONFIG>)")
    train.add_argument(
        "--resume",
        default="auto",
        metavar="auto|never|CHECKPOINT",
        help="auto: go on with the run in the directory; never: start anew, moving that aside; or a checkpoint folder",
    )
    train.add_argument(
        "--accept-changed-config",
        action="store_true",
        help="go on with the run in the directory although the config has changed since",
    )
    train.add_argument(
        "--max-restarts",
        type=_count,
        metavar="N",
        help="start the ranks again, from the last checkpoint, up to N times when one is lost (default: 0)",
    )
    train.add_argument(
        "--verify-against",
        metavar="RUN_DIR",
        help="stop at the first step whose gradients or weights differ in a bit from those of a run that was trained "
        "with train.record_digests=true",
    )
    train.add_argument("--help-config", action="store_true", help="list every config field and exit")
    train.add_argument("--schema", action="store_true", help="print the JSON schema of config files and exit")

    evaluate = commands.add_parser(
        "evaluate", help="measure a model on labelled data", description="Print one JSON object."
    )
    evaluate.add_argument("model", metavar="RUN_OR_MODEL_DIR")
    evaluate.add_argument("--data", metavar="PATH", help="other data than it was trained on, of the same kind")
    evaluate.add_argument("--split", default="test", choices=("test", "val", "train", "all"))

    predict = commands.add_parser(
        "predict", help="classify images", description="Classify images, folders, globs, zip files."
    )
    predict.add_argument("model", metavar="MODEL_DIR|MODEL.onnx")
    predict.add_argument("inputs", nargs="+", metavar="INPUT")
    predict.add_argument("--output", metavar="FILE.csv|FILE.jsonl", help="default: CSV on standard output")
    predict.add_argument(
        "--resume", action="store_true", help="go on with FILE where a command before did not come to its end"
    )

    detect = commands.add_parser(
        "detect", help="find planes in whole scenes", description="Find planes, or another class, in whole scenes."
    )
    detect.add_argument("model", metavar="MODEL_DIR")
    detect.add_argument("inputs", nargs="+", metavar="SCENE", help="a satellite picture: TIFF, PNG, JPEG, ...")
    detect.add_argument(
        "--output", metavar="BOXES.json|.csv|.geojson", help="default: JSON on standard output, coordinates in pixels"
    )
    detect.add_argument("--image", metavar="OUT.png|.jpg", help="the scene with its boxes, for one scene")
    detect.add_argument(
        "--threshold", type=_probability, default=0.5, metavar="P", help="least probability of a box (default: 0.5)"
    )
    detect.add_argument("--class", dest="class_name", metavar="NAME", help="what to find (default: plane)")

    export = commands.add_parser(
        "export",
        help="write a model for other runtimes",
        description="Write a model as ONNX or torch.export, checked against the original. See docs/predict.md.",
    )
    export.add_argument("model", metavar="MODEL_DIR")
    export.add_argument("--format", choices=("onnx", "torch"), help="default: as FILE says, else onnx")
    export.add_argument("--output", metavar="FILE.onnx|FILE.pt2", help="default: model.onnx in the model directory")

    report = commands.add_parser(
        "report",
        help="show a run, several side by side, or a search, in one HTML file",
        description="Write one HTML file that shows a run, several side by side, or a search, and needs no network.",
    )
    report.add_argument("inputs", nargs="+", metavar="RUN_DIR|SEARCH_DIR")
    report.add_argument(
        "--output", metavar="FILE.html", help="default: report.html in that folder; of several runs, here"
    )
    report.add_argument("--png", metavar="FOLDER", help="every chart as a PNG file too")
    report.add_argument(
        "--no-predictions",
        action="store_true",
        help="leave out what the model has to look at the test split for: precision and recall, calibration, mistakes",
    )

    doctor = commands.add_parser(
        "doctor",
        help="say whether this machine, or this job, is fit to train",
        description="Say whether this machine, or this job under a launcher, is fit to train as CONFIG says.",
    )
    doctor.add_argument("config", nargs="?", metavar="CONFIG", help="the config of a training; without one, in general")
    doctor.add_argument("overrides", nargs="*", metavar="section.field=value", help="settings that replace the file's")
    doctor.add_argument("--run-dir", metavar="DIR", help="where the run will be (default: runs/<name of CONFIG>)")
    doctor.add_argument(
        "--job",
        action="store_true",
        help="only what a job needs on every node, in a few seconds; only what is wrong is said",
    )
    doctor.add_argument(
        "--wait",
        type=_seconds,
        default=30.0,
        metavar="SECONDS",
        help="for the other ranks, under a launcher (default: 30)",
    )
    doctor.add_argument(
        "--ranks-per-node",
        type=_count,
        metavar="N",
        help="ranks of the training, where the doctor has one process a node",
    )

    serve = commands.add_parser(
        "serve", help="answer requests over HTTP", description="Serve a model: the page, and the HTTP API (see /docs)."
    )
    _add_serve(serve)

    tune = commands.add_parser(
        "tune",
        help="search for good settings",
        description="Try the settings that SEARCH describes, each in a training of CONFIG, on Ray Tune.",
    )
    tune.add_argument("config", metavar="CONFIG", help="YAML file, as for train")
    tune.add_argument("search", metavar="SEARCH", help="YAML file: the space, the scheduler, ...; see docs/search.md")
    tune.add_argument("overrides", nargs="*", metavar="section.field=value", help="settings that replace CONFIG's")
    tune.add_argument("--trials", type=_positive, metavar="N", help="how many points are tried in all")
    tune.add_argument("--workers-per-trial", type=_positive, metavar="N", help="ranks of each trial")
    tune.add_argument("--concurrency", type=_positive, metavar="N", help="most trials at a time (default: what fits)")
    tune.add_argument("--resume", action="store_true", help="go on with the search in the folder, where there is one")
    tune.add_argument("--output", metavar="DIR", help="the search's folder (default: runs/<CONFIG>-<SEARCH>)")
    tune.add_argument("--ray-address", metavar="ADDRESS", help="a Ray cluster, or auto (default: this machine alone)")
    tune.add_argument(
        "--ray-nodes",
        type=_positive,
        default=1,
        metavar="N",
        help="wait until the cluster has so many nodes (default: 1)",
    )

    data = commands.add_parser("data", help="look at a dataset, make the synthetic one")
    data_commands = data.add_subparsers(dest="data_command", required=True, metavar="info|make")
    info = data_commands.add_parser("info", help="counts per split and class, and the normalisation")
    info.add_argument("config", metavar="CONFIG")
    info.add_argument("overrides", nargs="*", metavar="section.field=value")
    make = data_commands.add_parser("make", help="write synthetic chips in PlanesNet's own form")
    make.add_argument("output", metavar="FOLDER|FILE.zip")
    make.add_argument("--count", type=int, default=12_000)
    make.add_argument("--seed", type=int, default=0)

    for command in (train, evaluate, predict, detect, export, report, doctor, serve, tune, info, make):
        command.add_argument("--quiet", action="store_true", help="only warnings and errors on standard error")
    for command in (train, evaluate, predict, detect, export, report, doctor, tune, info):
        command.add_argument("--json", action="store_true", help="the result as JSON on standard output")
    for command in (train, evaluate, predict, detect):
        command.add_argument(
            "--workers", metavar="N|auto", help="ranks to start on this machine (auto: one per GPU, else 1)"
        )
    for command in (evaluate, predict, detect, serve):
        command.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    for command in (evaluate, predict, detect, export, report, serve):
        command.add_argument(
            "--allow-code", action="store_true", help="import package.module:function if the model needs it"
        )
    return parser


def _add_serve(serve: argparse.ArgumentParser) -> None:
    serve.add_argument("model", metavar="MODEL_DIR", help="a newer model that is put here takes its place")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    serve.add_argument("--port", type=_count, default=8000, help="0: one that is free (default: 8000)")
    serve.add_argument("--processes", type=_count, default=1, metavar="N", help="that share the port (default: 1)")
    serve.add_argument(
        "--max-batch-size", type=_count, default=64, metavar="N", help="images computed together (default: 64)"
    )
    serve.add_argument(
        "--max-wait-ms", type=_seconds, default=5.0, metavar="MS", help="for others on their way (default: 5)"
    )
    serve.add_argument(
        "--max-queue", type=_count, default=2048, metavar="N", help="images taken in and not answered (default: 2048)"
    )
    serve.add_argument("--max-images", type=_count, default=256, metavar="N", help="of a request (default: 256)")
    serve.add_argument("--max-upload-mb", type=_count, default=32, metavar="MB", help="of a request (default: 32)")
    serve.add_argument(
        "--max-pixels", type=_count, default=16_000_000, metavar="N", help="of an image (default: 16,000,000)"
    )
    serve.add_argument(
        "--request-timeout-s", type=_seconds, default=60.0, metavar="S", help="to the answer (default: 60)"
    )
    serve.add_argument(
        "--drain-s", type=_seconds, default=5.0, metavar="S",
        help="after SIGTERM: requests are taken while /readyz answers 503 (default: 5)",
    )  # fmt: skip
    serve.add_argument(
        "--watch-s", type=_seconds, default=1.0, metavar="S",
        help="between two looks at MODEL_DIR for a newer model; 0: none (default: 1)",
    )  # fmt: skip


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return value


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return int(text)


def _positive(text: str) -> int:
    if (number := _count(text)) == 0:
        raise argparse.ArgumentTypeError("0 is not a number of at least 1")
    return number


def _probability(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a probability between 0 and 1")
    return value


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments of one command. Exits with 2 on a usage error, as argparse does."""
    parser = build_parser()
    arguments, rest = parser.parse_known_args(argv)
    # argparse takes all positional arguments from one place: those behind an option arrive here.
    more = "overrides" if "overrides" in arguments else "inputs"
    wrong = [one for one in rest if one.startswith("-") or more not in arguments]
    if wrong:
        has_field = any("." in one and "=" in one for one in wrong)
        hint = " (settings are given without dashes: section.field=value)" if has_field and more == "overrides" else ""
        parser.error(f"unrecognized arguments: {' '.join(wrong)}{hint}")
    if rest:
        setattr(arguments, more, [*getattr(arguments, more), *rest])
    return arguments
