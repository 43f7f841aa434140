"""From the command to the first finished step, on two workers: with decoded images in the cache, and without.

Beside it, in turns: the shortest program by which torchrun and two ranks finish a step of the same network.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from harness import (
    REPOSITORY,
    Spread,
    alternate,
    argument_parser,
    describe_machine,
    planes_config,
    ratios,
    render_table,
    report,
    run_ranks,
    scratch_folder,
    timed,
)

SHORTEST = """
import sys, time, torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from disttrain.models.planesnet import PlanesNetCnn
dist.init_process_group("gloo")
model = DistributedDataParallel(PlanesNetCnn())
optimizer = torch.optim.AdamW(model.parameters(), fused=True)
model(torch.randn(64, 3, 20, 20)).square().mean().backward()
optimizer.step()
if dist.get_rank() == 0:
    open(sys.argv[1], "w").write(str(time.time()))
dist.destroy_process_group()
"""


def main() -> None:
    """Measure warm and cold starts, the decoding alone, and the shortest program."""
    parser = argument_parser(__doc__ or "")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    machine = describe_machine()
    config, overrides, what = planes_config(arguments.data)
    names = iter(range(10**6))
    with scratch_folder() as scratch:
        shortest = scratch / "shortest.py"
        shortest.write_text(SHORTEST)

        def start(cache: Path) -> float:
            run_dir = scratch / f"run-{next(names)}"
            options = ["--workers", str(arguments.workers), "--run-dir", str(run_dir), "--quiet"]
            fields = ["train.max_steps=1", f"data.cache_dir={cache}", *overrides]
            began = time.time()
            run([sys.executable, "-m", "disttrain", "train", config, *options, *fields])
            first = json.loads((run_dir / "metrics.jsonl").read_text().splitlines()[0])
            assert first["step"] == 1
            return float(first["time"]) - began

        def start_shortest() -> float:
            began = time.time()
            note = scratch / "note"
            return float(run_ranks(str(shortest), [str(note)], note, arguments.workers)) - began

        def decode() -> float:
            """Reading, decoding and writing the cache, in a warm process's time: without the imports."""
            return timed(lambda: open_cold(config, overrides, scratch / f"cache-{next(names)}"))

        measured = alternate(
            {
                "warm": lambda: start(scratch / "cache-warm"),
                "cold": lambda: start(scratch / f"cache-{next(names)}"),
                "decoding": decode,
                "shortest": start_shortest,
                "import torch": lambda: timed(lambda: run([sys.executable, "-c", "import torch"])),
            },
            arguments.repeats,
        )
    titles = {
        "warm": "disttrain, decoded images in the cache",
        "cold": "disttrain, nothing in the cache",
        "decoding": "the first decoding alone",
        "shortest": "shortest torchrun program",
        "import torch": "`python -c 'import torch'`",
    }
    ratio = {name: ratios(values, measured["shortest"]) for name, values in measured.items()}
    rows = [
        [titles[name], Spread.of(values).render(".2f"), "1" if name == "shortest" else ratio[name].render(".2f")]
        for name, values in measured.items()
    ]
    text = (
        f"`disttrain train {Path(config).name} --workers {arguments.workers}` on {what}: seconds from the command to "
        f"the end of the first step; {arguments.repeats} repeats, in turns. Medians (least - greatest).\n\n"
        + render_table(["what", "seconds", "times the shortest program"], rows)
    )
    medians = {name: statistics.median(values) for name, values in measured.items()}
    named = {**vars(arguments), "data": what, "file": Path(config).name, "overrides": ["train.max_steps=1"]}
    report("startup", arguments, text, named, {"seconds": measured, "median": medians, "ratio": ratio}, machine)


def open_cold(config: str, overrides: list[str], cache: Path) -> None:
    """Open the dataset with an empty cache."""
    from disttrain.config import load_config
    from disttrain.data.open import open_dataset

    open_dataset(load_config(config, [*overrides, f"data.cache_dir={cache}"]).data)


def run(command: list[str]) -> None:
    """Run a program in the repository; its output is shown where it fails."""
    environ = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, cwd=REPOSITORY, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-4000:]}")


if __name__ == "__main__":
    main()
