"""
Korean part-of-speech guesser: dictionary form and part of speech from endings, particles and lists.

The ending that the stemmer removed shows the part of speech: 를 follows nouns, 습니다 and 어요 follow verbs and
adjectives. Lists distinguish verbs from adjectives. A form that matches no rule has no analysis.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from .reading import GUESS, LIKELY, SURE, WordAnalysis, word_set
from .terms import terms

_MAX_LENGTH, _SHORT_LENGTH = 20, 2

_ADVERBS = word_set(
    "빨리 자주 바로 미리 일찍 같이 함께 따로 천천히 열심히 굉장히 엄청 워낙 꽤 계속 오히려 특별히 별로 전혀 "
    "거의 아직 이미 벌써 드디어 무척 훨씬 더욱 직접 일단 먼저 자꾸 가끔 종종 오래 서로 살짝 듬뿍 가득 쭉 굳이 "
    "늦게 아마 이제 너무너무 솔직히 간만에 상당히 나름 은근 은근히 결국 절대 모두 각각 대충 제대로 골고루 "
    "마지막으로 개인적으로 전체적으로 전반적으로 그나마 아무튼 무조건 겨우 새로 여전히 막상 많이 "
    "비교적 나름대로 오랜만에 처음으로 그만큼 마치 왜 잠깐 당장 도대체 차라리"
)
# Stems in the stemmer's form.
_ADJECTIVES = word_set(
    "맛있 맛없 좋 많 적 크 작 비싸 싸 높 낮 넓 좁 달 짜 맵 싱겁 뜨겁 차갑 부드럽 아쉽 예쁘 이쁘 나쁘 빠르 느리 "
    "괜찮 재미있 재밌 재미없 멋있 멋지 무겁 가볍 어렵 쉽 덥 춥 두껍 얇 깊 짧 길 새롭 즐겁 고맙 아름답 시끄럽 더럽 "
    "가깝 멀 싫 시 질기 비리 바쁘 배부르 배고프 뛰어나 다르 같 늦 안타깝 귀엽 반갑 그립 힘들 "
    "알차 세련되 오래되 점잖 쓸데없 어이없 한결같 똑같 따갑 두텁 가렵 어둡 밝 젊 기쁘 슬프 아프 미끄럽 "
    "살갑 싱그럽 지겹 무섭 우습 웃기 놀랍 어설프 구리"
)
_HADA_ADJECTIVES = word_set(
    "친절 불친절 깔끔 깨끗 신선 푸짐 든든 저렴 담백 고소 진 조용 편안 편 훌륭 완벽 다양 유명 충분 아늑 쾌적 "
    "촉촉 바삭 쫄깃 쫀득 얼큰 칼칼 시원 달콤 짭짤 짭쪼름 매콤 새콤 느끼 구수 은은 화려 독특 특별 평범 무난 심심 "
    "밍밍 퍽퍽 협소 한산 소박 정갈 상냥 다정 싹싹 정중 무례 불쾌 불편 지저분 적당 넉넉 따뜻 미지근 딱딱 말랑 "
    "심 착 약 강 독 급 흔 가능 불가능 필요 중요 강력 행복 피곤 친근 꾸준 두툼 부실 허술 허접 유치 지루 뻔 진부 "
    "식상 답답 어색 황당 한심 잔잔 신기 이상 섬세 완전 대단 순수 당연 솔직 비슷 동일 단순 복잡 화끈 "
    "소중 유쾌 통쾌 상쾌 산뜻 깜찍 우아 세심 꼼꼼 쌉쌀 쌉싸름 눅눅 축축 뻑뻑 물컹 탱글 탱탱 아삭 폭신 포근 오붓 "
    "근사 탁월 우수 미흡 부족 과 비 짜릿 참신 애매 모호 엉성 처절 잔인 지독 뻔뻔 허무 막막 씁쓸 훈훈 "
    "탄탄 치밀 기발 위대 풍부 고급 어중간 착잡 느긋 사악 시끌벅적 고독 볼만 먹을만 갈만 쓸만 흥미진진 무심 건조 혼잡 "
    "꾸덕 포슬포슬 바삭바삭 쫄깃쫄깃 알싸 텁텁 뭉클 편리 청결 한적 고즈넉 개운 뜨끈 따끈 시원시원 큼직 얄팍 "
    "빈약 로맨틱 생생 특이 조잡 상당 노련 끔찍 진지 세밀 강렬 칙칙 난해 허전 궁금 미숙 건강 유일 발랄 익숙 "
    "날렵 리얼 참담 절박 불분명 달달 순 슴슴 까칠 투박 소심 거대 아담 널찍 고급지 정확 신속 능숙 서툴"
)
_VERBS = word_set(
    "마시 나오 기다리 시키 받 놀라 들어가 나가 앉 씹 굽 볶 끓이 끓 튀기 찍 담 남기 남 사 팔 찾 찾아가 만들 "
    "넣 빼 섞 비비 어울리 즐기 다니 알 모르 물어보 묻 부르 챙기 웃 치우 닦 열 닫 쉬 걸리 다녀오 들르 들리 "
    "느끼 먹어보 사먹 데려가 붙 없애 줄 늘 오르 내리 올리 떨어지 넘치 빠지 터지 흐르 뜨 서 걷 타 잡 놓 두 "
    "쓰 읽 듣 말 배우 가르치 돌아가 돌아오 살리 죽 살 울 울리 웃기 지키 잃 잊 믿 버리 바꾸 바뀌 고르 "
    "반기 고치 나누 더하 망치 망하 지나 끝나 끝내 시작되 만나 떠나 보이 들 쳐다보 잘리 던지 깎 채우 비우"
)
# Pronouns, numerals and other function words.
_EMPTY = word_set(
    "하나 하나하나 둘 셋 한번 두번 번 척 그땐 그때 그날 이건 그건 저건 이게 그게 이것 그것 이거 뭐 뭔가 무엇 무언가 "
    "누구 어디 언제 얼마 아니 어이 자기 본인 다른 다들 모든 어느 무슨 이번 다음 지금 오늘 내일 어제 우린 나도 그의 "
    "주시 하시 보시 가시 오시 계시 않고 않은 않는 않아 없이 했습니 됩니 그러 이러 저러 어떻 이래 그런가 뭐하나 "
    "위해 통해 경우 바람 덕분 다만 또한 근데 분들 그냥저냥 던지듯"
)
# Nouns whose last syllable looks like a particle.
_WHOLE = word_set("바나나 아보카도 제주도 온도 농도 각도 속도 태도 매너 휘낭시에 사이 아이")
# Nouns that end in 이, such as 김말이 and 생선구이, unlike 주말이 and 친구이고.
_WHOLE_I = re.compile(
    "((?:김|계란|달걀|국|차돌)말|.*(?:생선|고기|갈비|어|새우|조개|껍데기|버섯|통|모듬)구|.+볶|손잡|어린)이"
    "(?:가|는|를|도|와|랑|의|에|만|로|나|들.*)?"
)
# Endings that are rare in nouns: forms that no rule could split.
_OPEN = re.compile(
    ".*(?:[을를은는던면서고지게니며요다네까데군려러야록든듯죠큼뿐냐한돼되뻐봐줘져셔했았었겠닌긴싶같]|"
    "[하주보으오가많]심|[었았였있없]음|[쁘멋러지터빠]진|임|됨|함|짐|남김|끝남|[는은]거|[어아여]감|하실|[비위통]해|짜증나|"
    "[러려거까다로고]울|[먹보가하오찍마시사쓰듣기리쉽]기)|.에"
)
# A verb as a noun, or in the past before a noun: 웃지도, 마시기가, 낡았지만, 맛있었을.
_NAMED = re.compile("(.{1,6}?)(?:지(?:도|만|는|가|를)?|기(?:도|만|는|가|를|에|에는)?|을|던)")
# Such forms that are nouns of their own.
_NOUN_FORMS = word_set("굽기 크기 밝기 아기 모기 딸기 고기 향기 인기 보기 가지 편지")
_RIEUL = 8
_LONGEST_NOUN, _LONGEST_VERB = 6, 4
_LIKING = ("좋아하", "좋아해", "좋아했", "싫어하", "싫어해", "싫어했")
_AGAIN = re.compile(r"(..)\1")

_HADA = re.compile(
    r"(?P<verb>하는|하러|하려.*|한다.*|할.*)|(?P<adverb>히)|(?P<maybe>하고|한|)|"
    r"(?:하(?!고$|$)|해|했|한(?!테)|함|합|드[리려립렸림]).*"
)
_COPULA = re.compile(
    r"(?:이에요|이예요|예요|에요|입니다|이네요|네요|네여|이고|이라서|라서|인데.*|이었.*|였.*|이지만|임|인)"
)
_PLURAL = "(?:들|님|분|분들|님들)?"
_CLEAR_PARTICLE = re.compile(
    _PLURAL
    + "(?:을|를|에|에서.*|에는|에도|에만|의|까지.*|부터.*|마다|처럼|보다|이|가|께서|한테|으로.*|이랑|이나)"
)
_PARTICLE = re.compile(
    _PLURAL + "(?:은|는|도|만|로|로는|로도|와|과|랑|나|하고|밖에|만큼|조차|이라도|이라|쯤|뿐|들|분|님)"
)
# Remains of endings that the stemmer did not remove completely: 봤습니, 이쁘긴.
_ENDING = re.compile(".*[았었였으니네다지자습같보하주쓰없않도는괜긴진게이]|.*했.*")
_CLAUSE_END = re.compile(r".*(?:습니다|습니당|어요|아요|었.*|았.*|였.*|지만|는데.*|더라.*|[었았였]음)")


def read(token: str) -> tuple[str, WordAnalysis | None]:
    """
    Analyze a word form.

    Args:
        token: Hangul syllables only.

    Returns:
        The stem, equal for all forms of a word, and the analysis; None if no rule matches.
    """
    if len(token) > _MAX_LENGTH:
        return token[:_MAX_LENGTH], None
    stems = terms(token)
    if not stems or token in _EMPTY:
        return token, None
    if token in _ADVERBS:
        return token, WordAnalysis(token, "adv", SURE)
    if token in _WHOLE:
        return token, WordAnalysis(token, "n", LIKELY)
    if token.startswith(_LIKING):
        return token[:2] + "하", WordAnalysis(token[:2] + "하다", "v", SURE)
    if whole := _WHOLE_I.fullmatch(token):
        return whole[1] + "이", WordAnalysis(whole[1] + "이", "n", LIKELY)
    stem = "재밌" if token.startswith("재밌") else stems[0]
    if stem in _EMPTY:
        return stem, None
    tail = token[len(stem) :] if token.startswith(stem) else None
    return stem, _as_predicate(token, stem, tail) or _as_whole_form(token) or _as_noun(token, stem, tail)


def _as_predicate(token: str, stem: str, tail: str | None) -> WordAnalysis | None:
    """Analyze a verb, an adjective, or an adverb derived from one."""
    if stem in _ADVERBS or (tail == "" and _AGAIN.fullmatch(stem)):
        return WordAnalysis(stem, "adv", LIKELY)
    if tail == "" and stem in _HADA_ADJECTIVES:
        return WordAnalysis(stem + "하다", "adj", GUESS)
    hada = _HADA.fullmatch(tail) if tail else None
    if hada and hada["adverb"]:
        return WordAnalysis(token, "adv", LIKELY)
    if hada and stem in _HADA_ADJECTIVES:
        return WordAnalysis(stem + "하다", "adj", SURE)
    if hada and len(stem) > 1:
        return _as_hada_verb(stem, hada)
    if tail == "" or (tail and _CLEAR_PARTICLE.fullmatch(tail)):
        return None
    if stem in _ADJECTIVES or stem.endswith(("스럽", "롭")):
        return WordAnalysis(stem + "다", "adj", SURE)
    if stem in _VERBS:
        return WordAnalysis(stem + "다", "v", SURE)
    # If the stemmer changed letters, an unknown word may be a misread noun: 영화네요.
    unknown = tail is not None and not _COPULA.fullmatch(tail) and 1 < len(stem) <= _LONGEST_VERB
    if unknown and _CLAUSE_END.fullmatch(token) and not _ENDING.fullmatch(stem):
        return WordAnalysis(stem + "다", "v", GUESS)
    return None


def _as_hada_verb(stem: str, hada: re.Match[str]) -> WordAnalysis | None:
    if len(stem) > _LONGEST_VERB or _ENDING.fullmatch(stem):
        return None
    # 직원하고 means "with the staff", so 하고 is weak evidence of a verb; 하는, as in 주문하는, is strong.
    weight = SURE if hada["verb"] else GUESS / 2 if hada["maybe"] == "하고" else LIKELY
    return WordAnalysis(stem + "하다", "v", weight)


def _as_whole_form(token: str) -> WordAnalysis | None:
    """Analyze a form of a known verb or adjective that the stemmer leaves whole: 챙겨, 기다릴, 웃지도, 맛있었을."""
    if len(token) < _SHORT_LENGTH or token in _NOUN_FORMS:
        return None
    for base in _bases(token):
        if base in _ADJECTIVES:
            return WordAnalysis(base + "다", "adj", LIKELY)
        if base in _VERBS:
            return WordAnalysis(base + "다", "v", LIKELY)
    return None


def _bases(token: str) -> Iterator[str]:
    """Yield the stems of which the token would be a form in 어, ㄹ, 을, 지 or 기, also with a particle."""
    yield from terms(token + "요")[:1]
    before, last = token[:-1], token[-1]
    if last in "아어" and _has_final(before[-1]):
        yield before
    if last == "울" and before:
        yield from terms(before + "운")[:1]
    if (ord(last) - ord("가")) % 28 == _RIEUL:
        yield before + chr(ord(last) - _RIEUL)
    named = _NAMED.fullmatch(token)
    if named:
        yield named[1]
        yield from terms(named[1] + "다")[:1]


def _has_final(syllable: str) -> bool:
    return (ord(syllable) - ord("가")) % 28 > 0


def _as_noun(token: str, stem: str, tail: str | None) -> WordAnalysis | None:
    if tail is None or len(stem) > _LONGEST_NOUN:
        return None
    if not tail:
        if token[-1] == "이" and len(token) == _SHORT_LENGTH and _has_final(token[0]):
            # Two syllables are ambiguous: 춤 with the particle 이, or the noun 종이.
            return None
        return WordAnalysis(stem, "n", GUESS) if len(stem) > 1 and not _OPEN.fullmatch(stem) else None
    if _CLEAR_PARTICLE.fullmatch(tail) or _COPULA.fullmatch(tail):
        return WordAnalysis(stem, "n", LIKELY)
    return WordAnalysis(stem, "n", GUESS) if _PARTICLE.fullmatch(tail) else None
