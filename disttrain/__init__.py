"""disttrain: one config file trains one PyTorch model on any number of workers, with the same result."""

__version__ = "0.1.0"
