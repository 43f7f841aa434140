"""A good config with its data, the user's code, and how each is made bad."""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

CONFIG = """
model: {name: planesnet_cnn}
data: {name: planesnet, path: chips}
batch: {global_batch_size: 64}
train: {epochs: 1, device: cpu}
"""

USER_CODE = """
import os
import numpy as np
import torch
from torch import nn
from disttrain.data.base import ImageArrays

RANK = int(os.environ.get("RANK") or os.environ.get("OMPI_COMM_WORLD_RANK") or 0)


class Net(nn.Module):
    def __init__(self, outputs=2, fails_in_training=False):
        super().__init__()
        self.layer = nn.Linear(1200, outputs)
        self.fails_in_training = fails_in_training

    def forward(self, x):
        # Not before the ranks are connected: what fails in the first step is found before the start.
        if self.fails_in_training and torch.distributed.is_initialized():
            raise ValueError("no cheese on this rank")
        return self.layer(x.flatten(1))


def five_outputs():
    return Net(5)


def wrong_input():
    return nn.Linear(7, 2)


def not_a_network():
    return "a network"


def fails_on_rank_one():
    if RANK == 1:
        raise ValueError("no cheese on this rank")
    return Net()


def fails_in_training_on_rank_one():
    return Net(fails_in_training=RANK == 1)


def labels_up_to_seven():
    labels = np.arange(80) % 8
    return ImageArrays(np.zeros((80, 3, 20, 20), np.uint8), labels, ("a", "b"))


class Chips:
    def __init__(self, count, classes, top=1):
        self.count, self.top = count, top
        if classes:
            self.classes = classes

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return torch.zeros(3, 20, 20), index % (self.top + 1)


def streamed_labels_up_to_seven():
    return Chips(80, ("a", "b"), top=7)


def no_class_names():
    return Chips(80, ())


def one_sample():
    return Chips(1, ("a", "b"))


def fails():
    raise OSError("the share is not mounted")


class Broken(Chips):
    def __getitem__(self, index):
        raise KeyError("column 7")


def broken_item():
    return Broken(80, ("a", "b"))
"""


@dataclass(frozen=True)
class Place:
    """Where a test runs: its own folder with `config.yaml` and `chips/`, and what the session has made once."""

    folder: Path
    many: Path
    """2,000 good chips."""

    @property
    def chips(self) -> Path:
        """The test's own chips: links to those of the session."""
        return self.folder / "chips"

    def write(self, name: str, text: str) -> None:
        """A text file in the test's folder."""
        (self.folder / name).write_text(text)

    def config(self, text: str) -> None:
        """Another config than the good one."""
        self.write("config.yaml", text)


def link_all(source: Path, target: Path) -> None:
    """A folder with the same files, without copying them."""
    target.mkdir()
    for file in source.iterdir():
        os.link(file, target / file.name)


def replace(file: Path, content: bytes) -> None:
    file.unlink()  # it is a link: the session's file stays as it is
    file.write_bytes(content)


def no_chips(place: Place) -> None:
    for file in place.chips.iterdir():
        file.unlink()


def one_corrupt_among_thousands(place: Place) -> None:
    no_chips(place)
    place.chips.rmdir()
    link_all(place.many, place.chips)
    victim = sorted(place.chips.iterdir())[1234]
    replace(victim, victim.read_bytes()[:200])


def zip(place: Place) -> Path:
    target = place.folder / "chips.zip"
    with zipfile.ZipFile(target, "w") as archive:
        for file in sorted(place.chips.iterdir()):
            archive.write(file, f"chips/{file.name}")
    return target


def zip_cut_short(place: Place) -> None:
    target = zip(place)
    target.write_bytes(target.read_bytes()[:-1000])


def zip_with_damaged_member(place: Place) -> None:
    target = zip(place)
    content = bytearray(target.read_bytes())
    content[content.index(b"IDAT") + 8] ^= 1
    target.write_bytes(content)


def zip_encrypted(place: Place) -> None:
    target = zip(place)
    content = bytearray(target.read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1  # the flag "encrypted" of the first member, in the directory
    content[6] |= 1
    target.write_bytes(content)


def one_larger(place: Place) -> None:
    victim = sorted(place.chips.iterdir())[7]
    victim.unlink()
    Image.new("RGB", (21, 20)).save(victim)


def label_two(place: Place) -> None:
    victim = sorted(place.chips.iterdir())[0]
    victim.rename(victim.with_name(f"2__{victim.name.partition('__')[2]}"))


def planes_only(place: Place) -> None:
    for file in place.chips.glob("0__*"):
        file.unlink()


def user_code(place: Place) -> None:
    place.write("usercode.py", USER_CODE)


def module_that_raises(place: Place) -> None:
    place.write("usercode.py", "import os\n\nraise RuntimeError('licence expired')\n")


def module_that_exits(place: Place) -> None:
    place.write("usercode.py", "import sys\n\nsys.exit('usage: usercode FILE')\n")


def module_with_bad_syntax(place: Place) -> None:
    place.write("usercode.py", "def network(:\n    pass\n")


def module_that_lacks_a_module(place: Place) -> None:
    place.write("usercode.py", "import flux_capacitor\n")


def file_named_run(place: Place) -> None:
    place.write("run", "mine\n")


def another_run(place: Place) -> None:
    (place.folder / "run").mkdir()
    place.write("run/config.yaml", "optim: {lr: 0.5}\ndata: {name: planesnet, path: chips}\n")


def damaged_run(place: Place) -> None:
    (place.folder / "run").mkdir()
    place.write("run/config.yaml", "optim: {lr: 0.5\n")
