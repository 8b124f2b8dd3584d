"""The lender, alone: the sum of what is lent stays within the limit, whatever members say, and in whatever order."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from restaurant_llm_batch import AdaptiveLimit
from restaurant_llm_batch.sharing._broker import perform, restored
from restaurant_llm_batch.sharing._lender import Lender
from restaurant_llm_batch.sharing._messages import (
    LOAN_SECONDS,
    MOST_ADVANCE,
    Answer,
    Ask,
    Result,
    SetLimit,
    Terms,
    View,
)

TERMS = Terms(8)


class Told:
    """A member as it knows itself: it holds what it was told, or less."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.turn = 0
        self.share = 0
        self.until = 0.0

    def ask(self, waiting: int = 0, held: int | None = None, in_use: int = 0, **more: object) -> Ask:
        self.turn += 1
        self.share = self.share if held is None else min(self.share, held)
        return Ask(
            self.name,
            self.turn,
            TERMS,
            held=self.share,
            in_use=min(in_use, self.share),
            waiting=waiting,
            need=1 if waiting else 0,
            active=in_use > 0,
            **more,  # type: ignore[arg-type]
        )


class LendingMachine(RuleBasedStateMachine):
    """
    Members ask, lower their shares, leave, fall silent; messages are repeated; the state is written and read.

    A member's share counts until `LOAN_SECONDS` after it was granted. The sum must stay within the limit, or, after
    the limit was lowered, must not grow.
    """

    @initialize(limit=st.integers(1, 20))
    def start(self, limit: int) -> None:
        self.terms = Terms(limit)
        self.lender = Lender(self.terms)
        self.members = [Told(f"m{number}") for number in range(5)]
        self.now = 1000.0
        self.lent_before = 0
        self.latest: tuple[Told, Ask] | None = None

    def held(self) -> int:
        return sum(member.share for member in self.members if self.now < member.until)

    @rule(
        who=st.integers(0, 4),
        waiting=st.integers(0, 30),
        keeps=st.floats(0, 1),
        uses=st.floats(0, 1),
        lost=st.booleans(),
    )
    def asks(self, who: int, waiting: int, keeps: float, uses: float, lost: bool) -> None:
        member = self.members[who]
        if self.now >= member.until:
            member.share = 0
        held = round(member.share * keeps)
        ask = member.ask(waiting, held, round(held * uses))._replace(terms=self.terms)
        self.latest = member, ask
        self.answer(member, ask, lost)

    @precondition(lambda self: self.latest is not None)
    @rule(lost=st.booleans())
    def a_message_comes_twice(self, lost: bool) -> None:
        assert self.latest is not None
        member, ask = self.latest
        if ask.turn == member.turn and self.now < member.until and not ask.leaves:
            self.answer(member, ask._replace(held=member.share), lost)

    @rule(who=st.integers(0, 4), held=st.integers(0, 30))
    def an_old_message_comes_late(self, who: int, held: int) -> None:
        member = self.members[who]
        if member.turn > 1 and member.name in self.lender.members:
            before = self.lender.lent
            old = Ask(member.name, member.turn - 1, self.terms, held=held, waiting=99)
            self.lender.ask(old, self.now)
            assert self.lender.lent <= before

    def answer(self, member: Told, ask: Ask, lost: bool) -> None:
        answer = self.lender.ask(ask, self.now)
        assert answer.keep <= answer.lent
        assert not answer.refused
        member.until = self.now + LOAN_SECONDS - 0.7
        if not lost:
            member.share = answer.keep

    @rule(who=st.integers(0, 4))
    def leaves(self, who: int) -> None:
        member = self.members[who]
        member.share = 0
        self.lender.ask(member.ask(leaves=True)._replace(terms=self.terms), self.now)
        assert member.name not in self.lender.members

    @rule(seconds=st.floats(0, 0.5))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(limit=st.integers(1, 20))
    def limit_is_set(self, limit: int) -> None:
        self.lender.set_limit(limit)

    @rule()
    def state_is_kept_as_text(self) -> None:
        lender = restored(self.lender.to_json())
        assert lender is not None
        assert lender.to_json() == self.lender.to_json()
        self.lender = lender

    @rule()
    def state_is_lost(self) -> None:
        self.lender = Lender(self.terms)
        self.lender.forget_loans()

    @invariant()
    def what_is_held_is_within_the_limit(self) -> None:
        if hasattr(self, "lender"):
            held = self.held()
            assert held <= max(self.lender.limit, self.lent_before)
            self.lent_before = max(held, 0)

    @invariant()
    def what_is_lent_covers_what_is_held(self) -> None:
        if hasattr(self, "lender") and self.lender._time >= self.lender._quiet_until:
            for member in self.members:
                known = self.lender.members.get(member.name)
                if known is not None and self.now < member.until:
                    assert known.claim.lent >= member.share


