"""Redis broker: limits in a Redis server, for processes of several machines."""

from __future__ import annotations

import os
import secrets
from time import monotonic, sleep
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from .._http.recipe import NotPickled
from ..errors import ConfigurationError
from ._broker import Broker, perform, restored
from ._messages import LOAN_SECONDS, BrokerUnavailable, Command, View

TIMEOUT_SECONDS = 0.6
"""Seconds to wait for the server: after one message that was lost, another one still renews the loan."""
STEP_SECONDS = 0.6
"""Seconds for which a step is tried when other members' steps come between."""
MOST_PAUSE_MS = 10
"""Most milliseconds between two such tries."""
TRIES_BEFORE_CLAIM = 3
"""Tries after which a member claims the next step, so that members that are faster do not keep it from its turn."""
CLAIM_MS = 100
"""Milliseconds after which a claim ends whose member has gone."""
KEPT_SECONDS = 7 * 86_400
"""Seconds after its last use at which a limit is forgotten."""
PASSWORD_VARIABLE = "REDIS_PASSWORD"  # nosec B105  # the name of a variable
PREFIX = "restaurant-llm-batch:limit:"

GUESS_SECONDS = 1.0
"""Seconds after its last step at which a client no longer guesses that no other step came since."""
QUICK_SECONDS = 0.03
"""Most seconds that the answer to that step may have taken: a guess of the server's time is late by as much."""

_SCRIPT = """
-- Replace the state by a new one if no other step came between. Without a new one, or if one did, return what there is.
-- A member that others come before again and again claims the next step for a moment.
local found = redis.call('HMGET', KEYS[1], 'step', 'state', 'server', 'claim', 'claim_ends')
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local is_claimed = found[4] and found[4] ~= ARGV[6] and tonumber(found[5]) > now
local info = redis.pcall('INFO', 'server')
if type(info) ~= 'string' then info = '' end
local run = string.match(info, 'run_id:(%x+)') or ''
if ARGV[2] ~= '' and not is_claimed and (found[1] or '') == ARGV[1] and run == ARGV[4] then
  if found[4] then redis.call('HDEL', KEYS[1], 'claim', 'claim_ends') end
  redis.call('HSET', KEYS[1], 'step', ARGV[2], 'state', ARGV[3], 'server', run)
  redis.call('EXPIRE', KEYS[1], ARGV[5])
  return {1, time[1], time[2]}
end
if ARGV[7] ~= '' and found[1] and not is_claimed then
  redis.call('HSET', KEYS[1], 'claim', ARGV[6], 'claim_ends', now + ARGV[7])
end
return {0, found[1] or '', found[2] or '', found[3] or '', run,
        string.match(info, 'uptime_in_seconds:(%d+)') or '0', time[1], time[2]}
"""


class _Found(NamedTuple):
    """What there is at the server: a step's name, the state after it, the server that it was at, and the time."""

    step: str
    state: str
    server: str
    run_id: str
    uptime: float
    now: float


