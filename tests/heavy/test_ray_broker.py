"""`RayBroker`, with a real Ray on this machine: `tests/heavy/run` says what has to be installed."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from restaurant_llm_batch import SharedLimiter, errors
from restaurant_llm_batch.sharing import BrokerUnavailable, RayBroker
from restaurant_llm_batch.sharing._messages import LOAN_SECONDS, Answer, Ask, Terms
from tests.sharing.test_file_broker import soak
from tests.support.patience import wait_until

ray: Any = pytest.importorskip("ray", reason="ray is not installed")
pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]
TERMS = Terms(8)


@pytest.fixture
def cluster() -> Iterator[None]:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def asked(broker: RayBroker, member: str, turn: int, held: int = 0) -> int:
    ask = Ask(member, turn, TERMS, held=held, in_use=held, waiting=20, need=1)
    try:
        answer = broker.perform("gpu", ask)
    except BrokerUnavailable:
        return -1
    assert isinstance(answer, Answer)
    return answer.lent


def settled(broker: RayBroker) -> None:
    turn = iter(range(1, 10_000))
    wait_until(lambda: asked(broker, "first", next(turn)) > 0)
    broker.perform("gpu", Ask("first", 10_001, TERMS, leaves=True))


def test_without_a_running_ray_the_error_says_what_to_call() -> None:
    with pytest.raises(errors.ConfigurationError, match=r"call ray.init\(\) first"):
        SharedLimiter("gpu", 8, broker=RayBroker()).open()


def test_actors_and_the_driver_share_a_limit_and_an_actor_that_dies_is_made_again(cluster: None) -> None:
    broker = RayBroker()
    settled(broker)

    def elsewhere(twin: RayBroker) -> int:
        return asked(twin, "remote", 1)

    assert ray.get(ray.remote(elsewhere).remote(broker)) == 8
    assert pickle.loads(pickle.dumps(broker)).place == "ray://limits"
    assert asked(broker, "local", 1) == 0
    assert sum(member.lent for member in broker.limits()["gpu"].members) == 8

    ray.kill(broker._actor, no_restart=False)
    turns = iter(range(2, 10_000))
    wait_until(lambda: asked(broker, "remote", next(turns), 8) == 8)  # its loan goes on
    turns = iter(range(2, 10_000))
    wait_until(lambda: asked(broker, "local", next(turns)) == 0)  # and the other one gets nothing
    wait_until(lambda: asked(broker, "local", next(turns)) == 8)  # after LOAN_SECONDS of silence
    assert LOAN_SECONDS > 0


def test_processes_that_die_and_pause_never_exceed_the_limit() -> None:
    said = soak("ray", "--seconds", "60", "--seeds", "1", "--processes", "3", "--limit", "4")

    assert "peak 4 of 4" in said
