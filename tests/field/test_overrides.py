"""Overrides and config files as a person means them: a text field is that text, numbers are in tens, or refused."""

from __future__ import annotations

import string
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disttrain.config import Config, build_config, load_config, render_yaml
from disttrain.config.text import dump_yaml, is_text, parse_yaml
from disttrain.errors import ConfigError

BOUNDED = settings(max_examples=50, deadline=None, database=None)
TEXT_FIELDS = [
    f"{section}.{name}"
    for section, info in Config.model_fields.items()
    for name, field in type(info.default).model_fields.items()
    if is_text(field.annotation)
]
# What argv can hold: any text without NUL; lone surrogates stand for bytes that are not UTF-8.
ARGUMENTS = st.text(st.characters(exclude_characters="\0"), max_size=30)


def value(override: str) -> Any:
    section, field = override.partition("=")[0].split(".")[:2]
    return getattr(getattr(build_config({}, [override]), section), field)


def value_or_message(override: str) -> Any:
    """The value of an override, or the ConfigError that refuses it; any other exception fails the test."""
    try:
        return value(override)
    except ConfigError as refusal:
        return refusal


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("data.path=chips #2", "chips #2"),
        ("data.path=2024", "2024"),
        ("data.path=010", "010"),
        ("data.path=1e3", "1e3"),
        ("data.path=0x10", "0x10"),
        ("data.path=2024-01-01", "2024-01-01"),
        ("data.path=12:30", "12:30"),
        ("data.path=no", "no"),
        ("data.path=true", "true"),
        ("data.path=~", "~"),
        ("data.path=~/chips", "~/chips"),
        ("data.path= chips ", " chips "),
        ("data.path=a: b", "a: b"),
        ("data.path=[a]", "[a]"),
        ("data.path={a}", "{a}"),
        ("data.path=*.zip", "*.zip"),
        ("data.path=&here", "&here"),
        ("data.path=!important", "!important"),
        ("data.path=@home", "@home"),
        ("data.path=%TEMP%", "%TEMP%"),
        ("data.path='quoted'", "'quoted'"),
        ("data.path=C:\\chips", "C:\\chips"),
        ("data.path=a\tb", "a\tb"),
        ("data.path=- a", "- a"),
        ("data.path=null", None),
        ("data.cache_dir=cache #1", "cache #1"),
        ("model.name=1.5", "1.5"),
        ("optim.name=sgd", "sgd"),
        ("train.max_steps=010", 10),
        ("train.max_steps=08", 8),
        ("train.max_steps=1_000", 1000),
        ("train.max_steps=0x10", 16),
        ("train.max_steps=+5", 5),
        ("train.max_steps=null", None),
        ("optim.lr=1e-3", 1e-3),
        ("optim.lr=.5", 0.5),
        ("optim.lr=0.050", 0.05),
        ("data.horizontal_flip=yes", True),
        ("data.horizontal_flip=False", False),
        ("data.image_size=[032, 064]", [32, 64]),
        ("data.kwargs.count=010", {"count": 10}),
        ("data.kwargs.name=chips #2", {"name": "chips #2"}),
        ("data.kwargs.since=2024-01-01", {"since": "2024-01-01"}),
        ("data.kwargs.since=2024-99-99", {"since": "2024-99-99"}),
        ("data.kwargs.at=12:30", {"at": "12:30"}),
        ("data.kwargs.name=", {"name": ""}),
        ("data.kwargs.of=[a, 1e3]", {"of": ["a", 1000.0]}),
    ],
)
def test_an_override_means_what_is_written(override: str, expected: Any) -> None:
    found = value(override)
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("train.epochs=5 # five", "'# five' stands behind the value"),
        ("train.epochs=#5", "'#5' stands behind the value"),
        ("data.image_size=[3, 4] #", "stands behind the value"),
        ("data.kwargs.of=[a] # b", "stands behind the value"),
        ("comm.timeout_s=1:30", "comm.timeout_s='1:30': input should be a valid number"),
        ("train.epochs=1,000", "train.epochs='1,000'"),
        ("train.epochs=1 000", "train.epochs='1 000'"),
        ("train.epochs=٣", "train.epochs='٣'"),
        ("train.epochs=0b11", "train.epochs='0b11'"),
        ("train.epochs=1.5", "valid integer"),
        ("train.epochs=true", "valid integer"),
        ("train.epochs=", "train.epochs=''"),
        ("train.epochs=" + "9" * 5000, "is not valid YAML"),
        ("optim.lr=1e400", "finite"),
        ("optim.lr=nan", "optim.lr='nan'"),
        ("optim.lr=.nan", "finite"),
        ("optim.lr=10%", "optim.lr='10%'"),
        ("optim.name=null", "optim.name='null'"),
        ("data.horizontal_flip=1", "valid boolean"),
        ("data.kwargs.a=" + "[" * 3000, "is not valid YAML"),
        ("data.kwargs.a=[", "is not valid YAML"),
    ],
)
def test_what_has_no_one_meaning_is_refused(override: str, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        value(override)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("data: {path: 2024}", "data.path=2024: .*Put quotes around it in the file"),
        ("train: {epochs: 1:30}", "train.epochs='1:30'"),
        ("model: {kwargs: {a: !!timestamp 2024-99-99}}", "is not valid YAML"),
        ("model: {kwargs: {? [a] : 1}}", "is not valid YAML"),
        ("model: \0", "holds NUL characters"),
    ],
)
def test_a_file_that_does_not_say_what_it_means_is_refused(tmp_path: Any, text: str, says: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=says):
        load_config(file)