class RedisBroker(Broker):
    """
    Keeps shared limits in a Redis server, for processes of one or several machines. It needs the extra ``redis``.

    A step is one script, which puts the next state there if no other step came between, and otherwise returns the state
    and the server's time (compare and set). A member that finds another state than after its own last step runs it
    again. So the rules of lending are in one place, and not once more in Lua.

    If the server is started anew, nothing more is lent for two seconds, even if it has kept its data: members have
    loans then that it may not know of. Members go on with theirs meanwhile.

    It can be pickled unless the URL has a password: leave that out then, and set ``REDIS_PASSWORD`` in each process.

    Args:
        url: The server, for example ``redis://localhost:6379/0``, ``rediss://user:password@host`` or
            ``unix:///run/redis.sock``. A password is never shown. Without one in the URL, it is that of the environment
            variable ``REDIS_PASSWORD``, if that is set.

    Raises:
        ConfigurationError: If it is not such a URL, or the package `redis` is not installed.
    """

    def __init__(self, url: str) -> None:
        try:
            import redis
            from redis.backoff import NoBackoff
            from redis.retry import Retry
        except ImportError as error:
            raise ConfigurationError(
                "RedisBroker needs the package redis: pip install 'restaurant-llm-batch[redis]'"
            ) from error
        given: object = url
        if not isinstance(given, str) or _scheme(given) not in ("redis", "rediss", "unix"):
            shown = _shown(given) if isinstance(given, str) else repr(given)
            raise ConfigurationError(
                f"RedisBroker needs the URL of a server, got {shown}; for example 'redis://localhost:6379/0'"
            )
        self._url = given
        self._has_password = _has_password(given)
        password = None if self._has_password else os.environ.get(PASSWORD_VARIABLE)
        self._errors: tuple[type[Exception], ...] = (redis.RedisError, OSError)
        try:
            self._client = redis.Redis.from_url(
                given,
                socket_timeout=TIMEOUT_SECONDS,
                socket_connect_timeout=TIMEOUT_SECONDS,
                # Once, for a connection that a restart has broken. By default it is tried for longer than a loan lasts.
                retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
                **({"password": password} if password else {}),
            )
        except ValueError:  # its text may have a part of a password
            raise ConfigurationError(f"the URL of RedisBroker is not valid: {_shown(given)}") from None
        self._last: dict[str, tuple[_Found, float]] = {}
        self._script: Any = self._client.register_script(_SCRIPT)

    @property
    def place(self) -> str:
        """The server, without a password."""
        return _shown(self._url)

    def perform(self, name: str, command: Command) -> Any:
        """Perform a command on a limit, in a step that no other one comes between."""
        found = self._guess(name) or self._read(self._call(name, [""] * 7))
        member = secrets.token_hex(8)
        until = monotonic() + STEP_SECONDS
        tries = 0
        while True:
            tries += 1
            lender = restored(found.state)
            is_new = not found.run_id or found.uptime < LOAN_SECONDS
            may_be_lost = (is_new or found.state != "") if lender is None else found.server != found.run_id
            lender, answer = perform(lender, name, command, found.now, may_be_lost=may_be_lost)
            if isinstance(command, View):
                return answer
            step, state, asked_at = secrets.token_hex(8), lender.to_json(), monotonic()
            claim = CLAIM_MS if tries >= TRIES_BEFORE_CLAIM else ""
            reply = self._call(name, [found.step, step, state, found.run_id, KEPT_SECONDS, member, claim])
            if int(reply[0]) == 1:
                if monotonic() - asked_at < QUICK_SECONDS:
                    run_id, now = found.run_id, _time(*reply[1:])
                    self._last[name] = _Found(step, state, run_id, run_id, LOAN_SECONDS, now), monotonic()
                return answer
            found = self._read(reply)
            if monotonic() > until:
                raise BrokerUnavailable(f"other steps came between {tries} times in a row")
            # Members that try again at once keep coming between each other's steps.
            sleep(secrets.randbelow(min(tries, MOST_PAUSE_MS) * 1000) / 1e6)

    def _guess(self, name: str) -> _Found | None:
        """Return what there is if no other step came since the last one here; None if that is long ago."""
        last = self._last.pop(name, None)
        if last is None:
            return None
        found, known_at = last
        passed = monotonic() - known_at
        return found._replace(now=found.now + passed) if passed < GUESS_SECONDS else None

    def _read(self, reply: list[Any]) -> _Found:
        _, step, state, server, run_id, uptime, *time = (_text(value) for value in reply)
        return _Found(step, state, server, run_id, float(uptime), _time(*time))

    def names(self) -> list[str]:
        """Return the names of the limits."""
        try:
            keys = sorted(self._client.scan_iter(match=f"{PREFIX}*", count=1000))
        except self._errors as error:
            raise BrokerUnavailable(self._described(error)) from error
        return [_text(key).removeprefix(PREFIX) for key in keys]

    def close(self) -> None:
        """Close the connections. A later use opens others."""
        self._client.close()

    def _call(self, name: str, arguments: list[Any]) -> list[Any]:
        try:
            found: list[Any] = self._script(keys=[PREFIX + name], args=arguments)
        except self._errors as error:
            raise BrokerUnavailable(self._described(error)) from error
        return found

    def _described(self, error: Exception) -> str:
        return f"{type(error).__name__}: {error}".replace(self._url, self.place)

    def __reduce__(self) -> tuple[Any, ...]:
        if self._has_password:
            raise NotPickled(
                "this RedisBroker cannot be pickled: its URL has a password, and passwords are never pickled; leave it "
                f"out of the URL and set {PASSWORD_VARIABLE} in each process, or pass a function that makes the broker"
            )
        return RedisBroker, (self._url,)

    def __deepcopy__(self, memo: object) -> RedisBroker:
        return RedisBroker(self._url)


def _time(seconds: Any, micros: Any) -> float:
    return int(seconds) + int(micros) / 1e6


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _scheme(url: str) -> str:
    try:
        return urlsplit(url).scheme
    except ValueError:  # its host is no address
        return ""


def _has_password(url: str) -> bool:
    """Return whether a URL has a password, in its usual place or among its options."""
    parts = urlsplit(url)
    return bool(parts.password) or any(name == "password" for name, _ in parse_qsl(parts.query))


def _shown(url: str) -> str:
    """Return a URL without user, password and query; what may be a password in the wrong place is left out too."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return "(not a URL)"
    host, colon, port = rest.partition("?")[0].rpartition("@")[2].rpartition(":")
    if colon and not port.partition("/")[0].isdecimal() and not port.endswith("]"):
        return f"{scheme}://{host}"
    return f"{scheme}://{host}{colon}{port}"
