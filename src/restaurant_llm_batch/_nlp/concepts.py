"""
Concept lexicon of restaurant reviews: Korean and English words by concept and aspect.

Without a language model, only a lexicon relates words that share no letters, such as 직원 and "waiter". Each concept
belongs to one aspect, so that a query for pasta is near a review of noodles, and less near one of the waiter.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from operator import add
from types import MappingProxyType
from typing import NamedTuple

from .terms import terms


class Concept(NamedTuple):
    """A concept's name, and the aspect of a restaurant that it belongs to."""

    name: str
    aspect: str


_WORDS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "service": {
            "staff": (
                "직원 사장 종업원 알바 알바생 서버 매니저 점장 주인 주인장 아주머니 아줌마 "
                "이모 아저씨 할머니 스태프 스텝 staff staffs waiter waitress waitresses "
                "waitstaff server servers manager managers hostess host hostesses bartender "
                "bartenders barman busboy busboys bus maitre maitr sommelier owner owners "
                "employee employees management personnel waitperson"
            ),
            "service": (
                "서비스 응대 접객 서빙 고객 접대 대접 service services servic serve served "
                "serving customer hospitality refill refilled attention attended"
            ),
            "kind": (
                "친절 상냥 다정 싹싹 정중 배려 살갑 미소 인사 friendly kind polite courteous "
                "attentive helpful gracious welcoming welcome professional accommodating "
                "accomodating knowledgeable smile smiled greeted greet efficient "
                "personable thoughtful"
            ),
            "rude": (
                "불친절 무례 퉁명 불쾌 태도 짜증 rude unfriendly inattentive impolite "
                "arrogant attitude snooty unprofessional ignored ignore pushy indifferent "
                "surly condescending dismissive incompetent clueless hover hovering"
            ),
            "wait": (
                "대기 웨이팅 기다리 기다림 늦게 느리 늦 빠르 빨리 주문 호출 slow waited "
                "waiting wait prompt quick quickly rushed rush minutes hour hours "
                "delay late ask asked asking forgot forgotten flag spilled apologize "
                "apologized apology apologies took"
            ),
            "booking": "예약 안내 좌석안내 reservation reservations reserved booking seated",
        },
        "price": {
            "price": (
                "가격 값 금액 비용 가격대 원 만원 천원 돈 계산 price prices pricing priced "
                "pricey cost costs bill check tab charge charged dollar dollars bucks paid "
                "pay paying spend spent money tip gratuity tax pricy rate"
            ),
            "value": (
                "가성비 합리 가심비 대비 worth value reasonable reasonably deal bargain "
                "affordable affordably fair"
            ),
            "expensive": (
                "비싸 비쌈 사악 부담 바가지 창렬 expensive overpriced steep "
                "overpricing exorbitant outrageous ripoff overcharged inflated"
            ),
            "cheap": (
                "저렴 싸 착하 할인 공짜 무료 쿠폰 리필 무한리필 무한 cheap cheaper "
                "cheapest inexpensive discount free coupon groupon budget low lower "
                "complimentary prix fixe"
            ),
        },
        "food": {
            "food": (
                "음식 요리 메뉴 식사 반찬 안주 밥 점심 저녁 런치 디너 디저트 코스 정식 한식 "
                "중식 일식 양식 재료 식재료 food foods dish dishes meal meals menu cuisine "
                "entree entrees appetizer appetizers dessert desserts dinner lunch brunch "
                "breakfast plate plates portion portions ingredients course courses specials "
                "tapas sides starter"
            ),
            "taste": (
                "맛 맛있 맛집 맛없 존맛 꿀맛 싱겁 짜 달 맵 느끼 담백 고소 신선 비리 바삭 쫄깃 "
                "촉촉 부드럽 질기 진하 감칠맛 풍미 식감 간 육즙 taste tasted tasty tasteless "
                "delicious flavor flavors flavorful flavour bland salty salted spicy sweet "
                "fresh yummy juicy tender crispy overcooked undercooked cooked dry greasy "
                "soggy inedible seasoned savory mouthwatering edible raw tough stale"
            ),
            "noodle": (
                "국수 냉면 라면 우동 파스타 쌀국수 칼국수 짬뽕 짜장면 짜장 막국수 라멘 소바 "
                "스파게티 면 면발 면요리 pasta noodle noodles ravioli linguini linguine "
                "spaghetti gnocchi ramen udon penne lasagna risotto"
            ),
            "meat": (
                "고기 소고기 돼지고기 삼겹살 갈비 스테이크 닭 치킨 닭갈비 불고기 곱창 막창 "
                "족발 보쌈 돈까스 돈카츠 목살 한우 등심 안심 육회 버거 햄버거 함박 steak beef "
                "pork chicken lamb duck veal burger burgers hamburger ribs rib filet bacon "
                "meat meats meatballs brisket sausage turkey sirloin"
            ),
            "seafood": (
                "회 초밥 스시 생선 해물 해산물 새우 조개 굴 연어 참치 장어 게장 오징어 낙지 "
                "문어 fish seafood shrimp lobster crab oyster oysters scallops salmon tuna "
                "sushi sashimi calamari mussels clams branzino octopus"
            ),
            "soup": (
                "찌개 국 탕 국물 국밥 전골 샤브샤브 순두부 부대찌개 설렁탕 삼계탕 김치 떡볶이 "
                "김밥 만두 순대 죽 비빔밥 볶음밥 돌솥 soup soups stew broth curry rice "
                "dumplings dumpling kimchi chowder"
            ),
            "bakery": (
                "케이크 빵 치즈 크림 초콜릿 쿠키 와플 베이글 샌드위치 피자 토스트 마카롱 "
                "아이스크림 빙수 도넛 크로플 타르트 bread cake cheese cheesecake chocolate "
                "pizza pizzas sandwich sandwiches pancakes waffle waffles cream ice pie "
                "tiramisu pudding brulee bagel toast rolls"
            ),
            "drink": (
                "커피 라떼 아메리카노 카페 음료 차 원두 맥주 소주 와인 칵테일 막걸리 에이드 "
                "주스 술 coffee tea wine wines beer beers cocktail cocktails drink drinks "
                "margarita martini sangria soda juice sake latte espresso"
            ),
            "vegetable": (
                "샐러드 야채 채소 버섯 감자 나물 두부 계란 달걀 salad salads vegetable "
                "vegetables potato potatoes fries sauce sauces egg eggs mushroom mushrooms "
                "spinach garlic onion onions tomato tomatoes beans truffle chips"
            ),
        },
        "ambience": {
            "mood": (
                "분위기 감성 무드 인테리어 느낌 아늑 예쁘 이쁘 고급 고급스럽 세련 로맨틱 "
                "데이트 기념일 atmosphere ambience ambiance decor decoration setting romantic "
                "vibe mood cozy elegant intimate beautiful charming environment interior "
                "atmostpher quaint casual ambient trendy lighting candles candlelit stylish "
                "warm relaxing relaxed fun"
            ),
            "noise": (
                "시끄럽 조용 소음 음악 노래 소란 북적 noisy noise loud louder deafening quiet "
                "music conversation hear jazz band acoustics piano live bustling"
            ),
            "space": (
                "공간 자리 좌석 테이블 넓 좁 쾌적 룸 홀 테라스 야외 정원 뷰 전망 경치 야경 "
                "창가 space spacious cramped room rooms view views patio outdoor outdoors "
                "garden terrace location window booth crowded walls upstairs"
            ),
            "clean": (
                "깨끗 청결 위생 더럽 지저분 화장실 주차 주차장 clean dirty filthy spotless "
                "bathroom bathrooms restroom restrooms parking tidy"
            ),
        },
    }
)


