"""
Hints: options and variables for the arguments that a message tells a user of the command line to change.

Errors of the library speak of arguments in Python ("raise max_tokens", `prices={...}`), for whoever calls it. On the
command line the same argument is an option of the command, or a variable.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import click

from .._settings import BatchSettings
from .._settings.setting import setting_of
from ._settings import SettingOption, option_of, section_of

_MENTION = re.compile(
    r"(?<![\w-])(?:[A-Z]\w+\.)?(?:([a-z][a-z_]*)(?==)|`?([a-z]+(?:_[a-z]+)+)`?|`([a-z]+)`)(?![\w(])"
)
"""An argument: a name with a sign of equality, with an underscore, or in backticks."""
_CLASSES: Mapping[str, str] = {
    "Limits": "limits",
    "RetryPolicy": "llm_retry",
    "StopConditions": "stop",
    "TimeLimits": "time_limits",
    "OpenAILLM": "openai",
    "VLLMServerLLM": "vllm",
    "VLLMEngineLLM": "engine",
    "RunPodLLM": "runpod",
    "runpod:": "runpod",
    "HTTPTransport": "transport",
    "QdrantSearch": "qdrant",
    "EmbeddedSearch": "embedded",
    "FastEmbedder": "fastembed",
    "APIEmbedder": "api",
    "SummarizeAspects": "summary",
    "SummarizeReviews": "reviews",
    "AnalyzeSentiment": "sentiment",
    "ExtractStrengths": "strengths",
    "CompareAspects": "comparison",
    "ExtractVocabulary": "vocabulary",
}
"""Targets of settings by the words of a message that name them."""


def hints(texts: Iterable[str], command: click.Command) -> list[str]:
    """
    Return a phrase for each argument that messages mention and that is a setting of a command.

    Args:
        texts: The messages.
        command: The command whose options they are.
    """
    names = [str(param.name) for param in command.params if isinstance(param, SettingOption)]
    found: dict[str, str] = {}
    for text in texts:
        for match in _MENTION.finditer(text):
            argument = next(filter(None, match.groups()))
            name = _setting(argument, text, names)
            if name is None:
                continue
            option = option_of(name).partition("/")[0]
            if option not in text and name.upper() not in text:
                found.setdefault(argument, f"{argument}: {option} or {name.upper()}")
    return [*found.values()]


def _setting(argument: str, text: str, names: Sequence[str]) -> str | None:
    """Return the setting that a message means by an argument; None if it is not clear."""
    targets = [target for word, target in _CLASSES.items() if word in text]
    ranked: dict[str, int] = {}
    for name in names:
        for place in setting_of(BatchSettings.model_fields[name]).sets:
            target, _, set_argument = place.partition(".")
            if set_argument == argument:
                rank = 0 if target in targets else 1 if section_of(name) == "Tasks" else 2
                ranked[name] = min(rank, ranked.get(name, rank))
    best = [name for name, rank in ranked.items() if rank == min(ranked.values())]
    return best[0] if len(best) == 1 else None
