"""The logger of the package. `disttrain.comm.rank_logging` says where its records go while ranks run."""

from __future__ import annotations

import logging

log = logging.getLogger("disttrain")
