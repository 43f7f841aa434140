"""The report of a long run: how large its page is, how long it takes to make, and to open in a browser.

A run of 10,000 steps with a line for each, telemetry of eight ranks and four restarts; headless Chromium with an empty
cache for each opening. "Opened" is when the browser has laid the page out and drawn it: the load event, and two frames.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from harness import REPOSITORY, Spread, argument_parser, describe_machine, render_table, report, scratch_folder

sys.path.insert(0, str(REPOSITORY / "tests"))

from integration.long_run import write_long_run

STEPS, RESTARTS = 10_000, 4
_OPENED = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now()))))"


def main() -> None:
    """Write the run, make its page, open it."""
    parser = argument_parser(__doc__ or "")
    parser.add_argument("--openings", type=int, default=5, help="of the page, each in a new context of the browser")
    arguments = parser.parse_args()
    machine = describe_machine()
    with scratch_folder() as scratch:
        measured = measure(arguments, scratch)
    rows = [
        ["metrics.jsonl, MB", f"{measured['metrics_bytes'] / 1e6:.1f}"],
        ["report.html, MB", f"{measured['page_bytes'] / 1e6:.2f}"],
        ["made, s", f"{measured['made_s']:.2f} ({measured['made_cpu_s']:.2f} of CPU)"],
        ["opened on a desktop, s", Spread.of(measured["desktop_s"]).render(".2f")],
        ["opened at a phone's width, s", Spread.of(measured["phone_s"]).render(".2f")],
    ]
    text = (
        f"The report of a run of {STEPS:,} steps with {RESTARTS} restarts and telemetry of 8 ranks, in headless "
        f"Chromium; openings: median (least - greatest) of {arguments.openings}.\n\n" + render_table(["", ""], rows)
    )
    report("report", arguments, text, vars(arguments), measured, machine)


def measure(arguments: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Bytes and seconds."""
    from disttrain.commands.main import main as command

    run = write_long_run(scratch / "long", STEPS, RESTARTS)
    page = scratch / "r.html"
    began, cpu = time.perf_counter(), time.process_time()
    if command(["report", str(run), "--output", str(page), "--quiet"]):
        raise SystemExit("the report cannot be made")
    made_s, made_cpu_s = time.perf_counter() - began, time.process_time() - cpu
    measured: dict[str, Any] = {
        "metrics_bytes": (run / "metrics.jsonl").stat().st_size,
        "page_bytes": page.stat().st_size,
    }
    measured |= {"made_s": made_s, "made_cpu_s": made_cpu_s}
    return measured | {f"{name}_s": openings(page, width, arguments.openings) for name, width in _WIDTHS.items()}


_WIDTHS = {"desktop": 1280, "phone": 360}


def openings(page: Path, width: int, count: int) -> list[float]:
    """Seconds from the start of the navigation to the page as drawn."""
    from playwright.sync_api import sync_playwright

    program = os.environ.get("CHROMIUM") or shutil.which("chromium")
    times = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage"])
        for _ in range(count):
            context = browser.new_context(viewport={"width": width, "height": 800})
            opened = context.new_page()
            opened.goto(page.as_uri(), wait_until="load")
            times.append(float(opened.evaluate(_OPENED)) / 1000)
            context.close()
        browser.close()
    return times


if __name__ == "__main__":
    main()
