"""Reading a prompt back: what is ours in it, and what is data."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from restaurant_llm_batch import LLMRequest

_DATA = re.compile(
    r'(?P<head>\[\d+\] (?:positive: |negative: )?|(?:비교 요약|Comparison): |)(?P<json>["{].*)'
)
_TAG = re.compile(r"<(/?)([a-z]+)>")
HOLE = "…"
"""What stands for a piece of data in a skeleton."""


@dataclass(frozen=True)
class Prompt:
    """
    A user message, taken apart.

    Attributes:
        skeleton: Its lines, with a hole where data stood.
        data: What stood in the holes, decoded, in order.
    """

    skeleton: Sequence[str]
    data: Sequence[Any]

    @property
    def texts(self) -> list[str]:
        """Every text in the data."""
        return [text for one in self.data for text in (one.values() if isinstance(one, Mapping) else [one])]

    @property
    def numbers(self) -> list[int]:
        """The numbers that lines of data have."""
        return [int(line[1 : line.index("]")]) for line in self.skeleton if re.match(r"\[\d+\] .*…$", line)]


def read_prompt(content: str) -> Prompt:
    """Take a user message apart; whatever is not well formed in it fails the test."""
    skeleton, data = [], []
    for line in content.split("\n"):
        found = _DATA.fullmatch(line)
        if found is None:
            skeleton.append(line)
            continue
        skeleton.append(found["head"] + HOLE)
        data.append(json.loads(found["json"]))
    assert_blocks(skeleton, content)
    return Prompt(skeleton, data)


def assert_blocks(skeleton: Sequence[str], content: str) -> None:
    """Blocks open and close in turn, each tag on a line of ours; no other angle bracket is in the message."""
    tags = [line for line in skeleton if _TAG.fullmatch(line)]
    names = [tag[1:-1] for tag in tags[::2]]
    assert [tag[2:-1] for tag in tags[1::2]] == names
    assert content.count("<") == content.count(">") == len(tags) >= 2
    open_block = False
    for line in skeleton:
        if _TAG.fullmatch(line):
            open_block = not open_block
        elif line.startswith("["):
            assert open_block, line


def user(request: LLMRequest) -> str:
    """Return the message that holds the data."""
    return str(request.messages[1]["content"])


def roles(request: LLMRequest) -> list[str]:
    """Return who speaks, in order."""
    return [message["role"] for message in request.messages]