TestLending = LendingMachine.TestCase
TestLending.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)


def told(lender: Lender, member: Told, now: float, waiting: int, in_use: int | None = None) -> Answer:
    used = member.share if in_use is None else in_use
    answer = lender.ask(member.ask(waiting, in_use=used), now)
    member.share = answer.keep
    return answer


def test_one_member_gets_all_that_it_can_use() -> None:
    assert told(Lender(TERMS), Told("a"), 0.0, waiting=100).lent == 8


def test_half_of_the_spare_slots_is_lent_ahead() -> None:
    assert told(Lender(TERMS), Told("a"), 0.0, waiting=2).lent == 2 + 3


def test_a_second_member_gets_its_share_as_soon_as_the_first_has_given_it_back() -> None:
    lender, first, second = Lender(TERMS), Told("a"), Told("b")
    told(lender, first, 0.0, waiting=100)

    assert told(lender, second, 0.1, waiting=100).lent == 0
    answer = told(lender, first, 0.2, waiting=100)
    assert (answer.lent, answer.keep) == (8, 4)
    assert told(lender, second, 0.3, waiting=100).lent == 0  # not before it is given back
    told(lender, first, 0.4, waiting=100)
    assert told(lender, second, 0.5, waiting=100).lent == 4


def test_idle_slots_go_to_who_waits() -> None:
    lender, idle, busy = Lender(TERMS), Told("a"), Told("b")
    told(lender, idle, 0.0, waiting=8)
    told(lender, busy, 0.1, waiting=50)

    answer = told(lender, idle, 0.3, waiting=0, in_use=2)
    assert (answer.lent, answer.keep) == (8, 1)
    told(lender, idle, 0.31, waiting=0)
    assert told(lender, busy, 0.5, waiting=50).lent == 7


def test_one_slot_of_many_is_not_worth_moving() -> None:
    lender, first, second = Lender(Terms(64)), Told("a"), Told("b")
    for member in (first, second):
        lender.ask(member.ask(100, in_use=0)._replace(terms=Terms(64)), 0.0)
    lender.members["a"].claim.lent = lender.members["b"].claim.lent = 32
    first.share = second.share = 32

    answer = lender.ask(first.ask(90, in_use=32)._replace(terms=Terms(64)), 0.2)

    assert answer.keep == 32


def test_a_member_that_falls_silent_is_forgotten_when_its_loan_ends() -> None:
    lender, silent, other = Lender(TERMS), Told("a"), Told("b")
    told(lender, silent, 0.0, waiting=100)

    moments = [0.5 * number for number in range(1, 7)]
    got = [told(lender, other, moment, waiting=100).lent for moment in moments]

    assert got == [0, 0, 0, 0, 8, 8]


def test_a_member_that_leaves_gives_back_at_once() -> None:
    lender, first, second = Lender(TERMS), Told("a"), Told("b")
    told(lender, first, 0.0, waiting=100)
    lender.ask(first.ask(held=0, leaves=True), 0.1)

    assert told(lender, second, 0.1, waiting=100).lent == 8


def test_a_member_that_leaves_while_calls_are_in_flight_keeps_only_their_slots() -> None:
    lender, first = Lender(TERMS), Told("a")
    told(lender, first, 0.0, waiting=100)

    answer = lender.ask(first.ask(held=3, in_use=3, leaves=True), 0.1)

    assert answer.lent == 3
    assert told(lender, Told("b"), 0.1, waiting=100).lent == 5


