"""Link between a command and one of its processes: messages over a socket, in both directions."""

from __future__ import annotations

import pickle  # nosec B403  # both ends are this program
from contextlib import suppress
from multiprocessing.connection import Connection
from threading import Lock
from typing import Any, TypeAlias

Message: TypeAlias = tuple[Any, ...]
"""A message: its kind, and what belongs to it."""


class LinkClosed(Exception):
    """The other end has gone."""


def packed(kind: str, *content: Any) -> bytes:
    """Return a message as bytes."""
    return pickle.dumps((kind, *content), pickle.HIGHEST_PROTOCOL)


class Link:
    """
    One end of a link. Any thread may send; one thread receives.

    Args:
        connection: The socket.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._sending = Lock()

    def send(self, kind: str, *content: Any) -> None:
        """
        Send a message.

        Raises:
            LinkClosed: The other end has gone.
            Exception: The content cannot be pickled; nothing was sent.
        """
        self.send_packed(packed(kind, *content))

    def send_packed(self, message: bytes) -> None:
        """
        Send a message that `packed` has made. It waits as long as the other end reads nothing.

        Raises:
            LinkClosed: The other end has gone.
        """
        try:
            with self._sending:
                self.connection.send_bytes(message)
        except (OSError, ValueError) as error:
            raise LinkClosed from error

    def receive(self) -> Message:
        """
        Wait for a message, and return it.

        Raises:
            LinkClosed: The other end has gone, and everything that it sent was received.
        """
        try:
            message = self.connection.recv_bytes()
        except (EOFError, OSError) as error:
            raise LinkClosed from error
        content: Message = pickle.loads(message)  # nosec B301
        return content

    def has_message(self, seconds: float) -> bool:
        """Wait for a message, and return whether `receive` returns or raises at once."""
        try:
            return self.connection.poll(seconds)
        except OSError:
            return True

    def close(self) -> None:
        """Close this end."""
        with suppress(OSError):
            self.connection.close()
