"""Many images at once: the same pixels from one process and from several."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from disttrain.data import decode_all as decode_all_module
from disttrain.data.decode_all import decode_all
from disttrain.data.image_store import ImageStore
from disttrain.errors import DataError

from ..helpers import png, random_image, store_of, write_folder

SHAPE = (3, 20, 20)


def out_of(tmp_path: Path, count: int) -> np.ndarray:
    return np.lib.format.open_memmap(tmp_path / "images.npy", "w+", np.uint8, (count, *SHAPE))


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_several_processes_decode_what_one_does_and_find_the_same_broken_images(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {f"{k:03d}.png": png(random_image(k)) for k in range(60)}
    files |= {"010.png": b"broken", "059.png": png(random_image(0, 3, 3))}
    store = store_of(tmp_path, kind, files)
    (tmp_path / "serial").mkdir()
    serial, parallel = out_of(tmp_path / "serial", 60), out_of(tmp_path, 60)
    progress: list[int] = []
    bad = decode_all(store, store.names(), serial, False, progress.append)
    assert bad == [("010.png", "not an image"), ("059.png", "is 3x3 pixels, expected 20x20")]
    assert sum(progress) == 60
    monkeypatch.setattr(decode_all_module, "_IMAGES_PER_PROCESS", 20)
    monkeypatch.setattr(decode_all_module, "_PART", 7)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2})
    progress.clear()
    assert decode_all(store, store.names(), parallel, False, progress.append) == bad
    assert sum(progress) == 60
    assert np.array_equal(serial, parallel)
    assert np.array_equal(parallel[11], random_image(11).transpose(2, 0, 1))
    assert not parallel[[10, 59]].any()


class KillsItsProcess(ImageStore):
    def read(self, name: str) -> bytes:
        os.kill(os.getpid(), signal.SIGKILL)
        return b""


def test_a_decoding_process_that_is_killed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {f"{k}.png": png(random_image(k)) for k in range(4)}
    store = KillsItsProcess(write_folder(tmp_path / "f", files))
    monkeypatch.setattr(decode_all_module, "_IMAGES_PER_PROCESS", 2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    with pytest.raises(DataError, match=r"decoding the images in .* failed: .*(killed by signal|exited unexpectedly)"):
        decode_all(store, store.names(), out_of(tmp_path, 4), False, lambda done: None)
