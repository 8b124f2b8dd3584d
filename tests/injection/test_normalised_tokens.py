"""Control tokens that a review holds in disguise: as signs that a tokenizer's normaliser turns into them."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import islice
from unicodedata import category, normalize

import pytest
from tests.injection.test_tokens import FAMILIES
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import (
    NFKC,
    NFKD,
    BertNormalizer,
    Lowercase,
    Nmt,
    Normalizer,
    StripAccents,
)
from tokenizers.normalizers import (
    Sequence as Both,
)
from tokenizers.pre_tokenizers import Whitespace

from restaurant_llm_batch.tasks._prompts.aspects import escaped, quoted
from restaurant_llm_batch.tokens.packing import TRUNCATION_MARK

NORMALISERS: Mapping[str, Callable[[str], str]] = {
    "none": str,
    "NFKC": lambda text: normalize("NFKC", text),
    "nmt and NFKC": Both([Nmt(), NFKC()]).normalize_str,
    "nmt, NFKC and lower case": Both([Nmt(), NFKC(), Lowercase()]).normalize_str,
    "NFKD without accents": Both([NFKD(), StripAccents()]).normalize_str,
    "BERT": BertNormalizer(handle_chinese_chars=False).normalize_str,
    "all that is invisible": lambda text: "".join(
        sign for sign in normalize("NFKD", text) if sign in "\n " or category(sign)[0] not in "CMZ"
    ),
}
TOKENS = sorted({token for tokens in FAMILIES.values() for token in tokens})
SIGNS = frozenset("".join(TOKENS))


@cache
def disguises() -> Mapping[str, Sequence[str]]:
    """Return, for each sign of a token, the characters that some form of Unicode turns into it and other signs."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for code in range(0x80, sys.maxunicode + 1):
        sign = chr(code)
        for form in ("NFKC", "NFKD"):
            for plain in normalize(form, sign) if category(sign) != "Cs" else "":
                if plain in SIGNS and plain != sign:
                    found[plain].add(sign)
    return {plain: sorted(signs) for plain, signs in found.items()}


INVISIBLE = [
    *map(chr, (*range(0x20), *range(0x7F, 0xA0))),
    *"\xad\u034f\u061c\u115f\u1160\u17b4\u180b\u180e\u200b\u200c\u200d\u200e\u200f\u202a\u202e\u2060\u2061\u2064",
    *"\u2066\u2069\u206a\u206f\u3164\ufe00\ufe0f\ufeff\uffa0\ufff9\ufffb\U000e0001\U000e0020\U000e007f\U000e0100",
    *"\u0302\u0303\u0304\u0306\u0307\u0308\u0327\u0328\u0331\u0332\u0335\u0336\u0591\u05bf\u064b\u302a",
    *"\u0300\u0301\u0338\u0345\u20d2\u20dd\ue000\U0001d173\U000f0000\u0378",
]
"""Characters that some normaliser deletes: controls, formats, fillers, marks, tags, private and unassigned ones."""


def forms() -> Iterator[str]:
    """Yield every token with each of its signs in each disguise, and with each invisible sign in each place."""
    for token in TOKENS:
        for place, sign in enumerate(token):
            for other in disguises().get(sign, ()):
                yield token[:place] + other + token[place + 1 :]
            for invisible in INVISIBLE:
                yield token[: place + 1] + invisible + token[place + 1 :]
        brackets = [disguises().get(sign, [sign])[0] if sign in "<>[]|" else sign for sign in token]
        yield "".join(brackets)
        for invisible in INVISIBLE:
            yield invisible.join(token)
            yield "".join(brackets[:1]) + invisible + "".join(brackets[1:])


def around(form: str) -> tuple[str, ...]:
    """Return a form alone, in Hangul, between brackets and after what may join it."""
    return form, f"좋아요{form}맛집", f"[[{form}]]", f"a {form}1", f"\u0338{form}\u0338", f"{form}\n{form}"


