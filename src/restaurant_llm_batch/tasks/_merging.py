"""
Merging of summaries into one, for `_map_reduce`: level by level, leaving out what cannot be merged.

A merge that fails is halved. If one half succeeds, the other is halved again, down to the summary at fault; a single
summary is tried in a call of its own. It is left out, and the reviews that it stands for are reported. If both halves
fail, the merge fails, because then the fault is not that of one summary; only what a content filter refused is halved
further.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import BackendError, OutputError, PermanentBackendError, PromptTooLong
from ..steps import Flow, gather, pack
from ..tokens.packing import truncate_to_half
from ._asking import is_refusal, is_server_fault
from ._common import raise_first, reraise_fatal
from ._parsing import Texts
from ._prompts import reviews as prompts
from ._summary_calls import SummaryCalls


@dataclass(frozen=True, slots=True)
class Part:
    """
    A summary of some reviews.

    Attributes:
        texts: The summary, by field.
        numbers: Numbers of the reviews that it stands for.
        left_out: Errors of reviews that were left out when it was merged, by number.
    """

    texts: Texts
    numbers: tuple[int, ...]
    left_out: Mapping[int, Exception] = field(default_factory=dict)

    def without(self, part: Part, error: Exception) -> Part:
        """Return this summary, with the reviews of another one as left out."""
        left_out = {**self.left_out, **part.left_out, **dict.fromkeys(part.numbers, error)}
        return Part(self.texts, self.numbers, left_out)


@dataclass(frozen=True, slots=True)
class Merging:
    """
    Merging of one restaurant's summaries.

    Attributes:
        calls: The calls for the restaurant.
        max_tokens_per_batch: Token budget of a call; None for the runner's.
    """

    calls: SummaryCalls
    max_tokens_per_batch: int | None

    def reduce(self, parts: Sequence[Part]) -> Flow[Part]:
        """
        Merge summaries, as many at a time as fit the budget, until one is left.

        Raises:
            Exception: A merge failed, and not because of one summary.
        """
        while len(parts) > 1:
            groups = yield from self._group(parts)
            merged = yield from gather(*(self._merge(group) for group in groups))
            parts = _raise_any(merged)
        return parts[0]

    def _group(self, parts: Sequence[Part]) -> Flow[list[Sequence[Part]]]:
        """Pack summaries into groups that fit the budget; pairs, if no two summaries fit it."""
        batches = yield from pack(
            [prompts.data_line(len(parts), part.texts) for part in parts],
            render=str,
            fixed_text=self.calls.system("merge_summaries") + prompts.block([]),
            answer_tokens=self.calls.max_tokens,
            max_tokens=self.max_tokens_per_batch,
        )
        if len(batches) == len(parts):
            # Not even two summaries fit the budget. Exceed it: groups of one would never get fewer.
            return [parts[start : start + 2] for start in range(0, len(parts), 2)]
        return [[parts[packed.index] for packed in batch] for batch in batches]

    def _merge(self, group: Sequence[Part], *, halve: bool = True) -> Flow[Part]:
        """Merge a group in one call, or in several if that fails and `halve` is set."""
        if len(group) == 1:
            return group[0]
        try:
            return (yield from self._merge_in_one_call(group))
        except PromptTooLong as error:
            problem: Exception = error
        except (BackendError, OutputError) as error:
            if not halve or not _may_be_one_parts_fault(reraise_fatal(error)):
                raise
            problem = error
        # Outside the except clauses: errors of the halves are not caused by this one.
        if isinstance(problem, PromptTooLong):
            return (yield from self._merge_halves(group, problem, halve=halve))
        return (yield from self._without_bad_part(group, problem))

    def _merge_halves(self, group: Sequence[Part], error: PromptTooLong, *, halve: bool) -> Flow[Part]:
        """Merge summaries that are too long together: each half first, then the two; a pair is truncated."""
        if len(group) == 2:
            return (yield from self._merge(_truncated(group, error), halve=halve))
        middle = len(group) // 2
        halves = yield from gather(*(self._merge(half) for half in (group[:middle], group[middle:])))
        return (yield from self._merge(_raise_any(halves), halve=halve))

    def _without_bad_part(self, group: Sequence[Part], error: Exception) -> Flow[Part]:
        """
        Merge a group of at least two whose merge failed, without the summaries that no call accepts.

        Raises:
            Exception: Both halves failed; raises `error` itself.
        """
        middle = len(group) // 2
        halves = [group[:middle], group[middle:]]
        results = list((yield from gather(*(self._try(half) for half in halves))))
        good: list[Part] = []
        bad: list[tuple[Sequence[Part], Exception]] = []
        for half, result in zip(halves, map(reraise_fatal, results), strict=True):
            if isinstance(result, Exception):
                bad.append((half, result))
            else:
                good.append(result)
        if not good and not all(is_refusal(failure) for _, failure in bad):
            raise error
        left_out: dict[int, Exception] = {}
        for half, failure in bad:
            found: Part | Exception = failure
            if len(half) > 1:
                (found,) = yield from gather(self._without_bad_part(half, failure))
            reraise_fatal(found)
            if isinstance(found, Part):
                good.append(found)
            else:
                left_out |= dict.fromkeys((n for part in half for n in part.numbers), failure)
        if not good:
            raise error
        merged = yield from self._join(good)
        return Part(merged.texts, merged.numbers, {**merged.left_out, **left_out})

    def _try(self, half: Sequence[Part]) -> Flow[Part]:
        """Merge a half; a single summary is tried in a call of its own, and stays as it is if that succeeds."""
        if len(half) > 1:
            return (yield from self._merge(half, halve=False))
        yield from self._merge_in_one_call(half)
        return half[0]

    def _join(self, good: Sequence[Part]) -> Flow[Part]:
        """Merge what remains of two halves; if that fails, leave out the one that stands for fewer reviews."""
        if len(good) == 1:
            return good[0]
        (joined,) = yield from gather(self._merge(good, halve=False))
        reraise_fatal(joined)
        if isinstance(joined, Part):
            return joined
        larger, smaller = sorted(good, key=lambda part: -len(part.numbers))
        return larger.without(smaller, joined)

    def _merge_in_one_call(self, group: Sequence[Part]) -> Flow[Part]:
        parts = [part.texts for part in group]
        texts, _ = yield from self.calls.ask(self.calls.merge_request(parts), widen=True)
        # Drop a field that is empty in every part: the model must have invented its text.
        kept = {name: text if any(part[name] for part in parts) else "" for name, text in texts.items()}
        left_out: dict[int, Exception] = {}
        for part in group:
            left_out |= part.left_out
        return Part(kept, tuple(number for part in group for number in part.numbers), left_out)


def _may_be_one_parts_fault(error: Exception) -> bool:
    return isinstance(error, (OutputError, PermanentBackendError)) or is_server_fault(error)


def _raise_any(results: Iterable[Part | Exception]) -> list[Part]:
    """Return the parts; raise the first error if there is one."""
    found = list(results)
    raise_first(result for result in found if isinstance(result, Exception))
    return [result for result in found if isinstance(result, Part)]


def _truncated(group: Sequence[Part], error: PromptTooLong) -> list[Part]:
    """
    Return the summaries with the first half of each text.

    Raises:
        PromptTooLong: No text can be truncated further; raises `error` itself.
    """
    halves = [{name: truncate_to_half(text) or text for name, text in part.texts.items()} for part in group]
    if halves == [dict(part.texts) for part in group]:
        raise error
    return [Part(texts, part.numbers, part.left_out) for texts, part in zip(halves, group, strict=True)]
