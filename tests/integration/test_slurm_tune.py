"""slurm/tune.sbatch on a real cluster of two nodes: trials that lie on both, a requeue in the middle, and the end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .commands import DISTTRAIN, finish, start
from .searches import LIMIT_S, OFTEN_SAVED, TWO_POINTS, history, write_search
from .slurm_cluster import NODES, REPOSITORY, SlurmCluster, why_not
from .slurm_jobs import newest_step, read_json, weights

pytest.importorskip("ray.tune", reason="Ray is not installed: pip install 'disttrain[tune]'")

pytestmark = [pytest.mark.skipif(why_not() != "", reason=why_not()), pytest.mark.long]

TUNE = str(REPOSITORY / "slurm/tune.sbatch")
# Of the four CPUs of a node a worker takes three: a trial lies on both nodes.
SEARCH = TWO_POINTS + "workers_per_trial: 2\nresources: {cpus_per_worker: 3}\n"


@pytest.fixture
def cluster() -> Iterator[SlurmCluster]:
    with SlurmCluster.started() as one:
        yield one


def test_a_search_over_two_nodes_is_requeued_goes_on_and_leaves_no_process(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    folder = tmp_path / "a user's $place"
    folder.mkdir()
    write_search(folder, SEARCH, OFTEN_SAVED)
    (folder / "slow").touch()
    words = ["--nodes=2", "--output=disttrain-%j.out", TUNE, "config.yaml", "search.yaml", "--output", "out"]
    job = cluster.submit(folder, words)
    run_dir = folder / "out/trials/0000"
    job.wait_for(lambda: newest_step(run_dir) >= 2, "a first checkpoint", LIMIT_S)
    assert "1 trials at a time, 1 workers each on each of 2 nodes" in job.output
    cluster.ask("scancel", "--batch", "--signal=USR1", job.number)
    job.wait_for(lambda: job.fields()["Restarts"] == "1", "its requeue", LIMIT_S)
    assert "running trials save a checkpoint and leave" in job.output
    assert history(folder).trials[0].state == "waiting"
    (folder / "slow").unlink()
    ended = job.wait(LIMIT_S)
    assert (ended["JobState"], ended["ExitCode"], ended["Restarts"]) == ("COMPLETED", "0:0", "1"), job.output
    assert [one.state for one in history(folder).trials.values()] == ["finished", "finished"]
    starts = read_json(run_dir / "manifest.json")["starts"]
    assert [one["world_size"] for one in starts] == [2, 2]
    assert starts[1]["first_step"] >= 2
    cluster.wait_until(lambda: not any(cluster.processes(one, "ray") for one in NODES), "no Ray process is left")
    assert not list(folder.glob(".disttrain-tune-*"))
    again = finish(start([*DISTTRAIN, "train", str(run_dir / "config.yaml"), "--run-dir", "again"], folder), LIMIT_S)
    assert again.code == 0, again.err
    assert weights(folder / "again") == weights(run_dir)
