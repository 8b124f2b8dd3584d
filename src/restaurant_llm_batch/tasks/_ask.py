"""The step `Ask`: an answer of a user's form, with the prompts, the reading and the repair of the built-in tasks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from .._values import composed
from ..errors import PromptTooLong
from ..models import LLMRequest, Message
from ..steps import Ask, Flow
from ..tokens.packing import truncate_to_half
from ._asking import complete_and_parse
from ._common import language_of
from ._forms import EVIDENCE, Form, form_of
from ._prompts import reviews as prompts
from ._prompts.aspects import DATA_RULE
from ._prompts.wording import Language


def ask_flow(step: Ask, priority: int = 0) -> Flow[Any]:
    """
    Perform an `Ask`: return the flow that asks, and asks again for what cannot be read.

    Args:
        step: The step.
        priority: The item's priority.
    """
    model: Any = step.form
    form = form_of(model)
    texts = None if step.reviews is None else [composed(text) for text in step.reviews]
    while True:
        request = _request(step, form, texts, priority)
        try:
            return (yield from complete_and_parse(request, partial(form.read, texts), limiter=step.limiter))
        except PromptTooLong as error:
            texts = _fewer(texts, error)


def _request(step: Ask, form: Form, texts: Sequence[str] | None, priority: int) -> LLMRequest:
    language = language_of([step.prompt])
    shown = list(enumerate(texts or (), 1))
    prompt = step.prompt.strip() + "\n"
    system, user = _rules(form, language, about_reviews=texts is not None), prompt
    if texts is not None:
        # The prompt is the same for all items of most tasks, so it belongs to the prefix that a server keeps.
        system, user = prompt + system, prompts.block([prompts.line(number, text) for number, text in shown])
    messages: tuple[Message, ...] = ({"role": "system", "content": system}, {"role": "user", "content": user})
    reviews = {} if texts is None else {"reviews": [{"id": n, "content": text} for n, text in shown]}
    return LLMRequest(
        step.task,
        messages,
        form.schema,
        {"language": language, **reviews},
        step.max_tokens,
        step.temperature,
        priority,
    )


_FORM: dict[Language, str] = {
    "ko": "- 지정된 JSON 하나로만 답하세요. 형식: {form}.\n",
    "en": "- Answer with a single JSON object and nothing else. The form: {form}.\n",
}
_CITATIONS: dict[Language, str] = {
    "ko": f'- "{EVIDENCE}"에는 근거가 된 리뷰의 번호만 쓰세요. 번호는 1부터 시작합니다.\n',
    "en": f'- In "{EVIDENCE}" write only numbers of reviews that say so. They start at 1.\n',
}


def _rules(form: Form, language: Language, *, about_reviews: bool) -> str:
    rules = DATA_RULE[language] if about_reviews else ""
    rules += _FORM[language].replace("{form}", form.describe(language))
    return rules + (_CITATIONS[language] if about_reviews and form.cites else "")


def _fewer(texts: Sequence[str] | None, error: PromptTooLong) -> list[str]:
    """
    Return the first half of the reviews; of a single one, the first half of its text.

    Raises:
        PromptTooLong: Nothing would be left; raises `error` itself.
    """
    if texts and len(texts) > 1:
        return list(texts[: len(texts) // 2])
    half = truncate_to_half(texts[0]) if texts else None
    if half is None:
        raise error
    return [half]