def test_numbers_in_a_file_are_read_in_tens_and_a_byte_order_mark_is_no_part_of_it(tmp_path: Any) -> None:
    file = tmp_path / "config.yaml"
    file.write_bytes(b"\xef\xbb\xbftrain:\r\n  max_steps: 010\r\n")
    assert load_config(file).train.max_steps == 10


def test_a_section_whose_fields_are_commented_out_has_the_defaults(tmp_path: Any) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("model:\n  # dropout: 0.1\ntrain:\n  max_steps: 3\noptim:\n")
    assert load_config(file) == build_config({"train": {"max_steps": 3}})


CONFIG = "train: {max_steps: 3}  # für kurz\r\n"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (CONFIG.encode("utf-8"), ""),
        (CONFIG.encode("utf-8-sig"), ""),
        (CONFIG.encode("utf-16"), ""),
        (b"\xfe\xff" + CONFIG.encode("utf-16-be"), ""),
        (b"# 1\n" + CONFIG.encode("latin-1"), "is not text in UTF-8: line 2 has the byte 0xfc. Save it as UTF-8."),
        (CONFIG.encode("utf-16-le"), "Save it as UTF-8"),
        ("train: {}".encode("utf-16-le"), "holds NUL characters"),
        (CONFIG.encode("utf-16")[:-1], "is not text in UTF-16"),
        (b"\x89PNG\r\n\x1a\n", "is not text in UTF-8: line 1 has the byte 0x89"),
    ],
)
def test_a_config_is_read_in_the_encodings_that_editors_write_or_told_which(
    tmp_path: Any, data: bytes, says: str
) -> None:
    file = tmp_path / "config.yaml"
    file.write_bytes(data)
    if not says:
        assert load_config(file).train.max_steps == 3
        return
    with pytest.raises(ConfigError) as error:
        load_config(file)
    assert says in str(error.value)
    assert "codec" not in str(error.value)


@BOUNDED
@given(field=st.sampled_from(TEXT_FIELDS), text=ARGUMENTS)
def test_every_text_field_takes_any_text_as_it_is_or_refuses_it(field: str, text: str) -> None:
    found = value_or_message(f"{field}={text}")
    assert found == (None if text == "null" else text) or (isinstance(found, ConfigError) and str(found))


@BOUNDED
@given(number=st.integers(0, 10**15), zeros=st.integers(0, 3))
def test_whole_numbers_are_read_in_tens(number: int, zeros: int) -> None:
    assert value(f"data.shift_px={'0' * zeros}{number}") == number


@BOUNDED
@given(number=st.floats(1e-300, 1e300))
def test_every_number_that_python_writes_is_read_as_that_number(number: float) -> None:
    assert value(f"optim.lr={number!r}") == number


@BOUNDED
@given(
    text=ARGUMENTS,
    field=st.sampled_from(["train.epochs", "optim.lr", "data.image_size", "data.compile", "model.kwargs.a"]),
)
def test_no_override_ends_in_anything_but_a_config_or_a_message(text: str, field: str) -> None:
    found = value_or_message(f"{field}={text}")
    assert not isinstance(found, ConfigError) or str(found)


@BOUNDED
@given(path=ARGUMENTS, name=st.text(string.printable, max_size=20))
def test_a_rendered_config_holds_the_same_texts(path: str, name: str) -> None:
    assert load_rendered(build_config({"data": {"path": path, "kwargs": {"name": name}}}))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@BOUNDED
@given(VALUES)
def test_yaml_reads_back_what_it_wrote(written: Any) -> None:
    assert parse_yaml(dump_yaml(written), "here") == written


def load_rendered(config: Config) -> bool:
    """Whether the text of a config is that config again."""
    return build_config(parse_yaml(render_yaml(config), "here")) == config
