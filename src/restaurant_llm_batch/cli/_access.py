"""Options of `serve` for its token and keys. They are secrets, so the environment is the better place for them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import click
from pydantic import SecretStr

from .._limits.clients import Client
from .._settings import BatchSettings
from .._settings.sources import is_named
from ..errors import ConfigurationError

TOKEN_VARIABLE, KEYS_VARIABLE = "BATCH_SERVE_TOKEN", "BATCH_SERVE_API_KEYS"
_SHOWN = "Better set the variable {}: options are shown to all users of this machine."
_KEY = re.compile(r"[A-Za-z0-9._~+/=-]{1,1000}")
"""The token68 of RFC 7235, with all signs that RFC 6750 allows in a bearer token."""
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_FORM = "has 1 to 1000 letters, digits and signs of ._~+/=-; for example that of: openssl rand -hex 32"


def options() -> list[click.Parameter]:
    """Return the options."""
    return [
        click.Option(
            ["--token"], help=f"Bearer token that requests must have. {_SHOWN.format(TOKEN_VARIABLE)}"
        ),
        click.Option(
            ["--api-key", "api_keys"],
            multiple=True,
            metavar="[NAME:]KEY",
            help="Key of a client, as a bearer token or in the header X-API-Key; may be given several times. "
            f"{_SHOWN.format(KEYS_VARIABLE)}",
        ),
    ]


def take_keys(values: dict[str, Any], settings: BatchSettings) -> tuple[str | None, dict[str, str]]:
    """
    Take the token and the keys out of a command's values.

    Args:
        values: The values by parameter.
        settings: The settings, whose token and keys hold where there is no option.

    Returns:
        The token, or None; and the name of the client by its key, "" for a key without a name.

    Raises:
        ConfigurationError: One is invalid, or the share of a client. The message does not repeat a key.
    """
    given, keys = values.pop("token"), _keys(values.pop("api_keys"), settings)
    _check_shares(settings.batch_serve_shares or {}, {*keys.values()} - {""})
    return _token(given, settings), keys


def _check_shares(shares: Mapping[str, float], names: Collection[str]) -> None:
    """Check that the clients whose shares are given have keys."""
    for name, share in shares.items():
        if name not in names:
            known = f"the clients are {', '.join(sorted(names))}" if names else "no client has a name"
            raise ConfigurationError(
                f"--shares: no key is that of a client {name!r}, and {known}; name one with --api-key NAME:KEY or "
                f"{KEYS_VARIABLE}"
            )
        Client(name, share)


def _token(option: str | None, settings: BatchSettings) -> str | None:
    token = option
    if token is None:
        token = _secret(settings.batch_serve_token, TOKEN_VARIABLE)
    if token is not None and not _KEY.fullmatch(token):
        raise ConfigurationError(f"{'--token' if option is not None else TOKEN_VARIABLE}: a token {_FORM}")
    return token


def _keys(given: Sequence[str], settings: BatchSettings) -> dict[str, str]:
    where = "--api-key" if given else KEYS_VARIABLE
    if not given:
        text = _secret(settings.batch_serve_api_keys, KEYS_VARIABLE)
        given = [] if text is None else [part.strip() for part in text.split(",")]
    found: dict[str, str] = {}
    for number, text in enumerate(given, 1):
        name, colon, key = text.rpartition(":")
        if not _KEY.fullmatch(key):
            raise ConfigurationError(f"{where}, number {number}: a key {_FORM}")
        if colon and not _NAME.fullmatch(name):
            raise ConfigurationError(
                f"{where}, number {number}: the name of a client has 1 to 64 letters, digits and signs of ._-; "
                "for example shop:KEY"
            )
        if found.setdefault(key, name) != name:
            raise ConfigurationError(f"{where}, number {number}: this key is that of another client already")
    return found


def _secret(value: SecretStr | None, variable: str) -> str | None:
    """Return a secret of the settings; "" for one that is named there and empty, which must not open the service."""
    if value is not None:
        return value.get_secret_value()
    return "" if is_named(BatchSettings, variable) else None