def test_a_member_that_holds_more_than_it_was_lent_is_believed_and_nothing_more_is_lent() -> None:
    lender, paused, other = Lender(TERMS), Told("a"), Told("b")
    told(lender, paused, 0.0, waiting=100)
    for moment in (0.5, 1.0, 1.5, 2.0, 2.4):
        told(lender, other, moment, waiting=100)
    assert lender.lent == 8

    answer = told(lender, paused, 2.45, waiting=100)  # its eight calls have gone on

    assert (answer.lent, answer.keep) == (8, 0)  # its calls are not followed by others
    assert told(lender, other, 2.5, waiting=100).lent == 8
    assert lender.lent == 16
    assert told(lender, paused, 2.6, waiting=100).lent == 0  # they have ended
    assert told(lender, other, 2.7, waiting=100).lent == 4
    assert told(lender, paused, 2.8, waiting=100).lent == 4


def test_a_lower_limit_is_reached_as_members_give_back() -> None:
    lender, first, second = Lender(TERMS), Told("a"), Told("b")
    for moment in (0.0, 0.1, 0.2, 0.3, 0.4):
        told(lender, first, moment, waiting=100)
        told(lender, second, moment, waiting=100)
    assert (first.share, second.share) == (4, 4)
    lender.set_limit(2)

    for moment in (0.5, 0.6):
        told(lender, first, moment, waiting=100)
        told(lender, second, moment, waiting=100)

    assert (first.share, second.share) == (1, 1)


def test_more_members_than_slots_take_turns() -> None:
    lender = Lender(Terms(2))
    members = [Told(f"m{number}") for number in range(5)]
    seen: set[str] = set()
    for tick in range(120):
        for member in members:
            answer = lender.ask(member.ask(10, in_use=member.share)._replace(terms=Terms(2)), 0.25 * tick)
            member.share = answer.keep
            if answer.keep:
                seen.add(member.name)
        assert sum(member.share for member in members) <= 2

    assert len(seen) == 5


def test_a_call_that_needs_many_slots_is_not_starved_by_small_ones() -> None:
    lender, heavy = Lender(TERMS), Told("heavy")
    small = [Told(f"m{number}") for number in range(3)]
    most = 0
    for tick in range(60):
        now = 0.25 * tick
        for member in small:
            told(lender, member, now, waiting=20)
        answer = lender.ask(heavy.ask(6, in_use=heavy.share)._replace(need=6), now)
        heavy.share = answer.keep
        most = max(most, heavy.share)

    assert most >= 6


@pytest.mark.parametrize("jump", [3600.0, -3600.0, 1e9, -1e9])
def test_a_broker_whose_clock_jumps_ends_no_loan_early_and_none_too_late(jump: float) -> None:
    lender, first, second = Lender(TERMS), Told("a"), Told("b")
    told(lender, first, 1e6, waiting=100)

    assert told(lender, second, 1e6 + jump, waiting=100).lent == 0
    moments = [1e6 + jump + 0.5 * number for number in range(1, 6)]
    assert [told(lender, second, moment, waiting=100).lent for moment in moments][-1] == 8


def test_a_pause_of_all_messages_counts_little() -> None:
    lender, member = Lender(TERMS), Told("a")
    told(lender, member, 0.0, waiting=100)

    lender.ask(Told("b").ask(0), 100.0)

    assert lender.members["a"].expires_at - lender._time == pytest.approx(LOAN_SECONDS - MOST_ADVANCE)


def test_after_a_loss_of_the_state_nothing_more_is_lent_while_loans_may_go_on() -> None:
    lender, kept, new = Lender(TERMS), Told("a"), Told("b")
    lender.forget_loans()
    kept.share = 5

    assert told(lender, kept, 0.0, waiting=100).lent == 5
    assert told(lender, new, 0.1, waiting=100).lent == 0
    for moment in (0.6, 1.1, 1.6, 2.1):
        told(lender, kept, moment, waiting=100)
        assert told(lender, new, moment, waiting=100).lent == 0
    assert told(lender, new, 2.2, waiting=100).lent == 0
    assert told(lender, new, 2.5, waiting=100).lent == 3


def test_a_member_that_holds_slots_of_a_limit_that_nobody_knows_shows_that_the_state_was_lost() -> None:
    ask = Ask("a", 7, TERMS, held=3, waiting=20, need=1)

    lender, answer = perform(None, "gpu", ask, 0.0)

    assert answer.lent == 3
    assert lender.ask(Ask("b", 1, TERMS, waiting=20, need=1), 0.5).lent == 0


