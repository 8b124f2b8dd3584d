"""A real Redis server on a free port of this machine."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from ..patience import wait_until

REDIS = shutil.which("redis-server")


class RedisServer:
    """
    Starts redis-server; use it in a ``with`` block.

    Args:
        folder: Its working folder.
        keeps_data: Whether it writes what it has to the disk, and reads it when it is started anew.
        password: The password that it asks for; None for none.
        tls: Options for connections over TLS, which are the only ones then; None for plain ones.
    """

    def __init__(
        self,
        folder: Path,
        *,
        keeps_data: bool = False,
        password: str | None = None,
        tls: Sequence[str] | None = None,
    ) -> None:
        self._folder = folder
        self._keeps_data = keeps_data
        self._password = password
        self._tls = tls
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        login = "" if self._password is None else f":{self._password}@"
        return f"redis://{login}127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        assert REDIS is not None
        options = ["--appendonly", "yes"] if self._keeps_data else ["--save", "", "--appendonly", "no"]
        if self._password is not None:
            options += ["--requirepass", self._password]
        ports = ["--port", str(self.port)]
        if self._tls is not None:
            ports = ["--port", "0", "--tls-port", str(self.port), *self._tls]
        self._process = subprocess.Popen(
            [REDIS, *ports, "--bind", "127.0.0.1", "--dir", str(self._folder), *options],
            stdout=subprocess.DEVNULL,
            cwd=self._folder,
        )
        wait_until(self._answers)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                if self._tls is not None:
                    return True
                connection.sendall(b"PING\r\n")
                return bool(connection.recv(64))
        except OSError:
            return False

    def kill(self) -> None:
        """Kill it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Kill it, and start it anew."""
        self.kill()
        time.sleep(0.05)
        self.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