@cache
def _concepts_by_stem() -> Mapping[str, Concept]:
    return {
        stem: Concept(name, aspect)
        for aspect, concepts in _WORDS.items()
        for name, words in concepts.items()
        for word in words.split()
        for stem in (terms(word) or [word])
    }


class ConceptLookup:
    """
    Finds the concept of a stem.

    Korean compounds are written as one word (수제버거, 점심특선), so a known word matches at either end of a
    longer one; inside it only from three syllables on, where chance matches are rare.
    """

    def __init__(self) -> None:
        self._concepts = _concepts_by_stem()
        # Longer parts cannot match, and trying them would take quadratic time.
        self._longest = max(len(stem) for stem in self._concepts if _is_hangul(stem))
        # A part of two syllables or more begins with one of these, and most stems have none of them.
        self._starts = frozenset(stem[:2] for stem in self._concepts if len(stem) > 1)

    def concept(self, stem: str) -> Concept | None:
        """Return the concept of a stem, or None."""
        found = self._concepts.get(stem)
        if found or len(stem) < 3 or not _is_hangul(stem):
            return found
        return None if self._starts.isdisjoint(map(add, stem, stem[1:])) else self._part_concept(stem)

    def _part_concept(self, stem: str) -> Concept | None:
        size, get = len(stem), self._concepts.get
        for n in range(min(size - 1, self._longest), 1, -1):
            concept = get(stem[-n:]) or get(stem[:n])
            if concept:
                return concept
        for n in range(min(size - 2, self._longest), 2, -1):
            for i in range(1, size - n):
                if concept := get(stem[i : i + n]):
                    return concept
        return None


def _is_hangul(stem: str) -> bool:
    return "가" <= stem[0] <= "힣"
