"""The port of a command that serves, bound at once."""

from __future__ import annotations

import socket

from ..errors import ConfigurationError

PORT_OPTIONS = "--host and --port"
"""The options of `serve` for its address, for messages."""


def bind(host: str, port: int, options: str) -> socket.socket:
    """
    Bind the port, before anything slow: a port in use is reported at once, and not after indexing the reviews.

    Clients cannot connect until the server listens.

    Args:
        host: The address.
        port: The port; 0 for a free one.
        options: The options that change them, for the message of an error.

    Raises:
        ConfigurationError: The port cannot be bound.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise _unusable(f"{host} port {port}", error, options) from error
    return listener


def listen(listener: socket.socket, options: str) -> None:
    """
    Let clients connect to a bound port; they wait until the server accepts them.

    Args:
        listener: The port.
        options: The options that change it.

    Raises:
        ConfigurationError: Another program, which was started at the same time, listens there.
    """
    try:
        listener.listen()
    except OSError as error:
        host, port, *_ = listener.getsockname()
        raise _unusable(f"{host} port {port}", error, options) from error


def _unusable(where: str, error: OSError, options: str) -> ConfigurationError:
    return ConfigurationError(f"cannot serve at {where}: {error.strerror}; change it with {options}")
