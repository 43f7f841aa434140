"""Which words are the launcher's, and which are of disttrain train."""

from __future__ import annotations

import pytest

from disttrain.errors import ConfigError
from disttrain.launch.mpi.arguments import Arguments, check_count, split, threads_per_rank


def test_everything_before_the_config_file_is_the_launchers() -> None:
    found = split(["-np", "2", "-x", "A=b.yml.txt", "c.yaml", "optim.lr=1", "other.yaml"], "mpirun.sh")
    assert found == Arguments(["-np", "2", "-x", "A=b.yml.txt"], ["c.yaml", "optim.lr=1", "other.yaml"])


def test_two_dashes_mark_a_config_file_of_any_name() -> None:
    assert split(["--mca", "a.yaml", "1", "--", "config", "x=1"], "mpirun.sh") == (
        ["--mca", "a.yaml", "1"],
        ["config", "x=1"],
    )


@pytest.mark.parametrize("argv", [[], ["-np", "2"], ["-np", "2", "--"]])
def test_without_a_config_file_the_form_of_the_command_is_said(argv: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"no config file among the arguments of mpirun\.sh.*CONFIG ends in \.yaml"):
        split(argv, "mpirun.sh")


def test_the_value_of_an_option_is_found_in_both_spellings_and_missing_is_none() -> None:
    arguments = Arguments(["--np=3", "-H", "a:1", "--last"], [])
    assert [arguments.value(*names) for names in (("-np", "--np"), ("-H",), ("--last",), ("-n",))] == [
        "3",
        "a:1",
        None,
        None,
    ]


@pytest.mark.parametrize("text", [None, "0", "-1", "two", "1.5"])
def test_a_count_that_is_no_positive_number_is_refused(text: str | None) -> None:
    with pytest.raises(ConfigError, match="-np"):
        check_count(text, "mpirun.sh")


def test_cores_are_shared_among_the_ranks_of_a_node_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert [threads_per_rank(8, ranks) for ranks in (1, 3, 9)] == ["8", "2", "1"]
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert threads_per_rank(8, 2) == "5"
