"""The batch scripts in slurm/ on a real cluster of two nodes: what a user submits, what is done to it, how it ends."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from .slurm_cluster import REPOSITORY, Job, SlurmCluster, why_not
from .slurm_jobs import CONFIG, MODULE, local_weights, newest_step, read_json, weights

pytestmark = pytest.mark.skipif(why_not() != "", reason=why_not())

TRAIN, MPI, ARRAY = (str(REPOSITORY / f"slurm/{name}.sbatch") for name in ("train", "train_mpi", "array"))
LAUNCHER = str(REPOSITORY / "launchers/slurm.sh")
FOUR = ["--nodes=2", "--ntasks-per-node=2"]
TWO = ["--nodes=2", "--ntasks-per-node=1"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[SlurmCluster]:
    with SlurmCluster.started() as one:
        yield one


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a user works: blanks in its name, a config, and code of their own."""
    place = tmp_path / "a user's $place"
    place.mkdir()
    (place / "rings.py").write_text(MODULE)
    (place / "config.yaml").write_text(CONFIG)
    return place


def submit(cluster: SlurmCluster, folder: Path, words: Sequence[str], **env: str) -> Job:
    return cluster.submit(folder, [*words, "config.yaml", "--run-dir", "run"], {"PYTHON": sys.executable, **env})


def starts(folder: Path) -> list[dict[str, Any]]:
    return list(read_json(folder / "run/manifest.json")["starts"])


def test_a_job_that_is_asked_to_stop_and_then_loses_a_node_requeues_itself_and_ends_with_the_weights_of_local_workers(
    cluster: SlurmCluster, folder: Path
) -> None:
    (folder / "slow").touch()
    words = [LAUNCHER, *FOUR, "--signal=B:USR1@90", "config.yaml", "--run-dir", "run"]
    said = cluster.ask(*words, cwd=folder)
    job = Job(cluster, re.findall(r"job (\d+) is submitted", said)[0], folder)
    assert str(folder / f"disttrain-{job.number}.out") in said
    job.wait_for(lambda: newest_step(folder / "run") >= 2, "a first checkpoint")
    cluster.ask("scancel", "--batch", "--signal=USR1", job.number)
    job.wait_for(lambda: job.fields()["Restarts"] == "1", "its requeue")
    saved = newest_step(folder / "run")
    assert f"asked to stop: the checkpoint of step {saved} of 45 is saved" in job.output
    assert f"job {job.number} is requeued, and goes on from step {saved}" in job.output
    job.wait_for(lambda: newest_step(folder / "run") > saved, "a checkpoint after that")
    cluster.kill("node2")
    with local_weights(folder, 4) as expected:
        job.wait_for(lambda: job.fields()["Restarts"] == "2", "its second requeue")
        (folder / "slow").unlink()
        cluster.start_node("node2")
        ended = job.wait()
        reference = expected()
    assert (ended["JobState"], ended["ExitCode"]) == ("COMPLETED", "0:0"), job.output
    assert [one["slurm_restart_count"] for one in starts(folder)] == [0, 1, 2]
    assert starts(folder)[1]["first_step"] == saved
    assert "GLOO_SOCKET_IFNAME=eth0 NCCL_SOCKET_IFNAME==eth0" in job.output
    assert "notice_s: 80" in (folder / "run/config.yaml").read_text()
    assert {one.name for one in (folder / "run/logs").glob("rank_*.log")} == {f"rank_{rank}.log" for rank in range(4)}
    assert weights(folder / "run") == reference


def test_what_is_wrong_with_the_config_or_the_data_ends_a_job_with_one_message_and_no_requeue(
    cluster: SlurmCluster, folder: Path
) -> None:
    jobs = {
        2: submit(cluster, folder, [*TWO, TRAIN], DISTTRAIN_WAY="sideways"),
        3: cluster.submit(folder, [*TWO, TRAIN, "config.yaml", "data.name=planesnet", "data.path=no\nwhere"]),
    }
    lr = cluster.submit(folder, [*TWO, TRAIN, "config.yaml", "optim.lr=-1"])
    few = cluster.submit(folder, [*FOUR, TRAIN, "config.yaml", "batch.global_batch_size=3"])
    for code, job in [*jobs.items(), (2, lr), (2, few)]:
        ended = job.wait()
        assert (ended["JobState"], ended["ExitCode"], ended["Restarts"]) == ("FAILED", f"{code}:0", "0"), job.output
        assert job.output.count("disttrain: error: ") == 1, job.output
    assert "optim.lr=-1" in lr.output
    assert "batch.global_batch_size=3" in few.output
    assert "make 4 ranks" in few.output
    assert "exit code 3: not requeued" in jobs[3].output
    assert not (folder / "runs").exists()


