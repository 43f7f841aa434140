"""Boxes in scenes need torchvision; nothing else in this room does."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from disttrain.errors import ConfigError
from disttrain.inference.merge_boxes import merge_hits
from disttrain.inference.window_search import Hits


def test_without_torchvision_boxes_are_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    hits = Hits(np.array([3]), np.array([4]), np.array([1.0], np.float32))
    (box,) = merge_hits(hits, 20, 20)
    assert (box.y, box.x) == (3, 4)
    for name in ("torchvision", "torchvision.ops"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match="install the one that is made for this torch"):
        merge_hits(hits, 20, 20)
