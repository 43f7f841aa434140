"""YAML and overrides into a checked config: what is accepted, and what a mistake is answered with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from disttrain.config import Config, build_config, config_differences, load_config, render_yaml
from disttrain.errors import ConfigError


def load(tmp_path: Path, text: str, *overrides: str) -> Config:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    return load_config(file, overrides)


def refused(tmp_path: Path, text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, text, *overrides)
    assert error.value.exit_code == 2
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optim: {learning_rate: 1}", "unknown field in optim: 'learning_rate'. Valid: beta1,"),
        ("optim: {momentun: 0.5}", "Did you mean 'momentum'?"),
        ("batch: {globalbatchsize: 3}", "Did you mean 'global_batch_size'?"),
        ("trian: {epochs: 3}", "unknown section in the config: 'trian'. Did you mean 'train'?"),
        ("optim: {name: adam}", "optim.name='adam': input should be 'adamw' or 'sgd'"),
        ("optim: {name: adam}", "Did you mean 'adamw'?"),
        ("optim: {lr: high}", "optim.lr='high': input should be a valid number"),
        ("optim: {lr: 0}", "optim.lr=0: input should be greater than 0"),
        ("train: {epochs: 1.5}", "train.epochs=1.5: input should be a valid integer"),
        ("train: {epochs: '3'}", "train.epochs='3': input should be a valid integer"),
        ("train: {epochs: true}", "train.epochs=True: input should be a valid integer"),
        ("train: {epochs: 0}", "train.epochs=0: input should be greater than or equal to 1"),
        ("data: {horizontal_flip: 1}", "data.horizontal_flip=1: input should be a valid boolean"),
        ("data: {image_size: [20]}", "data.image_size=[20]:"),
        ("data: {image_size: [20, 0]}", "data.image_size.1=0:"),
        ("model: {dropout: 1}", "model.dropout=1: input should be less than 1"),
        ("model: {kwargs: [1]}", "model.kwargs=[1]:"),
        ("model: planesnet_cnn", "model='planesnet_cnn' must be a mapping of fields"),
        ("- model", "must be a mapping of sections (model, data, batch,"),
        ("train: {epochs: 1, epochs: 2}", "duplicate key 'epochs'"),
        ("train: {epochs: 1}\nmodel: {}\ntrain: {seed: 1}", "duplicate key 'train'"),
        ("train: {epochs: [", "is not valid YAML"),
        ("train: !!python/object/apply:os.getcwd []", "is not valid YAML"),
    ],
)
def test_a_mistake_is_refused_with_its_name_value_and_rule(tmp_path: Path, text: str, expected: str) -> None:
    message = refused(tmp_path, text)
    assert expected in message
    assert "config.yaml" in message


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    message = refused(tmp_path, "train: {epochs: 0, sed: 1}\noptim: {lr: -1}")
    for part in ("train.epochs=0", "'sed'", "optim.lr=-1"):
        assert part in message


@pytest.mark.parametrize("written", ["1e-3", "1E-3", "1.e-3", ".1e-2", "+1e-3", "0.001", "10e-4"])
def test_scientific_notation_is_a_number(tmp_path: Path, written: str) -> None:
    assert load(tmp_path, f"optim: {{lr: {written}}}").optim.lr == 0.001
    assert load(tmp_path, "", f"optim.lr={written}").optim.lr == 0.001


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, "") == Config()
    assert load(tmp_path, "# nothing\n") == build_config()


def test_yaml_merge_keys_work_as_in_any_yaml(tmp_path: Path) -> None:
    assert load(tmp_path, "train: &a {epochs: 3}\ncheckpoint: {keep: 5}").checkpoint.keep == 5
    merged = load(tmp_path, "model: {kwargs: {base: &a {width: 3, depth: 2}, head: {<<: *a, width: 4}}}")
    assert merged.model.kwargs["head"] == {"width": 4, "depth": 2}


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "there.yaml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"(cannot read )?the config file .*there\.yaml"):
        load_config(file)


def test_overrides_replace_the_file_and_the_later_one_wins(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        "train: {epochs: 3, seed: 4}",
        "train.epochs=5",
        "optim.name=sgd",
        "train.epochs=6",
        "data.path=a=b",
        "batch.micro_batch_size=null",
        "data.image_size=[20, 30]",
        "data.horizontal_flip=true",
        "model.kwargs.width=64",
        "model.kwargs.block.depth=2",
    )
    assert (config.train.epochs, config.train.seed) == (6, 4)
    assert (config.optim.name, config.data.path, config.batch.micro_batch_size) == ("sgd", "a=b", None)
    assert (config.data.image_size, config.data.horizontal_flip) == ([20, 30], True)
    assert config.model.kwargs == {"width": 64, "block": {"depth": 2}}


@pytest.mark.parametrize("override", ["epochs=3", "train.epochs", "train.=3", ".epochs=3", "train epochs", "=", ""])
def test_an_override_of_another_form_is_refused_with_an_example(tmp_path: Path, override: str) -> None:
    assert "is not of the form section.field=value, e.g. train.epochs=5" in refused(tmp_path, "", override)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.epochs=many", "train.epochs='many'"),
        ("train.epoch=3", "Did you mean 'epochs'?"),
        ("trian.epochs=3", "Did you mean 'train'?"),
        ("train.epochs=[", "override 'train.epochs=[' is not valid YAML"),
        ("train.epochs.more=3", "train is 3, not a mapping"),
        ("data.name=", "unknown"),
    ],
)
def test_an_override_is_checked_like_the_file(tmp_path: Path, override: str, expected: str) -> None:
    if override == "data.name=":  # an empty value is an empty text, not null
        assert load(tmp_path, "", override).data.name == ""
        return
    assert expected in refused(tmp_path, "train: {epochs: 3}", override)


def test_overrides_leave_the_values_given_as_they_were() -> None:
    values = {"train": {"epochs": 1}, "model": {"kwargs": {"width": 8}}}
    build_config(values, ["train.epochs=5", "model.kwargs.width=16"])
    assert values == {"train": {"epochs": 1}, "model": {"kwargs": {"width": 8}}}


EVERYTHING_ELSE = {
    "model": {"name": "a.b:c", "dropout": 0.25, "kwargs": {"width": 3, "of": ["x", {"y": None}]}, "compile": True},
    "data": {"path": "/with: colon and 'quotes'", "image_size": [3, 4], "quarter_turns": True, "shift_px": 2},
    "batch": {"global_batch_size": 100, "micro_batch_size": 7},
    "optim": {"name": "sgd", "lr": 1e-7, "lr_scaling": "sqrt", "reference_batch_size": 32, "clip_norm": 1e20},
    "train": {"max_steps": 12, "precision": "bf16", "seed": 2**40, "ema_decay": 0.999},
    "comm": {"compression": "powersgd", "timeout_s": 0.5},
    "checkpoint": {"every_steps": 10, "keep": 1},
}


@pytest.mark.parametrize("values", [{}, EVERYTHING_ELSE], ids=["defaults", "everything else"])
def test_a_rendered_config_loads_as_the_same_config(tmp_path: Path, values: dict[str, Any]) -> None:
    config = build_config(values)
    assert load(tmp_path, render_yaml(config)) == config


def test_a_rendered_config_names_every_field(tmp_path: Path) -> None:
    import yaml

    tree = yaml.safe_load(render_yaml(Config()))
    assert list(tree) == list(Config.model_fields)
    for section, info in Config.model_fields.items():
        assert list(tree[section]) == list(type(info.default).model_fields)


def test_differences_list_each_field_with_both_values() -> None:
    old = build_config({"optim": {"lr": 0.1}, "model": {"kwargs": {"width": 1}}})
    new = build_config({"optim": {"lr": 0.2}, "model": {"kwargs": {"width": 2}}, "data": {"path": "x"}})
    assert config_differences(old, new) == [
        "model.kwargs: {'width': 1} -> {'width': 2}",
        "data.path: None -> 'x'",
        "optim.lr: 0.1 -> 0.2",
    ]
    assert config_differences(old, old) == []


def test_a_config_cannot_be_changed_after_it_was_checked() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config().train.epochs = 3  # type: ignore[misc]


@pytest.mark.parametrize("file", sorted((Path(__file__).parents[3] / "configs").glob("*.yaml")), ids=lambda f: f.name)
def test_shipped_configs_load(file: Path) -> None:
    assert load_config(file) != Config()
