"""The images of Dockerfile.cuda, built for real on a base from Debian's packages: python -m tests.containers.images

No registry of images is asked. podman keeps every layer under its own hash, the base under that of its recipe. torch
and its CUDA libraries (5 GB) are no layer here but a folder of hard links into this environment, mounted where the
image's Python looks for packages: to copy them into a layer takes minutes and as much disk again.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .podman import podman, why_not

REPOSITORY = Path(__file__).resolve().parents[2]
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "disttrain/containers"
_PACKAGES = "ca-certificates,python3,python3-venv"
_SHARED = "/usr/local/lib/python3.11/dist-packages"
_TORCH = ("torch", "torchvision")
_BUILD_S = 1800.0


def image(target: str) -> str:
    """The name of a built image. Builds what has changed since the last time."""
    name = f"localhost/disttrain-test-{target}:latest"
    began = time.monotonic()
    _CACHE.mkdir(parents=True, exist_ok=True)
    with (_CACHE / "lock").open("w") as lock, _pip_settings() as (secret, mounts):
        fcntl.flock(lock, fcntl.LOCK_EX)
        base = _base()
        words = ["build", "--format", "docker", "--network", "host", "--file", str(REPOSITORY / "Dockerfile.cuda")]
        words += ["--target", target, "--tag", name, "--secret", f"id=pip,src={secret}"]
        words += ["--build-arg", f"BASE_IMAGE={base}", "--build-arg", f"SERVE_BASE_IMAGE={base}"]
        words += ["--build-arg", f"TORCH_CPU={_torch_for_cpu()}", "--build-arg", f"HOROVOD={_horovod()}"]
        if target != "serve":
            mounts += shared_layer()
        podman(*words, *mounts, str(REPOSITORY), timeout_s=_BUILD_S)
    print(f"{name}: {time.monotonic() - began:.0f} s")
    return name


def shared_layer() -> list[str]:
    """Options by which podman mounts torch and its CUDA libraries."""
    return ["--volume", f"{_torch_folder()}:{_SHARED}:ro"]


def _base() -> str:
    """A Debian with Python, as python:3.11-slim-bookworm has it."""
    sources = Path("/etc/apt/sources.list.d/debian.sources").read_text(encoding="utf-8")
    (mirror,) = re.findall(r"^URIs:\s*(\S+)", sources, re.MULTILINE)[:1]
    recipe = hashlib.sha256(f"{mirror} {_PACKAGES}".encode()).hexdigest()[:12]
    name = f"localhost/disttrain-test-base:{recipe}"
    if name.removeprefix("localhost/") in podman("images", "--format", "{{.Repository}}:{{.Tag}}"):
        return name
    with tempfile.TemporaryDirectory() as folder:
        archive = f"{folder}/base.tar"
        command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={_PACKAGES}", "bookworm", archive, mirror]
        subprocess.run(command, check=True, timeout=_BUILD_S)
        podman("import", "--quiet", "--change", "ENV LANG=C.UTF-8", archive, name, timeout_s=_BUILD_S)
    return name


def _torch_folder() -> Path:
    """torch, torchvision and what they alone need, as this environment has them."""
    parts = _with_libraries()
    text = " ".join(f"{one}=={importlib.metadata.version(one)}" for one in parts)
    folder = _CACHE / f"torch-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    if folder.exists():
        return folder
    coming = folder.with_suffix(".coming")
    shutil.rmtree(coming, ignore_errors=True)
    coming.mkdir()
    for one in parts:
        for file in importlib.metadata.files(one) or []:
            source, place = Path(str(file.locate())), coming / file
            if source.is_file() and place.resolve().is_relative_to(coming):
                place.parent.mkdir(parents=True, exist_ok=True)
                _link(source, place)
    coming.rename(folder)
    return folder


def _link(source: Path, place: Path) -> None:
    try:
        os.link(source, place)
    except OSError:  # the environment lies on another disk
        shutil.copy2(source, place)


def _with_libraries() -> list[str]:
    """Names of packages: torch, torchvision, triton, NVIDIA's. The small ones come from the lock file."""
    found, waiting = set(), [*_TORCH]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            for line in importlib.metadata.requires(name) or []:
                needed = re.split(r"[^A-Za-z0-9_.-]", line)[0].lower()
                if needed.startswith(("nvidia-", "cuda-", "triton")) and _is_installed(needed):
                    waiting.append(needed)
    return sorted(found)


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _torch_for_cpu() -> str:
    """Without torchvision: this machine's index has it for CUDA only."""
    text = (REPOSITORY / "Dockerfile.cuda").read_text(encoding="utf-8")
    return re.findall(r'^ARG TORCH_CPU="(\S+)', text, re.MULTILINE)[0]


def _horovod() -> str:
    """The wheel that `make horovod` has built for this torch."""
    return f"horovod=={importlib.metadata.version('horovod')}" if _is_installed("horovod") else "none"


@contextmanager
def _pip_settings() -> Iterator[tuple[str, list[str]]]:
    """This machine's settings of pip as a secret, and what they name as mounts: nothing of it gets into the image."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    settings: dict[str, str] = {}
    for key, value in re.findall(r"^(?:global|:env:)\.([a-z-]+)='(.*)'$", listed, re.MULTILINE):
        settings[key] = " ".join(dict.fromkeys(f"{settings.get(key, '')} {value}".replace("\\n", " ").split()))
    certificates = settings.pop("cert", "/etc/ssl/certs/ca-certificates.crt")
    settings = {key: value for key, value in settings.items() if key in ("index-url", "extra-index-url", "find-links")}
    wheels = Path.home() / ".cache/disttrain/horovod"
    wheels.mkdir(parents=True, exist_ok=True)
    settings["find-links"] = f"{settings.get('find-links', '')} {wheels}".strip()
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copy(certificates.split()[-1], f"{folder}/ca.crt")
        secret = Path(folder) / "pip.conf"
        lines = ["[global]", "cert = /run/ca.crt", *(f"{key} = {value}" for key, value in settings.items())]
        secret.write_text("\n".join([*lines, ""]))
        mounts = ["--volume", f"{copy}:/run/ca.crt:ro"]
        for word in " ".join(settings.values()).split():
            place = Path(word.removeprefix("file://"))
            place = place.parent if place.name == "simple" else place
            if place.is_dir():
                mounts += ["--volume", f"{place}:{place}:ro"]
        yield str(secret), mounts


def main() -> None:
    """Build all, and say what each took."""
    if reason := why_not():
        raise SystemExit(f"no image can be built here: {reason}.")
    for target in sys.argv[1:] or ("serve", "train", "tune"):
        image(target)


if __name__ == "__main__":
    main()
