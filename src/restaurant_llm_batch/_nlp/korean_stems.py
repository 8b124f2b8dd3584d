"""
Korean stemmer: removes particles and verb endings by rule, so that all forms of a word have one stem.

This is not a morphological analysis. The stem of 음식이, 음식은 and 음식을 must be the same, and so must that of
친절해요, 친절하고 and 친절한; it need not be the dictionary's stem. Short words are only stemmed if they are
listed, since a wrong cut of two syllables merges unrelated words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from types import MappingProxyType

_BASE, _FINALS, _VOWELS = 0xAC00, 28, 21
_NIEUN, _RIEUL, _BIEUP, _SSANG_SIOT = 4, 8, 17, 20
_YEO, _O, _WA, _WAE, _OE, _U, _WO, _EU, _I = 6, 8, 9, 10, 11, 13, 14, 18, 20

# The one-syllable stems that stemming may produce: nouns, verbs, and stems before 하다.
_NOUNS = frozenset("맛술밥빵물값양면회국탕집돈떡닭향룸홀뷰차콩팥죽햄원")
_VERBS = frozenset("좋싸크많적짜달맵넓좁높낮멀먹있없같싶덥춥굽쉽길")
_NOUNS_AND_VERBS = _NOUNS | _VERBS
_HADA = frozenset("착편강약진심급흔독과")

_KEEP = frozenset(("사이다", "바다", "소다", "대부분", "가게", "강아지", "소시지", "떡볶이", "고양이"))
_ADJECTIVES = (
    "비싸", "싸", "크", "짜", "느리", "빠르", "나쁘", "예쁘", "이쁘", "질기", "바쁘", "비리",
    "쓰", "다르", "커다라", "맛나", "모자라", "뛰어나", "배부르", "화나", "시키", "나오",
    "기다리",
)  # fmt: skip

_HA = re.compile(
    r"(.+?)(?:"
    r"하(?:|다|게|며|(?:고|는|지|진|면|여|였|니|기|나|네|더|시|신|십|셔|셨|세|려|도|자|던|구).*)"
    r"|해(?:|요|여|용|서|도|야|선|(?:주|줘|줬|드|보|봐|져|졌|지).*)|했.+"
    r"|한(?:|지|(?:데|다|분).*)|할(?:|만|때|지|(?:게|까).*)|함(?:|이|도|과|을|은|의|에)|합니.*|히"
    r"|드(?:리|려|립|렸|림).*)"
)
_HADA_SYLLABLES = frozenset("하해했한할함합히드")
"""One of these is in every word that `_HA` matches."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ENDINGS = _words(
    "습니다 습니당 슴다 더라고요 더라구요 거든요 잖아요 는데요 은데요 던데요 이에요 이예요 예요 에요 "
    "입니다 이네요 인데요 인데 이라서 라서 이고 네요 네여 어요 아요 여요 어여 아여 군요 나요 을까 "
    "고요 구요 지요 죠 지만 는데 은데 던데 어서 아서 어도 아도 으면 으니 으니까 니까 더라 도록 면서 "
    "으면서 으며 려고 길래 구나 다고 다는 다면 아 어 다 고 게 며 던 서 요 임 인"
)
_PARTICLES = _words(
    "에서는 에서도 에서 에게 에는 에도 에만 에 까지 부터 마다 처럼 보다 만큼 조차 밖에 한테 께서 이나 "
    "이랑 이라도 이라 으로는 으로도 으로 로는 로도 로 이 가 은 는 을 를 과 와 랑 나 도 만 의 들 님 분 "
    "쯤 뿐"
)
_SPECIAL = frozenset("지네음운데다")
"""Last syllables of what `_strip_special` takes off."""


def _longest(suffixes: Iterable[str], last: str) -> int:
    return max((len(suffix) for suffix in suffixes if suffix[-1] == last), default=0)


_NONE = (False, 0, 0)
_LAST_SYLLABLES = MappingProxyType(
    {
        last: (last in _SPECIAL, _longest(_ENDINGS, last), _longest(_PARTICLES, last))
        for last in {suffix[-1] for suffix in _ENDINGS | _PARTICLES | _SPECIAL}
    }
)
"""By the last syllable of a word: whether it may be special, and the length of the longest ending and particle."""

_AFTER_CONSONANT = frozenset(("이", "은", "을", "과", "이나", "이랑", "이라도", "이라"))
_AFTER_VOWEL = frozenset(("가", "는", "를", "와", "랑", "나"))
# Last syllables of stems after which 지, 네, 음, 는 or 은 is always an ending.
_SURE = frozenset("있없좋많같않찮싶맵짧넓높낮")


def _split(syllable: str) -> tuple[int, int, int]:
    code = ord(syllable) - _BASE
    return code // (_VOWELS * _FINALS), code // _FINALS % _VOWELS, code % _FINALS


def _join(initial: int, vowel: int, final: int) -> str:
    return chr(_BASE + (initial * _VOWELS + vowel) * _FINALS + final)


