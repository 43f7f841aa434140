"""What a server is told: where it listens, and how much it takes at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from disttrain.errors import ConfigError

API_KEY_VARIABLE = "DISTTRAIN_API_KEY"


@dataclass(frozen=True)
class Limits:
    """Bounds of what clients may ask for. Beyond them a request is refused, and others go on."""

    upload_bytes: int = 32 << 20
    """Of one request."""
    images: int = 256
    """Of one request."""
    pixels: int = 16_000_000
    """Of one image, before it is decoded."""
    request_s: float = 60.0
    """From the headers to the answer."""
    queue_images: int = 2048
    """Taken in by one process and not answered yet."""
    waiting_bytes: int = 256 << 20
    """Of all requests that one process has taken in."""
    connections: int = 1024
    """Of one process."""


@dataclass(frozen=True)
class ServeSettings:
    """What `disttrain serve` was asked for."""

    model_dir: Path
    host: str = "127.0.0.1"
    port: int = 8000
    """0: one that is free."""
    processes: int = 1
    max_batch_size: int = 64
    """Images that are computed together."""
    max_wait_ms: float = 5.0
    """Longest that an image waits for others that are being decoded."""
    limits: Limits = field(default_factory=Limits)
    drain_s: float = 5.0
    """After SIGTERM: how long requests are still taken while /readyz answers 503."""
    watch_s: float = 1.0
    """Between two looks at the model directory; 0: never."""
    device: str = "auto"
    allow_code: bool = False
    api_key: str | None = field(default=None, repr=False)

    def check(self) -> None:
        """Raise ConfigError for values that cannot be served."""
        for option, value, least in (
            ("--processes", self.processes, 1),
            ("--max-batch-size", self.max_batch_size, 1),
            ("--max-images", self.limits.images, 1),
            ("--max-pixels", self.limits.pixels, 1),
            ("--max-queue", self.limits.queue_images, 1),
            ("--max-upload-mb", self.limits.upload_bytes >> 20, 1),
        ):
            if value < least:
                raise ConfigError(f"{option} {value}: give a number of at least {least}.")
        if not 0 <= self.port <= 65_535:
            raise ConfigError(f"--port {self.port}: give 0 (any that is free) to 65535.")
        if self.limits.request_s <= 0:
            raise ConfigError(f"--request-timeout-s {self.limits.request_s:g}: give seconds above 0.")
        if self.limits.images > self.limits.queue_images:
            raise ConfigError(
                f"--max-queue {self.limits.queue_images} has no place for a request of --max-images "
                f"{self.limits.images}: raise the one or lower the other."
            )
        if self.limits.upload_bytes > self.limits.waiting_bytes:
            most = self.limits.waiting_bytes >> 20
            raise ConfigError(f"--max-upload-mb {self.limits.upload_bytes >> 20}: give at most {most}.")
        if self.api_key is not None and not self.api_key.strip():
            raise ConfigError(
                f"{API_KEY_VARIABLE} is set and empty: was a variable in it not set? Set the key, or unset it."
            )
