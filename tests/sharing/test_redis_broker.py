"""`RedisBroker`, with a real redis-server: steps are whole, a restart exceeds nothing, and no password is shown."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from restaurant_llm_batch import SharedLimiter, errors
from restaurant_llm_batch.sharing import BrokerUnavailable, RedisBroker
from restaurant_llm_batch.sharing._messages import LOAN_SECONDS, Answer, Ask, Terms
from tests.support.patience import wait_until
from tests.support.sharing.redis_server import REDIS, RedisServer

from .test_file_broker import soak

pytest.importorskip("redis", reason="the package redis is not installed")
pytestmark = [
    pytest.mark.redis,
    pytest.mark.skipif(REDIS is None, reason="redis-server is not installed: apt-get install redis-server"),
]
TERMS = Terms(8)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path, keeps_data=True) as running:
        yield running


def asked(broker: RedisBroker, member: str, turn: int, held: int = 0) -> int:
    answer = broker.perform("gpu", Ask(member, turn, TERMS, held=held, in_use=held, waiting=20, need=1))
    assert isinstance(answer, Answer)
    return answer.lent


def settled(broker: RedisBroker) -> None:
    """Wait until a server that has just started lends slots."""
    turn = iter(range(1, 10_000))
    wait_until(lambda: asked(broker, "first", next(turn)))
    broker.perform("gpu", Ask("first", 10_001, TERMS, leaves=True))


def test_two_clients_share_what_the_server_keeps_and_steps_are_whole(server: RedisServer) -> None:
    brokers = [RedisBroker(server.url) for _ in range(4)]
    settled(brokers[0])
    lent: dict[str, int] = {}

    def ask(number: int) -> None:
        held = 0
        for turn in range(1, 40):
            held = asked(brokers[number], f"m{number}", turn, held)
        lent[f"m{number}"] = held

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(lent.values()) == 8
    view = brokers[0].limits()["gpu"]
    assert sum(member.lent for member in view.members) == 8


def test_after_a_restart_loans_go_on_and_nothing_more_is_lent_while_others_may(server: RedisServer) -> None:
    broker = RedisBroker(server.url)
    settled(broker)
    held = asked(broker, "a", 1)
    assert held == 8
    server.restart()  # with its data

    wait_until(lambda: _answers(broker))
    assert asked(broker, "b", 1) == 0
    assert asked(broker, "a", 2, held) == 8


def _answers(broker: RedisBroker) -> bool:
    try:
        broker.names()
    except BrokerUnavailable:
        return False
    return True


def test_a_server_that_is_away_is_no_answer_and_comes_back_by_itself(server: RedisServer) -> None:
    broker = RedisBroker(server.url)
    settled(broker)
    server.kill()
    with pytest.raises(BrokerUnavailable, match="Connection"):
        asked(broker, "a", 1)
    with pytest.raises(errors.ConfigurationError, match="does not answer"):
        SharedLimiter("gpu", 8, broker=broker).open()

    server.start()

    wait_until(lambda: _answers(broker))


def test_no_password_is_shown(tmp_path: Path) -> None:
    with RedisServer(tmp_path, password="s3cret") as server:
        broker = RedisBroker(server.url)
        assert broker.names() == []
        assert broker.place == f"redis://127.0.0.1:{server.port}/0"
        gpu = SharedLimiter("gpu", 8, broker=broker)
        gpu.open()
        shown = [repr(broker), repr(gpu), gpu.state]
        wrong = RedisBroker(server.url.replace("s3cret", "wr0ng"))
        with pytest.raises(BrokerUnavailable) as raised:
            wrong.names()
        shown += [str(raised.value), repr(wrong)]

    assert not any("s3cret" in text or "wr0ng" in text for text in shown)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:s3cret@127.0.0.1:6379/0",
        "rediss://user:s3cret@host",
        "redis://127.0.0.1?password=s3cret",
        "unix://:s3cret@/run/redis.sock?db=1",
    ],
)
def test_a_password_is_never_pickled_and_it_is_said_what_to_do(url: str) -> None:
    broker = RedisBroker(url)
    for one in (broker, SharedLimiter("gpu", 8, broker=broker)):
        with pytest.raises(errors.ConfigurationError, match="set REDIS_PASSWORD in each process") as raised:
            pickle.dumps(one)
        assert "s3cret" not in str(raised.value)
    assert copy.deepcopy(broker).place == broker.place


def test_a_broker_without_a_password_pickles_and_reads_it_where_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RedisServer(tmp_path, password="s3cret") as server:
        pickled = pickle.dumps(RedisBroker(f"redis://127.0.0.1:{server.port}/0"))
        assert b"s3cret" not in pickled
        with pytest.raises(BrokerUnavailable):
            pickle.loads(pickled).names()
        monkeypatch.setenv("REDIS_PASSWORD", "s3cret")
        again = pickle.loads(pickled)
        assert again.names() == []
        assert b"s3cret" not in pickle.dumps(again)
        assert "s3cret" not in repr(again)
        monkeypatch.setenv("REDIS_PASSWORD", "an0ther")
        assert RedisBroker(server.url).names() == []  # that of the URL goes before


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:6379",
        "http://user:s3cret@host",
        7,
        None,
        "redis://:s3cret@host:port/0",
        "redis://user:s3cret",
        "redis://:s3cret@[::1",
    ],
)
def test_what_is_no_url_of_a_server_is_refused_without_its_password(url: object) -> None:
    with pytest.raises(errors.ConfigurationError, match="RedisBroker") as raised:
        RedisBroker(url)  # type: ignore[arg-type]

    assert "s3cret" not in str(raised.value)


@pytest.mark.slow
def test_processes_that_die_and_pause_never_exceed_the_limit() -> None:
    said = soak("redis", "--seconds", "8", "--seeds", "1", "--processes", "4", "--limit", "4")

    assert "peak 4 of 4" in said


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_eight_processes_for_a_minute_while_the_server_is_started_anew(seed: int) -> None:
    said = soak("redis", "--seconds", "60", "--seeds", "1", "--first-seed", str(seed), "--restart")

    assert "peak 8 of 8" in said


def test_a_limit_that_is_new_at_a_new_server_waits_for_a_loan(server: RedisServer) -> None:
    broker = RedisBroker(server.url)

    assert asked(broker, "a", 1) in (0, 8)  # 8 if starting it took longer than a loan lasts
    assert LOAN_SECONDS > 0
