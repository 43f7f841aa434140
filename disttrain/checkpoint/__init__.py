"""Checkpoints that can be trusted: a folder per step, tensors and JSON only, whole or not there, verified when read."""

from disttrain.checkpoint.folder import Snapshot, checkpoint_dir, find_fault, load_checkpoint
from disttrain.checkpoint.retention import find_checkpoint
from disttrain.checkpoint.values import CheckpointValues, Score
from disttrain.checkpoint.writer import CheckpointWriter

__all__ = [
    "CheckpointValues",
    "CheckpointWriter",
    "Score",
    "Snapshot",
    "checkpoint_dir",
    "find_checkpoint",
    "find_fault",
    "load_checkpoint",
]
