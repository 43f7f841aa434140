"""Two nodes on one machine: two elastic agents that find each other over c10d."""

from __future__ import annotations

import json
import socket

from safetensors.torch import load_file

from .commands import AGENT, DISTTRAIN, Commands
from .pool import identical

CONFIG = "{data: {kwargs: {count: 300}, horizontal_flip: true}, batch: {global_batch_size: 33}, train: {epochs: 3}}"


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return one.getsockname()[1]


def test_two_nodes_of_one_worker_train_what_one_node_of_two_does(commands: Commands) -> None:
    config = commands.write("config.yaml", CONFIG)
    options = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d"]
    options += ["--rdzv-endpoint", f"localhost:{free_port()}", "--rdzv-id", "7"]
    nodes = [commands.start([*AGENT, *options, config, "--run-dir", "two"]) for _ in range(2)]
    ended = [node.wait() for node in nodes]
    assert [one.code for one in ended] == [0, 0], "\n".join(one.stderr for one in ended)
    commands.succeed([*DISTTRAIN, "train", config, "--workers", "2", "--run-dir", "one"])
    two, one = (json.loads((commands.folder / name / "result.json").read_text()) for name in ("two", "one"))
    assert two["world_size"] == one["world_size"] == 2
    assert two["weights_sha256"] == one["weights_sha256"]
    weights = [load_file(commands.folder / name / "model" / "model.safetensors") for name in ("two", "one")]
    assert identical(*weights)
    assert two["test"] == one["test"]
