"""Images in folders and zip files: which are found, how they are decoded, and why some cannot be."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from disttrain.data import images
from disttrain.data.images import DECODE_ERRORS, ImageStore, decode_all, decode_image, describe_unreadable
from disttrain.errors import DataError

from ..helpers import png, random_image, write_folder, write_zip

SHAPE = (3, 20, 20)


def store_of(tmp_path: Path, kind: str, files: dict[str, bytes]) -> ImageStore:
    return ImageStore(write_folder(tmp_path / "f", files) if kind == "folder" else write_zip(tmp_path / "f.zip", files))


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_images_are_found_by_name_in_sorted_order_and_nothing_else(tmp_path: Path, kind: str) -> None:
    files = {name: png(random_image(k)) for k, name in enumerate(["b.PNG", "sub/deep/a.png", "a.jpeg", "z.webp"])}
    others = dict.fromkeys(("readme.txt", ".hidden.png", "sub/.trash/a.png", "__MACOSX/a.png", "png", "c.gif"), b"x")
    store = store_of(tmp_path, kind, {**files, **others})
    assert store.names() == ["a.jpeg", "b.PNG", "sub/deep/a.png", "z.webp"]
    assert all(store.read(name) == files[name] for name in store.names())


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_the_signature_changes_with_the_content(tmp_path: Path, kind: str) -> None:
    def signature(name: str, seed: int) -> list[str]:
        files = {"b.png": png(random_image(9)), "a.png": png(random_image(seed))}
        return store_of(tmp_path / name, kind, files).signature()

    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    first = signature("1", 1)
    assert [line.split()[0] for line in first] == ["a.png", "b.png"]
    assert signature("2", 2)[0] != first[0]


def test_a_file_rewritten_with_the_same_size_changes_the_signature(tmp_path: Path) -> None:
    store = store_of(tmp_path, "folder", {"a.png": b"1234"})
    before = store.signature()
    os.utime(tmp_path / "f" / "a.png", ns=(1, 1))
    assert store.signature() != before


@pytest.mark.parametrize("kind", ["missing", "text", "cut short"])
def test_what_is_neither_folder_nor_zip_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "images.zip"
    if kind == "text":
        path.write_text("no zip")
    elif kind == "cut short":
        write_zip(path, {"a.png": png(random_image(0))})
        path.write_bytes(path.read_bytes()[:-30])
    expected = "does not exist" if kind == "missing" else "is not a readable zip file"
    with pytest.raises(DataError, match=expected):
        ImageStore(path)


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_store_can_be_sent_to_another_process(tmp_path: Path, kind: str) -> None:
    store = store_of(tmp_path, kind, {"a.png": png(random_image(0))})
    copy = pickle.loads(pickle.dumps(store))
    assert copy.names() == ["a.png"]
    assert copy.read("a.png") == store.read("a.png")


def test_an_image_is_decoded_channels_first() -> None:
    image = random_image(3)
    assert np.array_equal(decode_image(png(image), SHAPE), image.transpose(2, 0, 1))
    assert decode_image(png(image), SHAPE).flags.c_contiguous


def test_grey_images_are_decoded_for_one_channel_and_spread_for_three() -> None:
    grey = random_image(3)[:, :, 0]
    assert np.array_equal(decode_image(png(grey), (1, 20, 20))[0], grey)
    assert np.array_equal(decode_image(png(grey), SHAPE), np.stack([grey] * 3))


def test_alpha_and_palettes_become_rgb() -> None:
    with_alpha = np.dstack([random_image(1), np.full((20, 20), 255, np.uint8)])
    assert np.array_equal(decode_image(png(with_alpha), SHAPE), random_image(1).transpose(2, 0, 1))
    four = Image.fromarray(np.arange(400, dtype=np.uint8).reshape(20, 20) % 4, "P")
    four.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    buffer = io.BytesIO()
    four.save(buffer, "PNG")
    decoded = decode_image(buffer.getvalue(), SHAPE)
    assert decoded[:, 0, :4].T.tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]]


def test_another_size_is_refused_or_resized() -> None:
    data = png(random_image(0, height=10, width=30))
    with pytest.raises(ValueError, match="is 30x10 pixels, expected 20x20"):
        decode_image(data, SHAPE)
    resized = decode_image(data, SHAPE, resize=True)
    expected = Image.fromarray(random_image(0, 10, 30)).resize((20, 20), Image.Resampling.BILINEAR)
    assert np.array_equal(resized, np.asarray(expected).transpose(2, 0, 1))


def bomb() -> bytes:
    """A PNG of 33 bytes that claims 60,000 x 60,000 pixels."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


def broken_images() -> dict[str, bytes]:
    good = png(random_image(0))
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 0xFF
    return {
        "empty": b"",
        "text": b"not an image at all",
        "cut short": good[: len(good) // 2],
        "header only": good[:30],
        "flipped byte": bytes(flipped),
        "bomb": bomb(),
        "wrong size": png(random_image(0, 21, 20)),
    }


@pytest.mark.parametrize("kind", broken_images())
def test_a_broken_image_raises_what_readers_expect_with_a_reason_in_one_line(kind: str) -> None:
    with pytest.raises(DECODE_ERRORS) as error:
        decode_image(broken_images()[kind], SHAPE)
    reason = describe_unreadable(error.value)
    assert reason
    assert "\n" not in reason
    assert "BytesIO" not in reason


@pytest.mark.parametrize("position", range(8, 60))
def test_a_flipped_byte_anywhere_in_the_header_is_an_unreadable_image_or_a_whole_one(position: int) -> None:
    data = bytearray(png(random_image(0)))
    data[position] ^= 0x55
    with contextlib.suppress(*DECODE_ERRORS):
        assert decode_image(bytes(data), SHAPE).shape == SHAPE


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
    monkeypatch.setattr(images, "_IMAGES_PER_PROCESS", 20)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2})
    progress.clear()
    assert decode_all(store, store.names(), parallel, False, progress.append) == bad
    assert sum(progress) == 60
    assert np.array_equal(serial, parallel)
    assert np.array_equal(parallel[11], random_image(11).transpose(2, 0, 1))
    assert not parallel[[10, 59]].any()


def test_a_decoding_process_that_dies_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_of(tmp_path, "folder", {f"{k}.png": png(random_image(k)) for k in range(4)})
    monkeypatch.setattr(images, "_IMAGES_PER_PROCESS", 2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    nowhere = np.zeros((4, *SHAPE), np.uint8)  # no memory map: the processes have no file to write to
    with pytest.raises(DataError, match=r"2 of 2 image decoding processes ended with exit codes \[1, 1\]"):
        decode_all(store, store.names(), nowhere, False, lambda done: None)
