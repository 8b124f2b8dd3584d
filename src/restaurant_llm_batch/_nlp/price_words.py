"""
Price words: whether a text speaks of prices or value for money, in Korean or English.

The lexicon (`aspect_words`, `concepts`) reads stems, by which "valued" is "value", and weighs what it reads. Here a
text either has a word of this list or not, so every word stands in it with what must not be around it: 원 counts after
a number only (not in 직원), 돈 not in 돈까스, and 싸서 not where something is wrapped to be eaten.
"""

from __future__ import annotations

import re
from unicodedata import normalize

from .._patterns import lazy_pattern

# What may follow 원 after a number: a particle, a counter, or no Hangul. Not 원주, 원두, 원룸.
_AFTER_WON = r"(?=[^가-힣]|$|[이을은의도에씩만대임입예선꼴넘밖돈]|짜리|으로|부터|까지|정도|인[데가지])"
_KOREAN = (
    r"가격|가성비|가심비|물가|비용|요금|금액|할인|무료|공짜|리필|바가지|창렬|혜자|쿠폰|콜키지|가격대|저렴|염가"
    r"|비[싸싼쌈쌌쌀쌉쌔]"
    rf"|(?<![가-힣0-9])[일이삼사오육칠팔구십백몇수]{{0,4}}[만천백]\s?원{_AFTER_WON}"
    rf"|(?<!\d)\d[\d,.]{{0,15}}+\s?[만천백]{{0,2}}\s?원{_AFTER_WON}"
    r"|(?<![가-힣])[만천]\s?[일이삼사오육칠팔구][천백]"
    r"|\d\s?만\s?\d{1,4}천|[₩￦]\s?\d"
    r"|값(?!진|지)"
    r"|(?<![가-힣])돈(?![까가]스|카[츠쓰]|코츠|부리|마호크|[육사]|독)(?=[이을은도만값내주낭]|아[까깝]|\s|[^가-힣]|$)"
    r"|(?<![가-힣])싸(?:[다고네게지면니요구군]|서(?!\s?(?:먹|드|한입|입))|(?=[\s.,!?~…]|$)(?!\s(?:먹|드|줘|주|가|온|오)))"
    r"|(?<![가-힣])(?:싼|쌉니다|쌌(?![던는]))|헐값|값[싸싼]"
)
_ENGLISH = (
    r"\b(?:pric(?:e|es|ed|ey|y|ing|ier|iest)|over-?priced|under-?priced|expensive|inexpensive|cheap(?:er|est|ly|o)?"
    r"|values?|affordab(?:le|ly)|afford|bargains?|steal(?!ing)|costs?|costly|money|dollars?|bucks?|cents|discount(?:s|ed)?"
    r"|coupons?|refills?|surcharges?|over-?charged|budget|paid|rip-?off|ripped off|reasonabl[ey]|happy hour|krw|usd"
    r"|fees?|bill|tab)\b"
    r"|\bpay(?:s|ing)?\b(?! attention)|\bworth\b(?!\s(?:(?:the|a)\s)?(?:wait|drive|trip|visit|detour))"
    r"|\b(?:good|great|best|nice|better|lunch) deals?\b(?! (?:of|with))"
    r"|\b(?:for free|free (?:of charge|refill|drink|side))"
    r"|(?<!in )\bcharged?\b|\bcharging\b|\bgratuity\b|\d\s?% (?:tip|off|discount)\b"
    r"|[$€£¥💸]\s?\d|\d\s?(?:[$€£¥]|(?:usd|krw|won|eur|euros?)\b)|[$€£]{2,}"
)
# What any of these begins with: at most characters one look is enough, in place of one for each word.
_FIRST = r"[가값공금돈리무물바비싸싼쌉쌌염요저창콜쿠할헐혜일이삼사오육칠팔구십백몇수만천\d₩￦$€£¥💸a-z]"
# ASCII, so that a word also ends where Hangul follows: "price가".
_PRICE = lazy_pattern(f"(?={_FIRST})(?:{_KOREAN}|(?a:{_ENGLISH}))", re.IGNORECASE)


def mentions_price(text: str) -> bool:
    """Return whether a text has a word for a price, in any Unicode form, full-width letters included."""
    return _PRICE.search(normalize("NFKC", text)) is not None
