"""Bad input under every launcher: one clear message, the documented exit code, soon, and nothing left behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from .bad_files import USER_CODE, Place
from .bad_input import CASES, Case
from .commands import DISTTRAIN, ERROR, Outcome, finish, mounted, run, start, train_command, tree

_LONGEST_MESSAGE = 12  # lines
_TABLE = [pytest.param(case, launcher, id=f"{case.name}-{launcher}") for case in CASES for launcher in case.launchers]


def check_refusal(outcome: Outcome, code: int, says: Sequence[str], alone_on_stderr: bool = True) -> None:
    """One message that says all of `says`, and the exit code."""
    shown = f"exit code {outcome.code} after {outcome.wall_s:.1f} s, standard error:\n{outcome.err}"
    assert len(outcome.errors) == 1, shown
    for pattern in says:
        assert re.search(pattern, outcome.message), f"{pattern!r} is not in the message; {shown}"
    if alone_on_stderr:
        assert outcome.report.startswith(ERROR), shown
        assert len(outcome.report.splitlines()) <= _LONGEST_MESSAGE, shown
        assert "Traceback" not in outcome.err, shown
    assert outcome.out == "", outcome.out
    assert outcome.code == code, shown


def early(case: Case, launcher: str) -> bool:
    """Whether this launcher finds the mistake before it imports torch."""
    return case.early and launcher in ("alone", "workers")


@pytest.mark.parametrize(("case", "launcher"), _TABLE)
def test_training_on_bad_input_is_refused_with_one_message(
    case: Case, launcher: str, place: Place, no_torch: Path
) -> None:
    if case.make is not None:
        case.make(place)
    before = tree(place.folder)
    env = dict(case.env)
    if early(case, launcher):
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(no_torch), os.environ.get("PYTHONPATH")]))
    command = train_command(launcher, [case.config, "--run-dir", case.run_dir, *case.overrides])
    outcome = run(command, place.folder, env)
    # torchrun itself turns every exit code into 1; it and mpirun add reports of their own.
    code = 1 if launcher == "torchrun" else case.code
    check_refusal(outcome, code, case.says, alone_on_stderr=launcher not in ("torchrun", "mpirun"))
    assert tree(place.folder) == before


@pytest.mark.parametrize("count", ["0", "-1", "abc", "1.5", "²"])
def test_worker_count_that_is_no_positive_number_is_refused_at_once(place: Place, count: str) -> None:
    before = tree(place.folder)
    outcome = run([*DISTTRAIN, "train", "config.yaml", f"--workers={count}", "--run-dir", "run"], place.folder)
    check_refusal(outcome, 2, [rf"--workers {re.escape(count)}: give a number of at least 1, or auto"])
    assert tree(place.folder) == before


@pytest.mark.parametrize("launcher", ["torchrun.sh", "mpirun"])
def test_worker_count_against_the_launcher_is_refused_once(place: Place, launcher: str) -> None:
    outcome = run(train_command(launcher, ["config.yaml", "--workers", "3", "--run-dir", "run"]), place.folder)
    says = [r"--workers 3, but (torchrun|openmpi) has started 2 ranks on this node\. Leave --workers out"]
    check_refusal(outcome, 2, says, alone_on_stderr=launcher != "mpirun")
    assert not (place.folder / "run").exists()


@pytest.mark.parametrize("launcher", ["alone", "workers"])
def test_run_dir_that_is_not_writable_is_refused(place: Place, launcher: str) -> None:
    with mounted(place.folder / "locked", "ro,size=64k"):
        command = train_command(launcher, ["config.yaml", "--run-dir", "locked/run"])
        outcome = run(command, place.folder)
        check_refusal(outcome, 2, [r"run directory locked/run is not writable: .*/locked\. Use another --run-dir"])
        assert tree(place.folder / "locked") == {}


def test_cache_dir_that_is_not_writable_is_refused(place: Place) -> None:
    with mounted(place.folder / "locked", "ro,size=64k"):
        command = train_command("workers", ["config.yaml", "--run-dir", "run", "data.cache_dir=locked/cache"])
        outcome = run(command, place.folder)
        check_refusal(outcome, 3, [r"cache folder locked/cache cannot be written \(Read-only file system\)"])
        assert not (place.folder / "run").exists()


@pytest.mark.parametrize("launcher", ["alone", "workers"])
def test_full_disk_while_decoding_is_refused_and_leaves_no_part(place: Place, launcher: str) -> None:
    with mounted(place.folder / "small", "size=256k"):
        overrides = [f"data.path={place.many}", "data.cache_dir=small/cache"]
        outcome = run(train_command(launcher, ["config.yaml", "--run-dir", "run", *overrides]), place.folder)
        check_refusal(outcome, 3, [r"decoded images to small/cache failed: .*No space left", r"Free some space, or"])
        assert tree(place.folder / "small") == {"cache": None}
        assert not (place.folder / "run").exists()


def test_cache_dir_behind_a_symbolic_link_is_used(place: Place) -> None:
    (place.folder / "elsewhere").mkdir()
    (place.folder / "cache").symlink_to("elsewhere")
    overrides = ["data.cache_dir=cache", "train.max_steps=1"]
    outcome = run(train_command("alone", ["config.yaml", "--run-dir", "run", *overrides]), place.folder)
    assert outcome.code == 0, outcome.err
    assert len(list((place.folder / "elsewhere").glob("*/images.npy"))) == 1


def test_label_out_of_range_in_a_streamed_batch_ends_the_run_with_one_message(place: Place) -> None:
    place.write("usercode.py", USER_CODE)
    overrides = ["data.name=usercode:streamed_labels_up_to_seven", "data.path=null", "model.name=usercode:Net"]
    outcome = run(train_command("workers", ["config.yaml", "--run-dir", "run", "--quiet", *overrides]), place.folder)
    check_refusal(
        outcome, 3, [r"the target of sample \d+ holds \d, out of range: the network has 2 outputs, for classes 0 to 1"]
    )


@pytest.mark.parametrize("launcher", ["workers", "mpirun"])
def test_exception_in_training_on_rank_one_only_is_reported_once_with_its_place(place: Place, launcher: str) -> None:
    place.write("usercode.py", USER_CODE)
    arguments = ["config.yaml", "--run-dir", "run", "--quiet", "model.name=usercode:fails_in_training_on_rank_one"]
    outcome = run(train_command(launcher, arguments), place.folder)
    says = [r"^disttrain: error: \[rank 1 on \S+\] ValueError: no cheese on this rank\n", r"usercode\.py\", line \d+"]
    check_refusal(outcome, 1, says, alone_on_stderr=False)
    assert outcome.err.count("Traceback") == 1


def test_master_port_in_use_is_said_by_rank_zero(place: Place) -> None:
    before = tree(place.folder)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        env = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        command = train_command("alone", ["config.yaml", "--run-dir", "run"])
        began = time.monotonic()
        ranks = [start(command, place.folder, {**env, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in (0, 1)]
        try:
            outcome = finish(ranks[0], began=began)
        finally:
            # Rank 1 has a right to wait longer: the rank 0 that it looks for may be about to start.
            ranks[1].kill()
            ranks[1].communicate()
    check_refusal(outcome, 2, [rf"MASTER_PORT={port} is in use on \S+: .*Export another MASTER_PORT on every rank"])
    assert tree(place.folder) == before


def test_checkpoint_with_a_flipped_bit_is_refused_before_the_run_dir_is_made(model_dir: Path, place: Place) -> None:
    checkpoint = next((model_dir.parent / "checkpoints").glob("step_*"))
    shutil.copytree(checkpoint, place.folder / "checkpoint")
    (tensors,) = (place.folder / "checkpoint").glob("*.safetensors")
    flip_a_bit(tensors)
    before = tree(place.folder)
    outcome = run(train_command("workers", ["config.yaml", "--run-dir", "run", "--resume", "checkpoint"]), place.folder)
    check_refusal(outcome, 5, [r"checkpoint checkpoint is refused: \S+\.safetensors is not what was written"])
    assert tree(place.folder) == before


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    file.write_bytes(content)


def copy_model(model_dir: Path, place: Place) -> Path:
    target = place.folder / "model"
    shutil.copytree(model_dir, target)
    return target


def damage(model: Path, how: str) -> None:
    weights, description = model / "model.safetensors", model / "model.json"
    if how == "folder_missing":
        shutil.rmtree(model)
    elif how == "weights_missing":
        weights.unlink()
    elif how == "weights_cut_short":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "description_cut_short":
        description.write_bytes(description.read_bytes()[:100])
    elif how == "weights_with_a_flipped_bit":
        flip_a_bit(weights)
    elif how == "description_of_another_network":
        described = json.loads(description.read_text())
        described["model"] = "usercode:net"
        description.write_text(json.dumps(described))


_DAMAGES = {
    "folder_missing": (
        3,
        r"model does not exist: give a model directory, or a run directory with a model in it",
    ),
    "weights_missing": (3, r"model\.safetensors cannot be read: .*No such file"),
    "weights_cut_short": (3, r"model\.safetensors cannot be read: .*Copy the model directory again"),
    "description_cut_short": (3, r"model\.json is not a model description"),
    "weights_with_a_flipped_bit": (5, r"model\.safetensors is not what model\.json describes: its sha256 differs"),
}


@pytest.mark.parametrize("how", _DAMAGES)
def test_damaged_model_is_refused_by_predict(model_dir: Path, place: Place, how: str) -> None:
    damage(copy_model(model_dir, place), how)
    outcome = run([*DISTTRAIN, "predict", "model", "chips", "--output", "rows.csv"], place.folder)
    code, says = _DAMAGES[how]
    check_refusal(outcome, code, [says])
    assert not (place.folder / "rows.csv").exists()


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("how", ["folder_missing", "weights_with_a_flipped_bit"])
def test_damaged_model_is_refused_by_evaluate(model_dir: Path, place: Place, how: str, workers: str) -> None:
    damage(copy_model(model_dir, place), how)
    outcome = run([*DISTTRAIN, "evaluate", "model", "--workers", workers], place.folder)
    code, says = _DAMAGES[how]
    check_refusal(outcome, code, [says])


def test_description_changed_by_hand_is_not_believed(model_dir: Path, place: Place) -> None:
    damage(copy_model(model_dir, place), "description_of_another_network")
    outcome = run([*DISTTRAIN, "evaluate", "model"], place.folder)
    assert len(outcome.errors) == 1
    assert outcome.code in (2, 5), outcome.err


def test_evaluate_on_data_that_is_not_there_is_refused(model_dir: Path, place: Place) -> None:
    outcome = run([*DISTTRAIN, "evaluate", str(model_dir), "--data", "nowhere"], place.folder)
    check_refusal(outcome, 3, [r"data\.path=nowhere does not exist"])


@pytest.mark.parametrize("workers", ["1", "2"])
def test_unreadable_images_become_rows_with_an_error_and_stop_no_other(
    model_dir: Path, place: Place, workers: str
) -> None:
    names = sorted(file.name for file in place.chips.iterdir())
    first, last = place.chips / names[0], place.chips / names[-1]
    for victim in (first, last):  # one on each of two ranks
        content = victim.read_bytes()[:200]
        victim.unlink()
        victim.write_bytes(content)
    command = [*DISTTRAIN, "predict", str(model_dir), "chips", "gone.png", "--output", "rows.jsonl", "--quiet"]
    outcome = run([*command, "--workers", workers], place.folder)
    check_refusal(
        outcome, 3, [r"3 of 301 images could not be read, or have no finite probabilities: see the error column"]
    )
    rows = [json.loads(line) for line in (place.folder / "rows.jsonl").read_text().splitlines()]
    assert [row["path"] for row in rows] == [*(f"chips/{name}" for name in names), "gone.png"]
    assert [row["path"] for row in rows if "error" in row] == [f"chips/{first.name}", f"chips/{last.name}", "gone.png"]
    assert all(row["label"] in ("plane", "no-plane") for row in rows if "error" not in row)


_OUTPUTS = {
    "nowhere/rows.csv": r"--output nowhere/rows\.csv: the folder .*/nowhere does not exist",
    "rows.txt": r"--output rows\.txt: predictions are written as \.csv or \.jsonl",
    "folder.csv": r"--output folder\.csv is a folder: name the file to write",
}


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("output", _OUTPUTS)
def test_output_that_cannot_be_written_is_refused_before_predicting(
    model_dir: Path, place: Place, output: str, workers: str
) -> None:
    (place.folder / "folder.csv").mkdir()
    before = tree(place.folder)
    command = [*DISTTRAIN, "predict", str(model_dir), "chips", "--output", output, "--workers", workers]
    outcome = run(command, place.folder)
    check_refusal(outcome, 2, [_OUTPUTS[output]])
    assert tree(place.folder) == before


def test_predict_on_a_pattern_without_matches_is_refused(model_dir: Path, place: Place) -> None:
    outcome = run([*DISTTRAIN, "predict", str(model_dir), "*.tiff", "--output", "rows.csv"], place.folder)
    check_refusal(outcome, 3, [r"\*\.tiff matches no file"])
    assert not (place.folder / "rows.csv").exists()