def _final(syllable: str) -> int:
    return (ord(syllable) - _BASE) % _FINALS


def _with_final(word: str, final: int) -> str:
    initial, vowel, _ = _split(word[-1])
    return word[:-1] + _join(initial, vowel, final)


_FORMS = MappingProxyType(
    {_with_final(word, _NIEUN): word for word in _ADJECTIVES}
    | {word + "지": word for word in _ADJECTIVES}
    | dict.fromkeys(("맛나", "마싯", "마싰", "존맛", "꿀맛"), "맛있")
    | {"단": "달", "긴": "길"}
)


def stem(word: str) -> str:
    """
    Take particles and endings off a word.

    Args:
        word: Hangul syllables only.

    Returns:
        What is left; never empty.
    """
    # Endings stack (음식들에서도); three rounds remove all common combinations.
    for _ in range(3):
        shorter = _strip(word)
        if shorter == word:
            break
        word = shorter
    return word


def _strip(word: str) -> str:
    if (form := _FORMS.get(word)) is not None:
        return form
    if len(word) < 2 or word in _KEEP:
        return word
    if not _HADA_SYLLABLES.isdisjoint(word):
        hada = _HA.fullmatch(word)
        if hada and (len(hada[1]) > 1 or hada[1] in _HADA):
            return hada[1]
    special, ending, particle = _LAST_SYLLABLES.get(word[-1], _NONE)
    return (
        (_strip_special(word) if special else "")
        or (_strip_ending(word, ending) if ending else "")
        or (_strip_particle(word, particle) if particle else "")
        or word
    )


def _long_enough(left: str, known: frozenset[str]) -> bool:
    return len(left) > 1 or left in known


def _strip_special(word: str) -> str:
    before, last = word[:-1], word[-1]
    if last in "지네음" and before[-1] in _SURE:
        return before
    if last == "음" and _final(before[-1]) == _SSANG_SIOT:
        return _restore_stem(before)
    if last == "운" and not _final(before[-1]):
        return _with_final(before, _BIEUP)
    if last == "데":
        return _FORMS.get(before, "")
    if word.endswith("니다") and len(word) > 2 and _final(word[-3]) == _BIEUP and word[-3] != "습":
        verb = word[:-2]
        return verb[:-1] if verb[-1] == "입" and len(verb) > 2 else _with_final(verb, 0)
    return ""


def _strip_ending(word: str, longest: int) -> str:
    for size in range(min(longest, len(word) - 1), 0, -1):
        ending = word[-size:]
        if ending in _ENDINGS and (verb := _cut(word[:-size], ending)):
            return verb
    return ""


def _cut(left: str, ending: str) -> str:
    # 아 and 어 are endings only after a final consonant, 서 only after a vowel.
    if ending in ("아", "어") and not _final(left[-1]):
        return ""
    if ending == "서" and (_final(left[-1]) or left[-1] == "께"):
        return ""
    verb = _restore_stem(left)
    return verb if _long_enough(verb, _VERBS) else ""


def _restore_stem(verb: str) -> str:
    """Undo past tense, conjecture (겠) and contractions that remain after removing an ending."""
    # From the end inwards: 했었겠 has a conjecture, then past tenses.
    end = len(verb)
    while True:
        end -= end > 1 and verb[end - 1] == "겠"
        if end < 2 or verb[end - 1] not in "었았였":
            break
        end -= 1
    verb = verb[:end]
    if _final(verb[-1]) == _SSANG_SIOT and verb[-1] not in "있겠":
        verb = _with_final(verb, 0)
    return verb if _final(verb[-1]) else _uncontract(verb)


def _uncontract(verb: str) -> str:
    initial, vowel, _ = _split(verb[-1])
    before = verb[:-1]
    if verb[-1] == "워" and before and not _final(before[-1]):
        return _with_final(before, _BIEUP)
    if verb[-1] in "아어" and before and _final(before[-1]):
        return before
    if verb[-1] in "라러" and before and _final(before[-1]) == _RIEUL:
        return _with_final(before, 0) + "르"
    if verb[-1] in "뻐빠퍼커써꺼":
        return before + _join(initial, _EU, 0)
    plain = {_YEO: _I, _WA: _O, _WO: _U, _WAE: _OE}.get(vowel, vowel)
    return before + _join(initial, plain, 0)


def _strip_particle(word: str, longest: int) -> str:
    for size in range(min(longest, len(word) - 1), 0, -1):
        particle = word[-size:]
        if particle not in _PARTICLES:
            continue
        left = word[:-size]
        consonant = bool(_final(left[-1]))
        if particle in _AFTER_CONSONANT and not consonant:
            continue
        # 맛있는 looks like a noun with a particle. After a stem in _SURE, consonant agreement proves nothing.
        if particle in _AFTER_VOWEL and consonant and left[-1] not in _SURE:
            continue
        if _long_enough(left, _NOUNS_AND_VERBS):
            return left
    return ""
