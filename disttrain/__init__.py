"""disttrain: one config file trains one PyTorch model on any number of workers, with the same result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from disttrain.api import fit

__version__ = "0.1.0"
__all__ = ["fit"]


def __getattr__(name: str) -> Any:
    """`disttrain.fit` on first use: importing the package alone loads neither torch nor anything else heavy."""
    if name == "fit":
        from disttrain.api import fit

        return fit
    raise AttributeError(f"module 'disttrain' has no attribute {name!r}")