def test_a_node_that_is_not_fit_is_named_before_any_rank_starts_and_excluded_where_that_is_asked(
    cluster: SlurmCluster, folder: Path
) -> None:
    full = f"head -c 40M /dev/zero >{shlex.quote(str(cluster.private / 'filler'))}"  # a disk of each node's own
    on_node1 = ["--nodelist=node1", "--output=/dev/null", "--wrap"]
    assert cluster.submit(folder, [*on_node1, full]).wait()["JobState"] == "COMPLETED"
    words = ["--nodes=1", "--ntasks-per-node=1", TRAIN, "config.yaml", "--run-dir", str(cluster.private / "run")]
    job = cluster.submit(folder, words, {"SLURM_EXCLUDE_UNFIT": "1"})
    ended = job.wait()
    assert (ended["JobState"], ended["Restarts"], ended["ExcNodeList"]) == ("COMPLETED", "1", "node1"), job.output
    assert job.output.count("disttrain: error: ") == 1, job.output
    assert "error: node1 is not fit to train:\n  40 MiB free" in job.output
    assert "the job is requeued without node1" in job.output
    cluster.submit(folder, [*on_node1, full.replace("40M", "0")]).wait()
    assert "trained 45 steps" in job.output


def test_ranks_that_are_killed_again_and_again_end_the_requeues(cluster: SlurmCluster, folder: Path) -> None:
    (folder / "fatal").touch()
    job = submit(cluster, folder, [*TWO, TRAIN], DISTTRAIN_MAX_REQUEUES="1")
    ended = job.wait()
    assert (ended["JobState"], ended["ExitCode"], ended["Restarts"]) == ("FAILED", "144:0", "1"), job.output
    assert "job " + job.number + " is requeued, and goes on from the beginning" in job.output
    last = job.output.strip().splitlines()[-1]
    assert last.startswith("disttrain: error: exit code 144, and no checkpoint since 1 requeues"), job.output


def test_a_job_that_its_user_cancels_is_saved_and_does_not_come_back(cluster: SlurmCluster, folder: Path) -> None:
    (folder / "slow").touch()
    job = submit(cluster, folder, [*TWO, TRAIN])
    job.wait_for(lambda: newest_step(folder / "run") >= 2, "a first checkpoint")
    cluster.ask("scancel", job.number)
    ended = job.wait()
    assert (ended["JobState"], ended["Restarts"]) == ("CANCELLED", "0"), job.output
    assert "asked to stop: the checkpoint of step" in job.output
    assert "not requeued. Submit it again to go on." in job.output


@pytest.mark.long
def test_with_an_agent_per_node_training_goes_on_with_the_node_that_is_left(
    cluster: SlurmCluster, folder: Path
) -> None:
    (folder / "slow").touch()
    job = submit(cluster, folder, [*FOUR, "--no-kill", TRAIN], DISTTRAIN_WAY="elastic")
    job.wait_for(lambda: newest_step(folder / "run") >= 2, "a first checkpoint")
    cluster.kill("node2")
    job.wait_for(lambda: len(starts(folder)) == 2, "a second start of the ranks")
    (folder / "slow").unlink()
    ended = job.wait()
    cluster.start_node("node2")
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "0"), job.output
    assert [one["world_size"] for one in starts(folder)] == [4, 2]


@pytest.mark.long
def test_a_job_whose_node_is_cut_off_is_requeued_and_finishes(cluster: SlurmCluster, folder: Path) -> None:
    cluster.wait_until(lambda: cluster.node_states() == ["idle", "idle"], "both nodes are idle")
    (folder / "slow").touch()
    job = submit(cluster, folder, [*TWO, TRAIN])
    job.wait_for(lambda: newest_step(folder / "run") >= 2, "a first checkpoint")
    cluster.cut("node2")
    (folder / "slow").unlink()
    job.wait_for(lambda: job.fields()["Restarts"] == "1", "its requeue")
    cluster.mend("node2")
    ended = job.wait()
    assert ended["JobState"] == "COMPLETED", job.output
    assert starts(folder)[-1]["first_step"] >= 2