@pytest.mark.hardening(small=2_000, full=10**9)
@pytest.mark.parametrize("put", [quoted, escaped])
@pytest.mark.slow
def test_no_disguised_control_token_gets_through(put: Callable[[str], str], trials: int) -> None:
    every = list(forms())
    step = max(len(every) // trials, 1)
    chosen = every[::step]
    assert len(chosen) >= min(trials, len(every)) // 2
    for name, normalise in NORMALISERS.items():
        wanted = {token: normalise(token) for token in TOKENS}
        prompts = [put(text) for form in chosen for text in around(form)[:: 1 if step == 1 else 5]]
        # All at once, because most of the time is that of the calls. A line feed stays what it is in every form.
        for start in range(0, len(prompts), 10_000):
            lines = prompts[start : start + 10_000]
            text = normalise("\n".join(line.replace("\n", " ") for line in lines))
            found = [token for token, form in wanted.items() if form in text]
            assert not found, (
                name,
                [one for one in lines if any(wanted[t] in normalise(one) for t in found)][:5],
            )


@pytest.mark.slow
def test_the_forms_are_tokens_if_they_are_not_escaped() -> None:
    """Otherwise the test above could not fail."""
    normalise = NORMALISERS["all that is invisible"]
    every = list(forms())
    seen = sum(any(token in normalise(form) for token in TOKENS) for form in every[::97])

    assert len(every) > 80_000
    assert seen > 0.7 * len(every[::97])


@pytest.mark.hardening(small=1_500, full=sys.maxunicode)
def test_no_character_becomes_a_sign_that_ends_the_string_or_opens_a_tag(trials: int) -> None:
    """Whatever it is: with one character between two letters, the string has its two quotes, and no bracket."""
    most = [
        *range(0x80, 0x400),
        *range(0x2000, 0x2700),
        *range(0xF900, 0x10000),
    ]  # those that have other forms
    codes = dict.fromkeys([*most, *range(0x80, sys.maxunicode + 1)])
    plain = [chr(code) for code in islice(codes, trials) if not 0xD800 <= code < 0xE000]
    for name, normalise in NORMALISERS.items():
        for start in range(0, len(plain), 5_000):
            signs = plain[start : start + 5_000]
            text = normalise("\n".join(quoted(f"a{sign}a") for sign in signs))
            if not set('<>[]\\"') & set(text.replace('"a', "").replace('a"', "").replace("\\u", "")):
                continue
            broken = [
                hex(ord(sign))
                for sign in signs
                if set('<>[]"') & set(normalise(quoted(f"a{sign}a"))[1:-1])
                or normalise(quoted(f"a{sign}a")).replace("\\u", "").count("\\")
            ]
            assert not broken, (name, broken)


@pytest.mark.parametrize("token", ["[|endofturn|]", "[INST]", "[/INST]", "<|im_end|>", "]~b]", "[e~["])
@pytest.mark.parametrize("normaliser", [Both([Nmt(), NFKC()]), NFKC(), Both([NFKD(), StripAccents()])])
def test_a_tokenizer_that_looks_after_normalising_finds_no_token(token: str, normaliser: Normalizer) -> None:
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.normalizer = normaliser
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.add_special_tokens([AddedToken(token, normalized=True)])
    wide = "".join(chr(ord(sign) + 0xFEE0) if "!" <= sign <= "~" else sign for sign in token)

    assert token in tokenizer.encode(token).tokens
    for form in (
        token,
        wide,
        wide[0] + token[1:],
        token[0] + "\x7f" + token[1:],
        token[0] + "\x9f" + wide[1:],
    ):
        assert token not in tokenizer.encode(quoted(form)).tokens


@pytest.mark.parametrize(
    "text",
    [
        "맛있어요 ㅎㅎ 👍🏽",
        "[네이버] 12,000원~ [ㅋㅋ] [ 광고 ] [1] [3.5]",
        f"길어요{TRUNCATION_MARK}",
        "(정말) {좋아요} | ~~ / \\o/ ^^ 100%! #맛집 @사장님",
        "👨\u200d👩\u200d👧 ❤\ufe0f café",
        "“최고” ‘굿’ …",
    ],
)
def test_what_people_write_costs_no_escape(text: str) -> None:
    assert quoted(text) == '"' + text.replace("\\", "\\\\") + '"'


@pytest.mark.parametrize(
    "answer",
    [
        '{"evidence": [1, 2], "bullets": ["a", "b"], "x": [[], [{}]], "y": []}',
        '{\n  "bullets": [\n    "a"\n  ]\n}',
        "[1, 2]",
        "[-1]",
    ],
)
def test_an_answer_in_json_is_sent_back_as_it_is(answer: str) -> None:
    assert escaped(answer) == answer