def test_another_limit_than_that_of_the_members_is_refused_in_a_sentence() -> None:
    lender = Lender(TERMS)
    told(lender, Told("a"), 0.0, waiting=1)

    answer = lender.ask(Ask("b", 1, Terms(16), waiting=5, need=1), 0.1)

    assert "declare limit=8, not limit=16" in answer.refused
    assert "limits BROKER set NAME=LIMIT" in answer.refused
    assert answer.lent == 0


def test_the_next_member_declares_anew_when_all_have_gone() -> None:
    lender, first = Lender(TERMS), Told("a")
    told(lender, first, 0.0, waiting=1)
    lender.ask(first.ask(held=0, leaves=True), 0.1)

    assert lender.ask(Ask("b", 1, Terms(16), waiting=50, need=1), 0.2).lent == 16


def test_a_limit_that_was_set_holds_for_members_that_declare_what_they_declared() -> None:
    lender, _ = perform(None, "gpu", Ask("a", 1, TERMS, waiting=50, need=1), 0.0)
    lender, _ = perform(lender, "gpu", SetLimit(3), 0.1)
    lender, answer = perform(lender, "gpu", Ask("b", 1, TERMS), 0.2)

    assert not answer.refused
    assert answer.total == 3


def test_a_view_says_who_holds_what() -> None:
    lender, member = Lender(TERMS), Told("a")
    told(lender, member, 0.0, waiting=100)
    lender.ask(member.ask(92, in_use=8)._replace(label="host:1"), 0.5)
    lender, view = perform(lender, "gpu", View(), 1.0)

    assert (view.limit, view.declared) == (8, TERMS)
    assert view.members[0]._replace(seconds_left=0.0) == ("host:1", 8, 8, 92, 0.0)
    assert view.members[0].seconds_left == pytest.approx(LOAN_SECONDS - 0.5)


ADAPTIVE = Terms(AdaptiveLimit(min=1, start=8, max=64))


def adaptive(lender: Lender, member: Told, now: float, *results: Result) -> Answer:
    ask = member.ask(50, in_use=member.share)._replace(terms=ADAPTIVE, results=results)
    answer = lender.ask(ask, now)
    member.share = answer.keep
    return answer


def test_a_refusal_seen_by_one_slows_all() -> None:
    lender, first, second = Lender(ADAPTIVE), Told("a"), Told("b")
    for tick in range(6):
        adaptive(lender, first, 0.25 * tick)
        adaptive(lender, second, 0.25 * tick)
    assert first.share + second.share == 8

    answer = adaptive(lender, first, 1.6, Result("rate_limited", first.share, 0, 3))

    assert (answer.total, answer.reason, answer.epoch) == (7, "rate_limited", 1)
    adaptive(lender, second, 1.7, Result("rate_limited", second.share, 0, 3))  # news of the same overload
    for tick in range(4):
        adaptive(lender, first, 1.8 + 0.25 * tick)
        adaptive(lender, second, 1.8 + 0.25 * tick)
    assert lender.limit == 7
    assert first.share + second.share == 7


def test_an_adaptive_limit_grows_by_what_was_tried_between_two_messages() -> None:
    lender, member = Lender(ADAPTIVE), Told("a")
    adaptive(lender, member, 0.0)

    assert adaptive(lender, member, 0.25, Result("success", 8, 0, 1000)).total == 11


def test_where_an_adaptive_limit_stands_is_kept() -> None:
    lender, member = Lender(ADAPTIVE), Told("a")
    adaptive(lender, member, 0.0)
    adaptive(lender, member, 0.25, Result("success", 8, 0, 3))

    again = restored(lender.to_json())

    assert again is not None
    assert again.limit == 11
    assert again._controller is not None
    assert lender._controller is not None
    assert again._controller.state() == lender._controller.state()


@given(
    text=st.one_of(
        st.text(),
        st.binary(),
        st.sampled_from(["{}", "[]", "null", '{"terms": [8]}', '{"terms":[8,null,null]}']),
    )
)
def test_what_is_not_a_state_is_taken_for_none(text: str | bytes) -> None:
    assert restored(text) is None
