"""
Sentiment and aspect lexicon: concepts with weights, polarity and negation of Korean and English words.

The concepts are those of the hashing embedder (`concepts`). Here they have weights, since a summary needs more
certainty than a search: a search for service may find a review that says "ordered", but the review is hardly
about service.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from .concepts import ConceptLookup
from .terms import terms

_CACHED_WORDS = 16_384
_MAX_WORD_LENGTH = 40
_LIKE, _BARE_NEGATION = 2, -1
_ENGLISH_REACH = 3

# Weights of concept words: 1 by default, less for those that often mean something else. All are exact in binary.
_STRONG, _FAIR, _WEAK = 1.0, 0.5, 0.25
_FAIR_WORDS = (
    "seated wait waited slow quick prompt minutes hour hours reservation greeted manager owner "
    "welcome paid spent cost bill free tip discount portion portions menu dessert wine drinks "
    "view noise table 예약 웨이팅 기다리 대기 리필 무한리필 부담 할인 느낌 자리 메뉴 양 늦게 늦 "
    "느리 빠르 빨리"
)
_WEAK_WORDS = (
    "order ordered ask asked took worth charge charged bus host check rate low lower fair spend "
    "tab complimentary fixe steep served serving attended rush flag customer refill meal dinner "
    "lunch brunch breakfast plate course dry side sides special specials tough raw starter room "
    "space wall upstairs fun casual live hear seating location booth window walls 주문 계산 공짜 "
    "무료 쿠폰 서비스로 착하 점심 저녁 런치 식사 간 회 차 달 죽 면 룸 홀 태도 고객"
)

# Additional patterns of each aspect, matched inside words, since Korean compounds are written as one word.
_EXTRA = {
    "service": re.compile("말투|표정|챙겨|인심|한숨|설명|안내|구워주|알바|이모님|응대|던지듯"),
    "price": re.compile("[0-9만천백]원|물가|가격|비싸|비싼|비쌈|비쌌|혜자|[$€£₩💸]|[0-9]%|^price"),
    "food": re.compile(
        "맛[은이도과]|물맛|육수|육향|메밀|평냉|면수|뇨끼|봉골레|튀김|김말이|항정살|오겹살|수육|녹두전|"
        "깍두기|겉절이|도우|어묵|제육|국밥|쫀득|퍽퍽|밍밍|포슬|껍데기|쉬폰|휘낭시에|비냉|순대|떡볶|타르트"
    ),
    "ambience": re.compile("조명|환기|낙서|매장|가게는|햇살|시끌"),
}

_PRAISE = (
    "good great excellent excellant amazing awesome fantastic wonderful delicious tasty yummy "
    "perfect perfectly incredible love loved best nice friendly attentive helpful fresh "
    "outstanding superb exceptional phenomenal fabulous delightful pleasant enjoyed enjoyable "
    "recommend beautiful lovely romantic cozy reasonable affordable bargain worth impressed "
    "courteous polite prompt accommodating professional gracious knowledgeable divine terrific "
    "favorite reliable exquisite elegant notch flavorful juicy tender inexpensive happy charming "
    "efficient spectacular fun decent memorable stellar unbelievable scenic impressive"
)
_BLAME = (
    "bad terrible horrible awful poor poorly worst slow rude overpriced expensive pricey "
    "disappointing disappointed disappointment disappoint dissapoint dissapointing mediocre bland "
    "tasteless cold dry overcooked undercooked salty oversalted greasy soggy stale inedible loud "
    "noisy deafening crowded cramped small tiny smaller dirty ignored inattentive unfriendly "
    "arrogant rushed forgot wrong lack lacked lacking unprofessional limited annoying overrated "
    "ridiculous outrageous outrageously snobbish unaccommodating haughty hostile brusque "
    "indifferent disaster mistake error complaint complain problem shame sadly unfortunately yuck "
    "hungry unsatisfied substandard tired uncomfortable trap raw burnt mushy delay unavailable "
    "uninspired underwhelmed horrendous pathetic pathetically exorbitant average boring meh blah "
    "confused slower steep stodgy stressed uninteresting priced negative charged unimaginative "
    "careless regret worse intrusive touristy half-price"
)
_KOREAN_BLAME = (
    "불친절|무례|퉁명|불쾌|짜증|맛없|별로|최악|비싸|비싼|비쌈|비쌌|사악|창렬|바가지|심하|심한|"
    "느리|느려|늦게(?!가)|늦었|식어|식었|짰|짜요|짜고|짜서|짜다|싱겁|느끼[하함해한]|질기|질겼|"
    "비린|비려|더럽|지저분|끈적|미끄|위생이|시끄|시끌|좁|불편|실망|아쉬|아쉽|후회|기다렸|기다림|"
    "웨이팅|던지|한숨|굳으|차가[웠운]|밍밍|퍽퍽|말라|불어|덜익|얇아|잃은|화나|어이|그냥저냥|평범|"
    "무난|협소|장난|호불호|잡내|남김|남겼|돈받|부족|모자라|흠잡|불만|적어서|적고|나쁘|나쁜|쎔|"
    "비추|다시는|초심|오르네|올랐|기름졌|달랬|행주"
)
_KOREAN_PRAISE = (
    "친절|상냥|다정|싹싹|정중|맛있|맛나|존맛|꿀맛|최고|좋|훌륭|완벽|만족|추천|강추|신선|바삭|쫄깃|"
    "쫀득|부드러|부드럽|부드런|푸짐|든든|합리|저렴|착한|착함|착해|착하|싸니|싸고|싸요|깨끗|깔끔|"
    "예쁘|예쁜|예뻐|예뻤|이쁘|이뻐|아늑|조용|감동|대박|인생|미쳤|찐|깡패|천국|탑급|진하|진한|진해|"
    "구수|고소|은은|담백|괜찮|챙겨|웃으|인심|뚝딱|힐링|재방문|배터지|듬뿍|인정|한결같|포슬|편해|"
    "납득|best|끝남|많으[심시신]|두툼|무한리필"
)
_KOREAN_POLARITY = re.compile(f"(?P<blame>{_KOREAN_BLAME})|{_KOREAN_PRAISE}")
_KOREAN_NOT = re.compile("[없않]")
_HANGUL = re.compile("[가-힣]")

_NOT = re.compile(
    r"\W*(?:not|no|never|without|hardly|nothing|none|cannot|barely|\w+n't"
    r"|(?:did|do|does|was|were|is|are|would|could|ca|wo|should|have|has|had)nt)\W*"
)
_RAW_BLAME = frozenset(("waited", "waiting", "overpriced", "over-priced"))


class AnalyzedWord(NamedTuple):
    """
    An analyzed word of a review.

    Attributes:
        stems: The stems of its parts.
        marks: Aspect, concept and weight of each stem in the lexicon.
        polarity: Above 0 for praise, below 0 for blame.
        reach: Number of following words that it negates; if negative, of preceding words.
        closes: Whether the scope of a preceding negation ends at it.
    """

    stems: tuple[str, ...]
    marks: tuple[tuple[str, str, float], ...]
    polarity: int
    reach: int
    closes: bool


class WordAnalyzer:
    """Analyzes words; caches frequent ones."""

    def __init__(self) -> None:
        self._concepts = ConceptLookup()
        self._weights = dict.fromkeys(_stems_of(_FAIR_WORDS), _FAIR)
        self._weights |= dict.fromkeys(_stems_of(_WEAK_WORDS), _WEAK)
        self._polarities = dict.fromkeys(_stems_of(_PRAISE), _LIKE)
        self._polarities |= dict.fromkeys(_stems_of(_BLAME), -_LIKE)
        self._cached_analysis = lru_cache(_CACHED_WORDS)(self._analyze)

    def read(self, word: str) -> AnalyzedWord:
        """Return the analysis of a word, including its punctuation."""
        return self._cached_analysis(word[:_MAX_WORD_LENGTH])

    def concept(self, stem: str) -> tuple[str, str] | None:
        """Return the aspect and the concept of a stem, or None."""
        found = self._concepts.concept(stem)
        return (found.aspect, found.name) if found else None

    def _analyze(self, word: str) -> AnalyzedWord:
        stems = tuple(terms(word))
        raw = re.sub("[’´`]", "'", word.lower())
        if _HANGUL.search(raw):
            word_polarity, reach = _korean_polarity(raw)
        else:
            word_polarity = sum(self._polarities.get(stem, 0) for stem in stems)
            if raw.strip(".,!?;:()\"'") in _RAW_BLAME:
                word_polarity = -_LIKE
            reach = _ENGLISH_REACH if _NOT.fullmatch(raw) else 0
        return AnalyzedWord(stems, self._marks(stems, raw), word_polarity, reach, raw[-1:] in ",;.!?:")

    def _marks(self, stems: Sequence[str], raw: str) -> tuple[tuple[str, str, float], ...]:
        known = tuple(
            (*concept, self._weights.get(stem, _STRONG)) for stem in stems if (concept := self.concept(stem))
        )
        families = {mark[0] for mark in known}
        extra = ((name, name, _STRONG) for name, words in _EXTRA.items() if words.search(raw))
        return (*known, *(mark for mark in extra if mark[0] not in families))


def _stems_of(words: str) -> list[str]:
    return [stem for word in words.split() for stem in terms(word) or [word]]


def _korean_polarity(raw: str) -> tuple[int, int]:
    """Return the polarity of a Korean word, and its `reach` as a negation."""
    if raw in ("안", "못"):
        return 0, 1
    found = [(-_LIKE if m["blame"] else _LIKE, m.end()) for m in _KOREAN_POLARITY.finditer(raw)]
    total = sum(value for value, _ in found)
    if found and _KOREAN_NOT.search(raw, found[-1][1]):
        return -total, 0
    if re.match("안[하해되돼]", raw):
        return _BARE_NEGATION, 0
    return total, -2 if not found and raw[0] in "없않" else 0


def polarity(words: Sequence[AnalyzedWord]) -> int:
    """
    Return the polarity of a clause: above 0 for praise, below 0 for blame.

    A negation flips the polarity of the first word in its scope that has one.
    """
    values = [word.polarity for word in words]
    for at, word in enumerate(words):
        if not word.reach:
            continue
        scope = _scope(words, at)
        flipped = next((i for i in scope if values[i]), None)
        if flipped is None:
            values[at] += _BARE_NEGATION
        else:
            values[flipped] = -values[flipped]
    return sum(values)


def _scope(words: Sequence[AnalyzedWord], at: int) -> list[int]:
    reach = words[at].reach
    if reach < 0:
        return [i for i in range(at - 1, at - 1 + reach, -1) if i >= 0]
    scope = []
    for i in range(at + 1, min(at + 1 + reach, len(words))):
        scope.append(i)
        if words[i].closes:
            break
    return scope
