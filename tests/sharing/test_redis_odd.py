"""`RedisBroker` at a server in odd states: a forgotten script, a replica, TLS, keys of others, a user of few rights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from restaurant_llm_batch import SharedLimiter, errors
from restaurant_llm_batch.sharing import BrokerUnavailable, RedisBroker
from restaurant_llm_batch.sharing.redis import PREFIX
from tests.support.patience import wait_until
from tests.support.sharing.redis_server import REDIS, RedisServer

from .test_redis_broker import asked, settled

redis: Any = pytest.importorskip("redis", reason="the package redis is not installed")
pytestmark = [
    pytest.mark.redis,
    pytest.mark.skipif(REDIS is None, reason="redis-server is not installed: apt-get install redis-server"),
]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path) as running:
        yield running


def test_a_script_that_the_server_has_forgotten_is_sent_again(server: RedisServer) -> None:
    broker = RedisBroker(server.url)
    settled(broker)
    redis.Redis.from_url(server.url).script_flush()

    assert asked(broker, "a", 1) == 8


@pytest.mark.parametrize("state", ["nonsense", "[]", '{"terms": [8, null, null]}', "\udcff"])
def test_after_a_state_that_makes_no_sense_whoever_comes_first_gets_nothing(
    server: RedisServer, state: str
) -> None:
    broker = RedisBroker(server.url)
    settled(broker)
    raw = state.encode("utf-8", "surrogateescape")
    redis.Redis.from_url(server.url).hset(f"{PREFIX}gpu", "state", raw)

    assert asked(RedisBroker(server.url), "new", 1) == 0


def test_a_key_that_is_another_programs_is_no_answer_and_is_left_alone(server: RedisServer) -> None:
    client = redis.Redis.from_url(server.url)
    client.set(f"{PREFIX}gpu", "theirs")

    with pytest.raises(BrokerUnavailable, match="WRONGTYPE"):
        asked(RedisBroker(server.url), "a", 1)
    assert client.get(f"{PREFIX}gpu") == b"theirs"


@pytest.mark.parametrize("name", ["a*?[b]:{c}", "한글 이름", "=", "x" * 200, "'; FLUSHALL"])
def test_a_limit_may_have_any_printable_name(server: RedisServer, name: str) -> None:
    broker = RedisBroker(server.url)
    SharedLimiter(name, 3, broker=broker).open()

    assert broker.names() == [name]
    broker.set_limit(name, 5)
    assert broker.limits()[name].limit == 5


def test_a_replica_that_is_read_only_is_told_as_such(server: RedisServer, tmp_path: Path) -> None:
    (tmp_path / "replica").mkdir()
    with RedisServer(tmp_path / "replica") as replica:
        client = redis.Redis.from_url(replica.url)
        client.replicaof("127.0.0.1", server.port)
        wait_until(lambda: client.info("replication").get("master_link_status") == "up")

        with pytest.raises(errors.ConfigurationError, match=r"does not answer: .*(?i:read.?only)"):
            SharedLimiter("gpu", 8, broker=RedisBroker(replica.url)).open()


def test_a_user_who_may_not_ask_for_the_servers_state_shares_too(server: RedisServer) -> None:
    client = redis.Redis.from_url(server.url)
    client.execute_command("ACL", "SETUSER", "bob", "on", ">pa:ss@w", f"~{PREFIX}*", "+@all", "-info")
    broker = RedisBroker(f"redis://bob:pa%3Ass%40w@127.0.0.1:{server.port}/0")

    settled(broker)
    assert asked(broker, "a", 1) == 8
    assert "pa" not in f"{broker!r}{broker.place}".partition("127")[0]
    client.execute_command("ACL", "SETUSER", "bob", "-evalsha", "-eval")
    with pytest.raises(BrokerUnavailable, match="permission"):
        asked(broker, "a", 2, 8)


def test_a_limit_that_is_lowered_and_raised_while_calls_go_on_holds_at_once_or_as_loans_end(
    server: RedisServer,
) -> None:
    broker = RedisBroker(server.url)
    settled(broker)
    assert asked(broker, "a", 1) == 8
    broker.set_limit("gpu", 2)
    assert asked(broker, "b", 1) == 0
    assert asked(broker, "a", 2, held=2) == 2
    broker.set_limit("gpu", 10**12)
    assert asked(broker, "b", 2) >= 20


def test_over_tls_a_certificate_is_checked(tmp_path: Path) -> None:
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    tls = ["--tls-cert-file", "cert.pem", "--tls-key-file", "key.pem", "--tls-auth-clients", "no"]
    with RedisServer(tmp_path, tls=tls) as server:
        trusted = RedisBroker(f"rediss://127.0.0.1:{server.port}/0?ssl_ca_certs={tmp_path / 'ca.pem'}")
        settled(trusted)
        assert asked(trusted, "a", 1) == 8
        assert trusted.place == f"rediss://127.0.0.1:{server.port}/0"
        with pytest.raises(BrokerUnavailable, match=r"(?i)certificate"):
            asked(RedisBroker(f"rediss://127.0.0.1:{server.port}/0"), "b", 1)
