"""
Aspect words of the offline model: weights, and the words and phrases that the concepts of the embedder lack.

The embedder's concepts (`concepts`) decide what is near in a search, so they change only with its version. What is here
decides under which aspect a sentence may be quoted, which needs more certainty.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from .terms import terms

STRONG, FAIR, WEAK = 1.0, 0.5, 0.25
"""Weights of words, all exact in binary. A sentence mentions an aspect from FAIR on."""

# By stem, so that all forms of a word have the weight; a word that shares its stem with another one of another weight
# belongs in FORMS.
_FAIR_WORDS = (
    "wait slow quick prompt minutes hour reservation seated greeted manager owner welcome paid spent cost bill free "
    "tip discount portion menu dessert wine drink view noise 예약 웨이팅 기다리 대기 리필 무한리필 부담 할인 "
    "자리 메뉴 양 늦게 늦 느리 빠르 빨리"
)
_WEAK_WORDS = (
    "order ask took worth charge bus host check rate low lower fair spend tab complimentary fixe steep serving "
    "attended rush flag customer refill meal dinner lunch brunch breakfast plate course dry side special tough raw "
    "starter room space wall upstairs fun casual live hear location booth window beautiful warm late "
    "주문 계산 공짜 무료 쿠폰 착하 점심 저녁 런치 식사 간 회 차 달 죽 면 룸 홀 태도 고객 느낌 카페 메뉴판"
)
FORMS: Mapping[str, float] = MappingProxyType(
    dict.fromkeys(("서비스로", "beautifully", "warmly", "coolly", "lately"), WEAK)
)
"""Weights of single forms, which mean something else than their stem: 서비스로 is "for free"."""


_MORE_WORDS = {
    "service": "comp accommodate servce servise 손님 포장 매너 센스",
    "price": "penny steal markup mortgage 콜키지 본전 지갑",
    "food": (
        "taco wing burrito hummus omelette gelato flan chili halibut cod trout eel ceviche tempura schnitzel "
        "lasagne carbonara antipasto charcuterie brie baguette donut brownie cookie sorbet tequila cuisine spice "
        "seasoning crust dough"
    ),
    "ambience": (
        "carpet sofa cockroach rooftop sunset harbor harbour shabby dingy quieter sterile vibes crammed"
    ),
}
"""Words that no concept has, by aspect."""

# Patterns inside Korean words, since compounds are written as one word; "^" is the beginning of a word.
_STRONG_PATTERNS = {
    "service": (
        "말투 표정 챙겨 챙기 인심 한숨 설명 안내 구워[주줘드] 알바 이모님 응대 던지듯 반말 눈치 배달 누락 "
        "사과[도를는] 대답 뒷전 재촉 성의 반겨 반갑 무뚝뚝 퉁명 건방 거만 싸가지 불친 칭절 불칠절 배려 "
        "세심 신속 키오스크 기다렸 기다림 줄서 갖다 가져다 치워 맞이 웃으며 환불 신경질"
    ),
    "price": (
        "[0-9만천백]원 물가 가격 비싸 비싼 비쌈 비쌌 비쌀 혜자 [$€£₩💸] [0-9]% ^price ^값 [물밥술커피]값 "
        "돈값 요금 ^돈[이을은만도] 가성비 가심비 바가지 창렬 저렴 ^싼데?$ 계산서"
    ),
    "food": (
        "맛[은이도과을있없깔] 노맛 물맛 육수 육향 메밀 평냉 면수 뇨끼 봉골레 튀김 김말이 항정살 오겹살 "
        "수육 녹두전 깍두기 겉절이 도우 어묵 제육 국밥 쫀득 퍽퍽 밍밍 포슬 껍데기 쉬폰 휘낭시에 비냉 순대 "
        "떡볶 타르트 ^양[이은도을] ^간[이은도을] 반죽 소스 드레싱 토핑 배탈 장염 조미료 잡내 누린내 자극적 "
        "[달짜맵]기만 마라탕 훠궈 양꼬치 탕수육 감자탕 해장국 추어탕 닭발 닭강정 덮밥 아귀찜 주꾸미 월남쌈 "
        "잡채 파전 타코 맛잇 마싯 맛이업 눅눅 푸석 미지근 설익 매콤 달달 달콤 짭짤 슴슴 칼칼 얼큰 "
        "기름[지져졌] 푸짐 머리카락 이물질 식어[서버] 식었 냄새나는"
    ),
    "ambience": (
        "조명 환기 낙서 매장 가게[는가] 햇살 시끌 에어컨 히터 난방 냉방 ^더[웠워] ^추[웠워] ^덥 ^춥 벌레 "
        "바퀴벌레 날파리 모기 먼지 얼룩 자국 곰팡이 청소 한옥 운치 고즈넉 풍경 노을 창밖 루프탑 마당 위치 "
        "역세권 접근성 골목 건물 실내 내부 외관 입구 바닥 의자 소파 상견례 데이트 분이기 도떼기 붐비 북적 "
        "뷰맛집 식기 [가-힣]뷰 어두[워웠운] 어둡 낡 허름 좌식 칸막이 담배 놀이방 엘리베이터 계단 편안 "
        "아기자기 포토존 통창 채광 한적 한산 지하철 도보"
    ),
}
_FAIR_PATTERNS = {"ambience": "깔끔 사진 컵에 접시에 모임"}

# Phrases whose words mean another aspect together, or none (""): 음식이 늦게 나와요 is about the service.
_A_WORD = r"\S{1,12}\s"
_PHRASES = {
    "service": (
        rf"음식\S?\s(?:{_A_WORD})?(?:바로|빨리|금방|늦게|천천히|안|한참)\s?나",
        r"(?:바로|빨리|금방|늦게|천천히)\s?나[오와왔옵옴]",
        r"(?:(?:음식|요리|메뉴)\S?\s)?나오는\s?(?:속도|시간|데|게)",
        r"(?:시간|분)\S{0,2}\s?(?:만에|걸렸|걸려|걸림|기다)|오래\s?걸",
        rf"물\S{{0,2}}\s(?:{_A_WORD}){{0,2}}(?:달라|갖다|가져다|부탁)",
        r"불러도|부르면|나가라|자리\S?\s?없|자리로\s?(?:밀|안내)|주문하자마자|메뉴\s설명",
        rf"(?:주문|계산)\S{{0,2}}\s(?:{_A_WORD}){{0,2}}(?:못|안|누락|잘못|틀|빠|받)",
        rf"신경\S?\s(?:{_A_WORD})?(?:안|써|쓰)",
        rf"서비스로\s(?:{_A_WORD})?(?:주|나오|내)",
        r"(?:came|come|comes) out (?:\w+ )?(?:quick|fast|slow|late|prompt)\w*",
        r"seated (?:us|me|right|immediately)|seat us|rush(?:ed)? (?:us|me)|offered (?:us|me)",
        r"(?:order|bill|check) wrong|wrong order|out of stock|flag(?:ged)? down|forgot (?:our|my|the) \w+",
        r"(?:ask|beg)(?:ed)? (?:\w+ ){0,3}times(?: for \w+)?",
        r"(?:it|they|she|he|which) took (?:us |them )?(?:forever|ages|over|an hour|\w+ (?:minutes|hours))",
        r"check(?:ed)? (?:back|in|on)|made us feel|out of (?:their|his|her) way|comped (?:\w+ )?\w+",
        r"minutes for|bringing (?:us )?(?:the|our|my) \w+",
    ),
    "price": (
        r"happy hour (?:price|special|deal|menu)s?|early bird|every penny|(?:a|small) fortune\b(?! cookie)",
        r"rip(?:ped)?[ -]?off|waste of money|half the price|for what you get|arm and a leg|break the bank",
        r"for the (?:money|price)|worth the price",
        r"이\s가격|따로\s받|가격\s?대비|돈\s버|추가\s요금",
    ),
    "food": (
        r"먹을\s?[만게것]|속이\s?(?:편|더부룩|불편|안\s?좋)|배가?\s?(?:고[파팠]|부르|불)|배부르|food poisoning",
    ),
    "ambience": (
        r"[뷰기진]\s?맛집|찾기\s?(?:힘|어려|쉬)|테이블\s?간격|live music",
        r"(?:our|the) tables? (?:was|is|were|are) (?!ready|available|not)|neighbou?rhood (?:is|was)",
    ),
    "": (r"에\s?비(?:해|하면|교하)|치고는?\s|fine dining|for (?:dinner|lunch|brunch)",),
}


def weights() -> dict[str, float]:
    """Return the weight of each stem that does not have `STRONG`."""
    return dict.fromkeys(stems_of(_FAIR_WORDS), FAIR) | dict.fromkeys(stems_of(_WEAK_WORDS), WEAK)


def more_stems() -> dict[str, str]:
    """Return the aspect of each stem that no concept has."""
    return {stem: aspect for aspect, words in _MORE_WORDS.items() for stem in stems_of(words)}


def word_patterns() -> list[tuple[str, float, re.Pattern[str]]]:
    """Return aspects, weights, and patterns to search in words."""
    graded = ((STRONG, _STRONG_PATTERNS), (FAIR, _FAIR_PATTERNS))
    return [
        (aspect, weight, re.compile("|".join(words.split())))
        for weight, patterns in graded
        for aspect, words in patterns.items()
    ]


def phrase_pattern() -> re.Pattern[str]:
    """Return the pattern of all phrases; the name of a group is its aspect, "none" for none."""
    return re.compile(
        "|".join(f"(?P<{aspect or 'none'}>{'|'.join(texts)})" for aspect, texts in _PHRASES.items())
    )


def stems_of(words: str) -> list[str]:
    """Return the stems of a space-separated list of words."""
    return [stem for word in words.split() for stem in terms(word) or [word]]
