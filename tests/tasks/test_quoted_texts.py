"""Reviews in a prompt: quoted all at once, as each would be by itself."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from restaurant_llm_batch.tasks._prompts.aspects import all_quoted, quoted

SIGNS = st.sampled_from('[]<>"\\\n\r\u2028\x85\x0b1a가 ﹇')


@given(st.lists(st.text(SIGNS | st.characters(codec="utf-8"))))
def test_texts_are_quoted_together_as_each_by_itself(texts: list[str]) -> None:
    assert all_quoted(texts) == list(map(quoted, texts))
