"""
Proxies from the environment: one reading of ``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY`` and ``NO_PROXY``.

httpx, aiohttp and qdrant-client each read these variables in their own way: one raises for an IPv6 address in
``NO_PROXY``, another ignores networks in CIDR notation, a third uses no proxy if it does not know the scheme. So the
clients' own reading is switched off (``trust_env=False``), and `ProxySettings` decides for all of them.

Names are read in lower case first, then in upper case, as curl does. A proxy for the URL's scheme goes before
``ALL_PROXY``. An entry of ``NO_PROXY``, separated by commas or spaces, may be:

| entry | matches |
|---|---|
| `*` | every host |
| `example.com`, `.example.com`, `*.example.com` | that domain and its subdomains |
| `10.0.0.1`, `::1`, `[::1]` | that address |
| `10.0.0.0/8`, `fd00::/8` | every address in the network |
| `10.*` | by wildcard |
| any of them with `:8080`, an IPv6 address in brackets | only that port |
| any of them with `http://` or `https://` before it | only that scheme |

Host names are not resolved, so ``localhost`` is no address of ``127.0.0.0/8``.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from fnmatch import fnmatchcase
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies

from ..errors import ConfigurationError
from .secrets import Secret

_DEFAULT_PORTS = {"http": 80, "https": 443}

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class _Exception(NamedTuple):
    """One entry of ``NO_PROXY``."""

    host: str
    network: Network | None
    port: int | None
    scheme: str | None

    def matches(self, scheme: str, host: str, address: Address | None, port: int | None) -> bool:
        if (self.scheme is not None and self.scheme != scheme) or (
            self.port is not None and self.port != port
        ):
            return False
        if self.network is not None:
            return address is not None and address.version == self.network.version and address in self.network
        if self.host == "*":
            return True
        if self.host == "<local>":  # macOS and Windows: names without a dot
            return address is None and "." not in host
        if "*" in self.host:
            return fnmatchcase(host, self.host)
        return host == self.host or (address is None and host.endswith("." + self.host))


class ProxySettings:
    """
    Proxies by scheme, and the hosts that are reached without one.

    Args:
        proxies: Proxy URLs by "http", "https" and "all", and the exceptions as "no", as
            `urllib.request.getproxies` returns them.
    """

    def __init__(self, proxies: Mapping[str, str]) -> None:
        self._proxies = {scheme: url.strip() for scheme, url in proxies.items() if scheme != "no"}
        entries = proxies.get("no", "").replace(",", " ").split()
        self._exceptions = [one for one in map(_parse_exception, entries) if one is not None]

    @classmethod
    def from_environment(cls) -> ProxySettings:
        """Read the environment; on macOS, the system's settings if the environment has none."""
        return cls(getproxies())

    def proxy_for(self, url: str) -> str | None:
        """
        Return the URL of the proxy for a URL; None if it is to be reached directly.

        Raises:
            ConfigurationError: If the proxy is a SOCKS proxy, or its URL is invalid.
        """
        if not self._proxies:
            return None
        try:
            parts = urlsplit(url)
            port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
        except ValueError:  # the client that sends the request reports an invalid URL
            return None
        name = parts.scheme if self._proxies.get(parts.scheme) else "all"
        proxy = self._proxies.get(name)
        if not proxy or self._is_exception(parts.scheme, parts.hostname or "", port):
            return None
        return _checked(proxy, f"{name.upper()}_PROXY")

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """The passwords of the proxies; see `ProxySelector.secrets`."""
        return tuple(secret for proxy in self._proxies.values() for secret in _secrets_of(proxy))

    def _is_exception(self, scheme: str, host: str, port: int | None) -> bool:
        host = host.rstrip(".").lower()
        address = _address(host)
        return any(entry.matches(scheme, host, address, port) for entry in self._exceptions)


class ProxySelector:
    """
    Selects the proxy of a request.

    Args:
        proxy: The proxy of all requests; None for the environment's, which is read once, by the first request.
    """

    def __init__(self, proxy: str | None) -> None:
        self._proxy = proxy
        self._settings: ProxySettings | None = None

    def proxy_for(self, url: str) -> str | None:
        """Return the proxy for a URL, or None; raises as `ProxySettings.proxy_for`."""
        if self._proxy is not None:
            return self._proxy
        if self._settings is None:
            self._settings = ProxySettings.from_environment()
        return self._settings.proxy_for(url)

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """The passwords of all proxies that may be used, as they are written and as they are sent."""
        if self._proxy is not None:
            return _secrets_of(self._proxy)
        if self._settings is None:
            self._settings = ProxySettings.from_environment()
        return self._settings.secrets


def _secrets_of(proxy: str) -> tuple[Secret, ...]:
    userinfo = proxy.partition("://")[2].rpartition("@")[0]
    user, _, password = userinfo.partition(":")
    if not password:
        return ()
    plain = unquote(password)
    sent = b64encode(f"{unquote(user)}:{plain}".encode()).decode()
    return tuple(Secret(one) for one in dict.fromkeys((sent, userinfo, password, plain)))


def _parse_exception(entry: str) -> _Exception | None:
    entry = entry.strip().lower()
    scheme: str | None = None
    if "://" in entry:
        scheme, _, entry = entry.partition("://")
        if scheme == "all":
            scheme = None
        entry = entry.rstrip("/")
    host, port = _split_port(entry)
    network = _network(host)
    if network is not None:
        return _Exception(host, network, port, scheme)
    host = host.rstrip(".")
    if host.startswith(("*.", ".")):
        host = host.lstrip("*").lstrip(".")
    return _Exception(host, None, port, scheme) if host else None


def _split_port(entry: str) -> tuple[str, int | None]:
    if entry.startswith("["):
        host, _, rest = entry[1:].partition("]")
        if rest.startswith("/"):  # [fd00::]/8
            return host + rest, None
        return host, _port(rest.removeprefix(":"))
    if entry.count(":") == 1:
        host, _, port = entry.partition(":")
        if port.isdigit():
            return host, _port(port)
    return entry, None


def _port(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 5 else None


def _network(text: str) -> Network | None:
    text = text.partition("%")[0] if "/" not in text else text
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        return None
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    if mapped is not None and network.prefixlen >= 96:
        return IPv4Network(f"{mapped}/{network.prefixlen - 96}", strict=False)
    return network


def _address(host: str) -> Address | None:
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address if mapped is None else mapped


def _checked(proxy: str, variable: str) -> str:
    if "://" not in proxy:
        proxy = f"http://{proxy}"
    # Never quote the URL, since it may hold a password.
    try:
        parts = urlsplit(proxy)
        valid = bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
        parts = urlsplit("")
    scheme = proxy.partition("://")[0].lower()
    if scheme not in ("http", "https"):
        raise ConfigurationError(
            f"the environment variable {variable} (or its lower-case twin) names a proxy of the kind {scheme!r}, "
            "which is not supported; use an HTTP proxy such as http://proxy.example:3128, name the service's host in "
            "NO_PROXY, or unset the variable"
        )
    if not valid:
        raise ConfigurationError(
            f"the environment variable {variable} (or its lower-case twin) holds no valid proxy URL; "
            "for example http://proxy.example:3128"
        )
    return f"{scheme}{proxy[len(scheme) :]}"
