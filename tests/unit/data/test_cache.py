"""Decoded datasets on disk: whole, verified, shared, and rebuilt where they are not what was written."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest

from disttrain.data.base import ImageArrays
from disttrain.data.cache import cached_arrays, default_cache_dir
from disttrain.errors import DataError
from disttrain.files import file_sha256


class Builder:
    """Makes the same arrays every time, and counts how often it was asked to."""

    def __init__(self, in_place: bool = False) -> None:
        self.calls, self.in_place = 0, in_place

    def __call__(self, folder: Path) -> ImageArrays:
        self.calls += 1
        images = np.random.RandomState(0).randint(0, 256, (10, 3, 4, 4)).astype(np.uint8)
        if self.in_place:
            mapped = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, images.shape)
            mapped[:] = images
            images = mapped
        scenes, is_test = np.arange(10) % 2, np.arange(10) > 7
        return ImageArrays(images, np.arange(10) % 3, ("a", "b", "c"), scenes, ("x", "y"), is_test)


def entries(cache: Path) -> list[Path]:
    return sorted(cache.iterdir())


def assert_whole(arrays: ImageArrays) -> None:
    made = Builder()(Path())
    for name in ("images", "labels", "scenes", "is_test"):
        assert np.array_equal(getattr(arrays, name), getattr(made, name)), name
    assert (arrays.class_names, arrays.scene_names) == (made.class_names, made.scene_names)


@pytest.mark.parametrize("in_place", [False, True])
def test_arrays_are_built_once_and_then_mapped(tmp_path: Path, in_place: bool) -> None:
    build = Builder(in_place)
    first, fingerprint = cached_arrays(["k"], str(tmp_path), True, build)
    second, again = cached_arrays(["k"], str(tmp_path), True, build)
    assert build.calls == 1
    assert fingerprint == again
    for arrays in (first, second):
        assert_whole(arrays)
        assert isinstance(arrays.images, np.memmap)
        assert not arrays.images.flags.writeable
    assert len(entries(tmp_path)) == 1


def test_absent_columns_stay_absent(tmp_path: Path) -> None:
    def build(folder: Path) -> ImageArrays:
        return ImageArrays(np.zeros((2, 1, 1, 1), np.uint8), np.zeros(2, np.int64), ("a",))

    arrays, _ = cached_arrays(["k"], str(tmp_path), True, build)
    assert arrays.scenes is None
    assert arrays.is_test is None


def test_another_key_is_another_entry_with_its_own_fingerprint_only_if_the_data_differ(tmp_path: Path) -> None:
    first = cached_arrays(["a"], str(tmp_path), True, Builder())[1]
    second = cached_arrays(["b"], str(tmp_path), True, Builder())[1]
    assert first == second
    assert len(entries(tmp_path)) == 2

    def build(folder: Path) -> ImageArrays:
        made = Builder()(folder)
        return ImageArrays(made.images, made.labels, ("a", "b", "d"))

    assert cached_arrays(["c"], str(tmp_path), True, build)[1] != first


@pytest.mark.parametrize("file", ["images.npy", "labels.npy", "scenes.npy", "is_test.npy"])
def test_a_flipped_byte_is_noticed_and_the_entry_rebuilt(tmp_path: Path, file: str) -> None:
    build = Builder()
    cached_arrays(["k"], str(tmp_path), True, build)
    damaged = entries(tmp_path)[0] / file
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    arrays, _ = cached_arrays(["k"], str(tmp_path), True, build)
    assert build.calls == 2
    assert_whole(arrays)
    assert len(entries(tmp_path)) == 1


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"files": {}}'])
def test_a_damaged_description_is_noticed_and_the_entry_rebuilt(tmp_path: Path, damage: str) -> None:
    build = Builder()
    cached_arrays(["k"], str(tmp_path), True, build)
    (entries(tmp_path)[0] / "meta.json").write_text(damage)
    assert_whole(cached_arrays(["k"], str(tmp_path), True, build)[0])
    assert build.calls == 2


def test_a_missing_file_is_noticed_and_the_entry_rebuilt(tmp_path: Path) -> None:
    build = Builder()
    cached_arrays(["k"], str(tmp_path), True, build)
    (entries(tmp_path)[0] / "labels.npy").unlink()
    assert_whole(cached_arrays(["k"], str(tmp_path), True, build)[0])


def test_without_verification_nothing_is_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached_arrays(["k"], str(tmp_path), True, Builder())
    monkeypatch.setattr("disttrain.data.cache.file_sha256", lambda path: pytest.fail("hashed"))
    assert_whole(cached_arrays(["k"], str(tmp_path), False, Builder())[0])


def test_a_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def build(folder: Path) -> ImageArrays:
        (folder / "images.npy").write_bytes(b"half")
        raise DataError("no")

    with pytest.raises(DataError, match="no"):
        cached_arrays(["k"], str(tmp_path), True, build)
    assert entries(tmp_path) == []


def test_a_build_that_is_killed_leaves_nothing_that_is_used(tmp_path: Path) -> None:
    code = """
        import sys, time
        from disttrain.data.cache import cached_arrays
        def build(folder):
            (folder / "images.npy").write_bytes(b"half")
            print("building", flush=True)
            time.sleep(60)
        cached_arrays(["k"], sys.argv[1], True, build)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "building\n"
        process.kill()
    build = Builder()
    assert_whole(cached_arrays(["k"], str(tmp_path), True, build)[0])
    assert build.calls == 1