@pytest.mark.long
def test_a_job_that_a_higher_partition_preempts_saves_and_comes_back(cluster: SlurmCluster, folder: Path) -> None:
    (folder / "slow").touch()
    job = submit(cluster, folder, [*TWO, TRAIN])
    job.wait_for(lambda: newest_step(folder / "run") >= 2, "a first checkpoint")
    words = ["--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=true"]
    other = cluster.submit(folder, words)
    job.wait_for(lambda: job.fields()["Restarts"] == "1", "its requeue")
    saved = newest_step(folder / "run")
    assert f"asked to stop: the checkpoint of step {saved} of" in job.output
    (folder / "slow").unlink()
    assert other.wait()["JobState"] == "COMPLETED"
    assert job.wait()["JobState"] == "COMPLETED", job.output
    assert starts(folder)[-1]["first_step"] == saved


@pytest.mark.long
@pytest.mark.skipif(shutil.which("mpirun") is None, reason="mpirun is not installed (Debian: tests/system_packages.sh)")
def test_ranks_of_mpirun_on_two_nodes_end_with_the_weights_of_local_workers(
    cluster: SlurmCluster, folder: Path
) -> None:
    job = submit(cluster, folder, [*TWO, MPI])
    with local_weights(folder, 2) as expected:
        assert job.wait()["JobState"] == "COMPLETED", job.output
        assert starts(folder)[0]["launcher"] == "openmpi"
        assert weights(folder / "run") == expected()


@pytest.mark.long
def test_each_task_of_an_array_trains_its_row_into_a_run_directory_of_its_own(
    cluster: SlurmCluster, folder: Path
) -> None:
    (folder / "rows.csv").write_text("train.seed,optim.lr\n5,0.01\n6,\n")
    job = submit(cluster, folder, ["--array=0-2", ARRAY], DISTTRAIN_ROWS="rows.csv")
    job.wait()
    runs = [folder / f"run/row_{row}" for row in range(2)]
    assert [read_json(run / "result.json")["status"] for run in runs] == ["finished", "finished"]
    assert len({weights(run) for run in runs}) == 2
    assert "lr: 0.01" in (runs[0] / "config.yaml").read_text()
    last = (folder / f"disttrain-{job.number}_2.out").read_text()
    assert "has 2 rows, counted from 0. Submit with --array=0-1" in last
    assert not (folder / "run/row_2").exists()


@pytest.mark.long
@pytest.mark.parametrize("site", ["missing", "false", "exit 7", "CONTAINER=docker"])
def test_settings_of_the_site_that_fail_end_a_job_with_one_message(
    site: str, cluster: SlurmCluster, folder: Path
) -> None:
    file = folder / "site file.sh"
    if site != "missing":
        file.write_text(f"{site}\n")
    job = submit(cluster, folder, [*TWO, TRAIN], DISTTRAIN_SITE=str(file))
    ended = job.wait()
    assert (ended["JobState"], ended["ExitCode"], ended["Restarts"]) == ("FAILED", "2:0", "0"), job.output
    assert job.output.count("error: ") == 1, job.output
    assert not (folder / "run").exists()


@pytest.mark.long
def test_what_one_node_alone_sees_and_ranks_without_a_gpu_are_refused_and_nothing_is_left(
    cluster: SlurmCluster, folder: Path
) -> None:
    own, hidden = cluster.private / "run", cluster.private / "config.yaml"
    hidden.write_text(CONFIG)  # on the login node; each node has a disk of its own there
    unshared = f"{own} on node2 is not the one of rank 0's host"
    cases = {
        unshared: ["config.yaml", "--run-dir", str(own)],
        "cannot read the config file": [str(hidden), "--run-dir", "run"],
        "3 ranks on a node for which the job has 2 GPUs": ["config.yaml", "train.device=cuda"],
    }
    options = {"3 ranks": ["--nodes=1", "--ntasks-per-node=3", "--gpus-per-node=2"]}
    for said, words in cases.items():
        asked = next((one for part, one in options.items() if said.startswith(part)), TWO)
        job = cluster.submit(folder, [*asked, TRAIN, *words])
        ended = job.wait()
        code = 1 if said == unshared else 2  # of the doctor, of the config
        assert (ended["JobState"], ended["ExitCode"], ended["Restarts"]) == ("FAILED", f"{code}:0", "0"), job.output
        assert job.output.count("disttrain: error: ") == 1, job.output
        assert said in job.output
    assert not (folder / "run").exists()
    assert not (folder / "runs").exists()
