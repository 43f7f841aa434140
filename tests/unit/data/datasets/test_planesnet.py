"""PlanesNet from a folder, a zip and the published JSON: the same arrays; and every way in which it can be wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from disttrain.data.base import ImageArrays
from disttrain.data.datasets.planesnet import open_planesnet
from disttrain.errors import DataError

from ...helpers import (
    SCENES,
    chips,
    data_config,
    not_none,
    planesnet_json,
    png,
    random_image,
    write_folder,
    write_json,
    write_zip,
)


def files(count: int = 9) -> dict[str, bytes]:
    return {name: png(image) for name, image in chips(count).items()}


def opened(path: Path, cache: Path, **fields: Any) -> ImageArrays:
    return open_planesnet(data_config(path, name="planesnet", cache_dir=str(cache), **fields), verify=True)[0]


def refused(path: Path, tmp_path: Path, **fields: Any) -> str:
    with pytest.raises(DataError) as error:
        opened(path, tmp_path / "cache", **fields)
    assert error.value.exit_code == 3
    left = tmp_path / "cache"
    assert not left.exists() or not any(left.iterdir())
    return str(error.value)


def test_every_published_form_gives_the_same_arrays(tmp_path: Path) -> None:
    made = chips(9)
    json_file = write_json(tmp_path / "planesnet.json", planesnet_json(made))
    with_json = write_folder(tmp_path / "with_json", {"planesnet.json": json_file.read_bytes(), "x.png": b"ignored"})
    nested = {f"planesnet/planesnet/{name}": data for name, data in files().items()}
    sources = [
        write_folder(tmp_path / "folder", files()),
        write_folder(tmp_path / "nested", nested),
        write_zip(tmp_path / "flat.zip", files()),
        write_zip(tmp_path / "nested.zip", nested),
        json_file,
        with_json,
    ]
    for source in sources:
        arrays = opened(source, tmp_path / "cache")
        assert np.array_equal(arrays.images, np.stack([image.transpose(2, 0, 1) for image in made.values()])), source
        assert arrays.labels.tolist() == [int(name[0]) for name in made]
        assert arrays.labels.dtype == np.int64
        assert arrays.class_names == ("no-plane", "plane")
        assert [arrays.scene_names[k] for k in not_none(arrays.scenes)] == [name.split("__")[1] for name in made]
        assert arrays.scene_names == SCENES


def test_broken_chips_among_good_ones_are_all_named(tmp_path: Path) -> None:
    bad = {
        f"0__{SCENES[0]}__-1_1.png": b"no image",
        f"1__{SCENES[0]}__-1_2.png": png(random_image(0, 21, 20)),
        f"2__{SCENES[0]}__-1_3.png": png(random_image(0)),
        "plane.png": png(random_image(0)),
    }
    message = refused(write_folder(tmp_path / "chips", {**files(), **bad}), tmp_path)
    assert "4 of 13 images" in message
    for part in (
        "-1_1.png: not an image",
        "-1_2.png: is 20x21 pixels, expected 20x20",
        "label '2' is out of range: 0 (no-plane) or 1 (plane)",
        "plane.png: its name is not <label>__<scene>__<lon>_<lat>.png",
        "set data.skip_unreadable=true to go on without them",
    ):
        assert part in message


def test_of_many_broken_chips_the_first_few_are_shown(tmp_path: Path) -> None:
    broken = dict.fromkeys(chips(12), b"no image")
    message = refused(write_folder(tmp_path / "chips", broken), tmp_path)
    assert "12 of 12 images" in message
    assert message.count("not an image") == 5
    assert "... and 7 more" in message


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_broken_chips_can_be_left_out_with_a_warning(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    everything = {**files(), f"0__{SCENES[0]}__-0_0.png": b"no image", "other.png": png(random_image(0))}
    source = (
        write_folder(tmp_path / "chips", everything) if kind == "folder" else write_zip(tmp_path / "c.zip", everything)
    )
    arrays = opened(source, tmp_path / "cache", skip_unreadable=True)
    assert np.array_equal(arrays.images, np.stack([image.transpose(2, 0, 1) for image in chips(9).values()]))
    assert arrays.labels.tolist() == [int(name[0]) for name in chips(9)]
    output = capsys.readouterr()
    assert output.out == ""
    assert "warning: left out 2 of 11 images" in output.err


def test_leaving_out_every_chip_leaves_nothing_to_train_on(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "chips", dict.fromkeys(chips(3), b"no image"))
    assert "none of the 3 images" in refused(source, tmp_path, skip_unreadable=True)
    named = write_folder(tmp_path / "named", {"a.png": png(random_image(0))})
    assert "none of the 1 images" in refused(named, tmp_path, skip_unreadable=True)


def test_a_zip_entry_that_is_damaged_is_named(tmp_path: Path) -> None:
    source = write_zip(tmp_path / "chips.zip", files())
    content = bytearray(source.read_bytes())
    place = content.index(b"IDAT") + 30
    content[place] ^= 0xFF
    source.write_bytes(content)
    message = refused(source, tmp_path)
    assert "1 of 9 images" in message
    assert "Bad CRC-32" in message


def test_a_zip_that_is_damaged_as_a_whole_is_refused(tmp_path: Path) -> None:
    source = write_zip(tmp_path / "chips.zip", files())
    source.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    assert "is not a readable zip file" in refused(source, tmp_path)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "holds no PNG chips" in refused(tmp_path / "empty", tmp_path)


def test_a_missing_path_is_named_as_given(tmp_path: Path) -> None:
    assert f"data.path={tmp_path / 'nowhere'} does not exist" in refused(tmp_path / "nowhere", tmp_path)
    with pytest.raises(DataError, match=r"data\.name=planesnet needs data\.path"):
        open_planesnet(data_config(name="planesnet"), verify=True)


def test_changed_chips_are_decoded_anew(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "chips", files())
    first = open_planesnet(data_config(source, cache_dir=str(tmp_path / "cache")), True)[1]
    name = next(iter(chips(9)))
    (source / name).write_bytes(png(random_image(99)))
    arrays, second = open_planesnet(data_config(source, cache_dir=str(tmp_path / "cache")), True)
    assert first != second
    assert np.array_equal(arrays.images[0], random_image(99).transpose(2, 0, 1))


def wrong_json() -> dict[str, tuple[Any, str]]:
    def changed(**values: Any) -> dict[str, Any]:
        return {**planesnet_json(chips(4)), **values}

    data = planesnet_json(chips(4))["data"]
    return {
        "not a mapping": ([1, 2], "lacks the lists data, labels, scene_ids"),
        "no labels": ({"data": [], "scene_ids": []}, "lacks the lists labels:"),
        "counts": (changed(labels=[0, 1]), "4 chips, 2 labels, 4 scene ids"),
        "no chips": (changed(data=[], labels=[], scene_ids=[]), "holds no chips"),
        "short chip": (changed(data=[*data[:3], data[3][:-1]]), "chip 3 has 1199 numbers, expected 1200"),
        "label": (changed(labels=[0, 1, 2, 0]), "label 2 of chip 2 is out of range"),
        "label text": (changed(labels=["0", 1, 0, 0]), "label '0' of chip 0 is out of range"),
        "too bright": (changed(data=[*data[:3], [256] * 1200]), "whole numbers from 0 to 255"),
        "negative": (changed(data=[*data[:3], [-1] * 1200]), "whole numbers from 0 to 255"),
        "fractions": (changed(data=[*data[:3], [0.5] * 1200]), "whole numbers from 0 to 255"),
        "text": (changed(data=[*data[:3], ["x"] * 1200]), "whole numbers from 0 to 255"),
        "huge": (changed(data=[*data[:3], [10**30] * 1200]), "whole numbers from 0 to 255"),
        "nested": (changed(data=[*data[:3], [[1]] * 1200]), "are not numbers"),
        "chip is a number": (changed(data=[*data[:3], 5]), "chip 3 has 0 numbers"),
        "data is a number": (changed(data=5), "lacks the lists data:"),
    }


@pytest.mark.parametrize("kind", wrong_json())
def test_json_that_is_wrong_is_refused_with_the_place(tmp_path: Path, kind: str) -> None:
    content, expected = wrong_json()[kind]
    message = refused(write_json(tmp_path / "planesnet.json", content), tmp_path)
    assert expected in message
    assert "planesnet.json" in message


@pytest.mark.parametrize("content", [b"", b'{"data": [', b"\xff\xfe"])
def test_json_that_cannot_be_parsed_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "planesnet.json"
    file.write_bytes(content)
    assert "is not readable JSON" in refused(file, tmp_path)
