"""The picture of the allreduce's bandwidth, from what benchmarks/engines.py has measured.

python docs/engines_picture.py benchmarks/results/engines.json docs/pictures/engines.png      (needs matplotlib)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt


def main(result: Path, output: Path) -> None:
    """Medians over the message size, between the least and the greatest."""
    content = json.loads(result.read_text())
    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    for engine, found in content["measured"]["mb_per_second"].items():
        sizes = [int(size) / 2**20 for size in found]
        (line,) = axis.plot(sizes, [one["median"] for one in found.values()], marker="o", ms=4, label=engine)
        low, high = ([one[key] for one in found.values()] for key in ("min", "max"))
        axis.fill_between(sizes, low, high, color=line.get_color(), alpha=0.15, lw=0)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set(xlabel="message, MiB", ylabel="MB/s", title=f"allreduce over {content['config']['ranks']} ranks")
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(output, dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
