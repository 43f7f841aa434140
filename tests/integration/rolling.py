"""Two servers behind Debian's nginx, which are restarted in turn."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from .serving import Server, serving, until

CONFIG = """
{user}
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
worker_processes 1;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream replicas {{
        {servers}
        keepalive 16;
    }}
    server {{
        listen 127.0.0.1:{port};
        client_max_body_size 32m;
        location / {{
            proxy_pass http://replicas;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_connect_timeout 2s;
            proxy_next_upstream error timeout http_503 non_idempotent;
        }}
    }}
}}
"""
"""As docs/serving.md shows it. A prediction may be asked for twice: `non_idempotent`."""


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, below those that clients get."""
    with contextlib.ExitStack() as stack:
        taken = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in taken:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in taken]


class Replicas:
    """Servers of one model directory behind a proxy at `url`."""

    def __init__(self, model_dir: Path, url: str, ports: list[int], stack: contextlib.ExitStack) -> None:
        self.model_dir, self.url, self.ports, self._stack = model_dir, url, ports, stack
        self.servers = [self._start(port) for port in ports]

    def _start(self, port: int) -> Server:
        return self._stack.enter_context(
            serving(self.model_dir, "--port", str(port), "--drain-s", "1", folder=self.model_dir.parent)
        )

    def restart(self, index: int) -> None:
        """One leaves on SIGTERM, and another takes its place."""
        outcome = self.servers[index].stop(signal.SIGTERM)
        assert outcome.code == 0, outcome.err
        self.servers[index] = self._start(self.ports[index])

    def versions(self) -> set[str]:
        """Of the models that are served."""
        return {server.client.get("/v1/model").json()["version"] for server in self.servers}


@contextlib.contextmanager
def behind_nginx(model_dir: Path, folder: Path, count: int = 2) -> Iterator[Replicas]:
    """Replicas that are ready, and nginx before them; all have ended afterwards. Skips the test without nginx."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin")
    if program is None:
        pytest.skip("nginx is not installed (Debian: apt-get install nginx-light)")
    port, *ports = free_ports(count + 1)
    servers = " ".join(f"server 127.0.0.1:{one} max_fails=0;" for one in ports)
    user = "user root;" if os.geteuid() == 0 else ""  # its processes have to reach the test's folder
    config = folder / "nginx.conf"
    config.write_text(CONFIG.format(user=user, folder=folder, servers=servers, port=port))
    with contextlib.ExitStack() as stack:
        replicas = Replicas(model_dir, f"http://127.0.0.1:{port}", ports, stack)
        log = stack.enter_context((folder / "nginx.log").open("wb"))
        proxy = subprocess.Popen([program, "-p", str(folder), "-c", str(config)], stdout=log, stderr=log)
        try:
            until(lambda: proxy.poll() is not None or _answers(replicas.url), "nginx answers")
            assert proxy.poll() is None, (folder / "nginx.log").read_text()
            yield replicas
        finally:
            proxy.send_signal(signal.SIGQUIT)
            proxy.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=10).status_code == 200
    except httpx.HTTPError:
        return False