@pytest.mark.parametrize("damaged", [False, True])
def test_jobs_that_build_the_same_entry_at_once_all_get_it_whole(tmp_path: Path, damaged: bool) -> None:
    together = threading.Barrier(6)
    build, failed = Builder(), []

    def slow(folder: Path) -> ImageArrays:
        with contextlib.suppress(threading.BrokenBarrierError):  # a job that builds once more does so alone
            together.wait(0.5)
        return build(folder)

    def work(place: Path) -> None:
        try:
            assert_whole(cached_arrays(["k"], str(place), True, slow)[0])
        except BaseException as error:
            failed.append(error)

    for attempt in range(20):
        together.reset()
        place = tmp_path / str(attempt)
        if damaged:
            cached_arrays(["k"], str(place), True, Builder())
            (entries(place)[0] / "labels.npy").unlink()
        threads = [threading.Thread(target=work, args=(place,)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        assert len(entries(place)) == 1


@pytest.mark.parametrize("damaged", [False, True])
def test_an_entry_that_another_job_has_published_meanwhile_is_kept(tmp_path: Path, damaged: bool) -> None:
    published: list[int] = []

    def build(folder: Path) -> ImageArrays:
        cached_arrays(["k"], str(tmp_path), True, Builder())  # the other job, faster
        published.extend(path.stat().st_ino for path in entries(tmp_path) if ".tmp-" not in path.name)
        return Builder()(folder)

    if damaged:
        cached_arrays(["k"], str(tmp_path), True, Builder())
        (entries(tmp_path)[0] / "labels.npy").unlink()
    assert_whole(cached_arrays(["k"], str(tmp_path), True, build)[0])
    assert [path.stat().st_ino for path in entries(tmp_path)] == published


def test_changed_names_are_noticed_and_the_entry_rebuilt(tmp_path: Path) -> None:
    cached_arrays(["k"], str(tmp_path), True, Builder())
    meta = entries(tmp_path)[0] / "meta.json"
    meta.write_text(meta.read_text().replace('"a", "b"', '"b", "a"'))
    assert_whole(cached_arrays(["k"], str(tmp_path), True, Builder())[0])


@pytest.mark.parametrize("kind", ["a file is in the way", "a parent is a file", "a parent is not real"])
def test_a_cache_folder_that_cannot_be_written_is_told_with_the_way_out(tmp_path: Path, kind: str) -> None:
    (tmp_path / "file").write_text("")
    place = {
        "a file is in the way": tmp_path / "file",
        "a parent is a file": tmp_path / "file" / "cache",
        "a parent is not real": Path("/proc/no/cache"),
    }[kind]
    with pytest.raises(DataError, match=r"cannot be written .*Set data\.cache_dir to a folder that can"):
        cached_arrays(["k"], str(place), True, Builder())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_folder_without_permission_is_told_with_the_way_out(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(DataError, match=r"Set data\.cache_dir to a folder that can"):
        cached_arrays(["k"], str(tmp_path), True, Builder())


def test_a_full_disk_is_told_with_the_way_out(tmp_path: Path) -> None:
    def build(folder: Path) -> ImageArrays:
        with open("/dev/full", "wb", buffering=0) as full:
            full.write(b"x")
        raise AssertionError

    with pytest.raises(DataError, match="No space left on device"):
        cached_arrays(["k"], str(tmp_path), True, build)
    assert entries(tmp_path) == []


def test_the_default_folder_follows_the_xdg_variable(isolated_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_cache_dir() == isolated_cache / "disttrain"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert default_cache_dir() == Path("/home/somebody/.cache/disttrain")


def test_file_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    assert file_sha256(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
