"""Mailboxes: what is posted while a mailbox is closed is either run, or said not to be."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from restaurant_llm_batch._engine.loop_mailbox import EventLoopMailbox, is_cancellation
from restaurant_llm_batch._engine.mailbox import QueueMailbox, ThreadMailbox


class ClosedMeanwhile(deque[Any]):
    """A queue whose mailbox is closed by another thread just before, or just after, an action is appended."""

    def __init__(self, mailbox: QueueMailbox, *, before: bool) -> None:
        super().__init__()
        self.mailbox = mailbox
        self.before = before

    def append(self, action: Any) -> None:
        if self.before:
            self.mailbox.close()
        super().append(action)
        if not self.before:
            self.mailbox.close()


def make_on_loop() -> QueueMailbox:
    async def main() -> QueueMailbox:
        return EventLoopMailbox()

    return anyio.run(main)


@pytest.mark.parametrize("make", [ThreadMailbox, make_on_loop])
@pytest.mark.parametrize("before", [True, False])
def test_an_action_posted_while_the_mailbox_is_closed_runs_or_is_refused(
    make: Callable[[], QueueMailbox], before: bool
) -> None:
    mailbox = make()
    mailbox.posted = ClosedMeanwhile(mailbox, before=before)
    ran: list[bool] = []

    is_taken = mailbox.post_deferred(lambda: ran.append(True))

    assert is_taken is (not before)
    assert ran == [True] * is_taken
    assert not mailbox.posted
    assert not mailbox.post_deferred(lambda: ran.append(False))


def test_a_coroutine_may_be_closed_where_no_event_loop_runs() -> None:
    assert is_cancellation(GeneratorExit())
