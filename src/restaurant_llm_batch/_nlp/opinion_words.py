"""
Opinion words of restaurant reviews: praise, blame, negation and frames, in Korean and English.

A frame is a clause that the rest of its sentence takes back: what was expected or heard, used to be, or would be.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from .._patterns import lazy_pattern

# Korean words by their unchanging parts, matched anywhere in a clause, since compounds are written as one word and many
# reviews without spaces; "^" keeps a part to the beginning of a word (식은, but not 음식은). "_" is an optional
# space, "~" an optional particle before it. At one place the first match counts: phrases, then blame, then praise.
_KOREAN_PHRASES_OF_PRAISE = (
    "나무랄_데~없 흠_?잡을_데~없 더할_나위~없 손색~없 빠지는_게~없 빠질_게~없 부족함~없 변함~없 아낌~없 "
    "빠짐~없 거침~없 말이_필요~없 말할_것도~없 두말할_것도~없 잊을_수~없 장난_아니 기대_이상 둘이_먹다 "
    "살살_녹 꽉_차 꽉_찼 꽉_찬 속이_편 밥도둑 손이_가 믿고_먹 믿고_가 믿고_간 남는_게_있 금방_빠 "
    "가격이_착 가격도_착 또_갈 또_가고 또_가야 또_갑 또_올 또_오고 또_옵 또_먹고 또_방문 다시_갈 "
    "다시_가고 다시_올 다시_오고 다시_찾 다시_방문 재방문 자주_가요 자주_가게 자주_갈 자주_갑 자주_오 "
    "자주_옵 자주_와 자주_먹 자주_찾 기다릴_가치 기다린_보람 줄_서서_먹 ^배가_부 ^배부 ^배불 잊지_못 "
    "시간_가는_줄"
)
_KOREAN_PHRASES_OF_BLAME = (
    "맛_?업 만도_못 보다_못 정도는_아니 정도는_아닌 정도까진_아 특별한~_아니 어이~없 터무니~없 형편~없 "
    "버릇~없 정신~없 싸가지 예의~없 개념~없 힘~없 보잘~없 쓸데~없 시원찮 만_못하 두_번_다시 "
    "두_번_갈_일~없 두_번은 ^다시는 ^다신 안_갈 안_감 안_갑 안_가요 안_올 안_옵 돈_버 돈_날 돈만_버 "
    "돈만_날 돈_낭비 시간_낭비 안_익 덜_익 덜_된 따로_받 추가_요금 추가_금 오래_걸 오래_기다 한참_걸 "
    "한참_기다 한참_있 늦게_나 시간이나 시간_만에 시간_넘게 분_넘게 분이나 ^초심 예전_같지 예전만 "
    "^기분~나 ^기분~상 ^속이_더 ^속이_안 ^속이_불 ^배가_고 ^배가_아 허리가_아 붙어_있 그저_그 좀_그렇 "
    "좀_그래 좀_그랬 그냥_그 그냥저냥 ^글쎄 차라리 들은_척 본_척 본체만체 ^올랐 ^올라서 너무_세 너무_쎄 "
    "너무_적 달라고_해야 나가라 가격대~있 쓴_?맛 탄_?맛 탄_?내 맛도_없 맛이_없 맛은_없 성의~없 메리트~없 "
    "^왜_이렇"
)
_KOREAN_BLAME = (
    "불친절 불칠절 불친 무례 퉁명 불쾌 짜증 맛없 노맛 최악 비싸 비싼 비쌈 비쌌 비쌀 비쌉 사악 창렬 "
    "바가지 ^심하 ^심한 심해요 심해서 심했 심각 ^느리 ^느려 ^느린 ^느렸 ^느립 ^늦게(?!_?가) ^늦었 ^늦어 "
    "^늦은_감 ^식어 ^식었 ^식은 ^다_식 ^짰 ^짜요 ^짜지 ^짜고 ^짜서 ^짜다 ^짜네 ^짭 ^짠데 ^싱겁 ^싱거 "
    "느끼하 느끼함 느끼해 느끼한 느끼했 질기 질긴 질겨 질겼 ^비린 ^비려 ^비리 ^비렸 더럽 더러 지저분 "
    "끈적 미끄 미끌 시끄 시끌 ^좁 비좁 불편 실망 아쉬 아쉽 후회 기다렸 기다림 웨이팅 ^던지 한숨 ^굳으 "
    "차가운 차가웠 ^차갑 밍밍 퍽퍽 말라_?비 말라_?있 말라요 말랐 불어_?있 불어_?터 ^불어서 ^불었 퉁퉁 "
    "설익 ^타서 ^탔 눅눅 시들 미지근 맹물 푸석 누린내 잡내 비린내 냄새 악취 벌레 바퀴 날파리 곰팡이 "
    "머리카락 이물질 배탈 장염 체했 더부룩 절어_?있 재탕 재사용 묵은 상했 질려 질리 ^물려 부실 빈약 엉망 "
    "개판 엉터리 ^대충 ^굳이 건성 무성의 건방 거만 무뚝뚝 까칠 쌀쌀맞 신경질 ^화나 ^화를 ^화가 반말 눈치 "
    "재촉 쫓겨 쫓아 밀어내 뒷전 ^무시 누락 빠뜨 잘못 실수 황당 당황 부담 아깝 아까웠 아까워 아까운 ^과하 "
    "^과한 모자라 모자란 부족 ^적어서 ^적어요 ^적고 ^적네 ^작아요 ^작아서 어둡 어두워 어두웠 ^덥 ^더웠 "
    "^더워 ^춥 ^추웠 ^추워 ^약해 답답 딱딱 흐물 물컹 짜기만 달기만 맵기만 조미료 비추 평범 무난 호불호 "
    "밋밋 애매 불만 불합리 부적절 나쁘 나쁜 나빠 나빴 나쁩 ^쎔 사기_?당 속았 낚였 호구 거품 노답 쓰레기 "
    "^헬 불결 얼룩 ^자국 기름때 먼지 찝찝 찜찜 역겨 고생 힘들 힘든 힘듦 지쳤 지친 지루 붐비 산만 삭막 "
    "썰렁 칙칙 ^낡 허름 협소 빽빽 장난 끔찍 거슬 의심 걱정 실패 ^싫 미흡 엉성 서툴 미숙 허접 조잡 뻔뻔 "
    "기름졌 기름져 텁텁 어이 입맛을_잃 입맛_잃 얇아 남김 남겼 흠잡 오르네 행주 취급 위생이 돈_?받 💸 😡 "
    "👎 😤 😠 🤢 🤮 😭 😱"
)
_KOREAN_PRAISE = (
    "친절 칭절 상냥 다정 싹싹 정중 세심 꼼꼼 자상 살뜰 살갑 푸근 훈훈 ^밝아 ^밝고 ^밝은 반겨 반갑 배려 "
    "챙겨 챙기 맛_?있 맛은_있 맛도_있 맛이_있 맛잇 마싯 마싰 마시써 맛나 맛난 맛깔 맛집 존맛 꿀맛 최고 "
    "최애 좋 조아요 조코 훌륭 완벽 만족 추천 강추 신선 싱싱 바삭 빠삭 쫄깃 쫀득 쫀쫀 탱글 탱탱 아삭 "
    "부드러 부드럽 부드런 촉촉 야들 보들 ^녹아요 ^녹는 ^녹음 푸짐 넉넉 든든 가득 듬뿍 알차 알찬 합리 "
    "저렴 ^착한 ^착함 ^착하 ^착해 ^싸니 ^싸지 ^싸고 ^싸요 ^싸서 ^싸네 ^싼 혜자 갓성비 이득 깨끗 깔끔 "
    "청결 위생적 쾌적 정갈 예쁘 예쁜 예뻐 예뻤 이쁘 이쁜 이뻐 이뻤 멋지 멋진 멋져 멋있 아늑 포근 조용 "
    "한적 고즈넉 운치 낭만 감각적 감성적 세련 고급 은은 아기자기 깡패 감동 감사 고마웠 고마워 고마운 "
    "고맙 대박 인생 미쳤 찐(?!만두|빵|밥) 천국 탑급 ^갑(?![가-힣]) ^짱 ^굿 끝내줘 끝내줬 끝내주 끝내준 "
    "끝내줍 끝남 일품 별미 진국 명품 예술 환상 감칠맛 풍미 풍부 풍성 ^깊은 ^깊고 ^깊어 ^진하 ^진한 ^진해 "
    "^진했 ^진합 구수 고소 담백 시원 개운 칼칼 얼큰 상큼 산뜻 향긋 달짝 달콤 적당 적절 딱_맞 딱_좋 알맞 "
    "조화 어울 괜찮 웃으 인심 뚝딱 힐링 인정 한결같 포슬 편해 편하 편한 편안 편리 편했 납득 많으심 "
    "많으시 많으신 두툼 도톰 무한리필 빠르 빠른 빨라 빨랐 빠릅 금방 바로_나 바로바로 신속 흔쾌 알아서 "
    "자세히 ^넓 널찍 가까워 가까운 가깝 접근성 다양 골고루 찰떡 뿌듯 재미 재밌 즐거 즐겁 행복 사랑 설레 "
    "의외로 정성 정직 진심 ^낫네 ^낫습 ^나아요 잘_먹 잘_구 잘_익 잘_나 잘_해 특별 독특 색다 매력 만렙 "
    "후하 후한 덤으로 용서 가치 돈값 단골 으뜸 사르르 감탄 탁월 근사 노릇 따끈 뜨끈 따뜻 따듯 뜨거 "
    "아름다 센스 솜씨 공손 무조건_가 👍 😋 😍 🥹 ❤ ♥ 💕 🤤 😊"
)
# Words that a following negation strengthens: 별로 없어요, 그다지 좋지 않아요. Alone, all but 전혀 blame.
_KOREAN_HARDLY = "별로 별루 그다지 그닥 전혀"
# 없 and 않 negate what stands before them; so do 못해요, 아니에요, 모르겠어요 and 떨어져요.
_KOREAN_NOT_AFTER = (
    "않 없 못_하 못_해 못_했 못_한 못_할 못_합 ^아니 ^아닌 ^아닙 안_하 안_해 안_했 안_한 "
    "^안_나(?![오와왔옵]) ^안_느껴 ^안_풍 모르겠 떨어지 떨어져 떨어집 떨어졌 떨어짐"
)
# Less of what is bad is good: 부담이 적어요. Less of anything else is bad.
_KOREAN_LESS = "^적습 ^적은 ^적었 ^적어 ^적고 ^적네 ^적음 ^덜하 ^덜해 줄었"
# Words that hold others of these lists and mean nothing of the kind.
_KOREAN_NEUTRAL = "최고기 수밖에_없 좋겠 ^안주 ^안내 ^안심 짜장 찜닭 좋아하시 관계_없 상관_없 사기_전 아니라"
# 안 and 못 negate the word after them.
_KOREAN_NOT_BEFORE = r"^안\s ^못\s ^안(?=좋|친절|맛있|비싸|짜|매|느끼|신선|깨끗|편)"
# What a negation does not reach over: 고 (but 추천하고 싶지 않아요), 지만, 는데, 서.
_KOREAN_CLOSE = (
    r"고(?!\s싶)(?=[\s,]) 며(?=[\s,]) 지만(?=[\s,]) 데(?<=[는은한인던운된]데)(?=[\s,]) "
    r"서(?<=[가-힣]서)(?<!에서)(?=[\s,]) 니까(?=[\s,]) 면(?=[\s,])"
)

# In the order of precedence at one place.
_KOREAN = {
    "neutral": _KOREAN_NEUTRAL,
    "good": _KOREAN_PHRASES_OF_PRAISE,
    "bad": _KOREAN_PHRASES_OF_BLAME,
    "hardly": _KOREAN_HARDLY,
    "less": _KOREAN_LESS,
    "blame": _KOREAN_BLAME,
    "praise": _KOREAN_PRAISE,
    "after": _KOREAN_NOT_AFTER,
    "before": _KOREAN_NOT_BEFORE,
    "close": _KOREAN_CLOSE,
}


def korean_tokens(text: str) -> Iterator[tuple[str, str]]:
    """
    Yield everything in a text that carries or turns an opinion: its kind, and the text.

    The kinds are those of `_KOREAN`, "space" and, for punctuation, "close".
    """
    firsts, words = _korean_words()
    at = 0
    while start := firsts.search(text, at):
        first = start[0]
        found = _korean_pattern(first).match(text, start.start()) if first in words else None
        if found:
            yield str(found.lastgroup), found[0]
            at = found.end()
        else:
            if first not in words:
                yield ("space" if first.isspace() else "close"), first
            at = start.end()


@lru_cache(1)
def _korean_words() -> tuple[re.Pattern[str], dict[str, dict[str, list[str]]]]:
    """Return a pattern of the first characters of all words, and by first character and kind what follows it."""
    words: dict[str, dict[str, list[str]]] = {}
    for kind, listed in _KOREAN.items():
        for word in listed.split():
            part = word.removeprefix("^")
            first, rest = part[0], part[1:].replace("~", r"\S{0,2}_").replace("_?", "_").replace("_", r"\s?")
            here = f"(?<![가-힣]{first})" if part != word else ""
            words.setdefault(first, {}).setdefault(kind, []).append(here + rest)
    return re.compile(rf"[{''.join(words)}]|\s|[.,!?;~]"), words


@lru_cache(None)
def _korean_pattern(first: str) -> re.Pattern[str]:
    """Return the pattern of the words with a first character; compiled when that occurs, since there are hundreds."""
    kinds = _korean_words()[1][first]
    return re.compile(
        first + "(?:" + "|".join(f"(?P<{kind}>{'|'.join(rests)})" for kind, rests in kinds.items()) + ")"
    )


KOREAN_FRAME = lazy_pattern(
    # Heard and read: 친절하다고 해서 갔는데, 저렴하다더니, 맛있다는 후기가 많아서.
    r"[다라]고\s?(?:해서|하길래|하셔서|하셨|들었|들어서|듣고|소문|유명|추천|그래서)|[다라자]더니|[다라]길래"
    r"|[다라]는\s?(?:말|얘기|소문|후기|리뷰|평)|소문"
    # Expected and feared: 조용할 줄 알았는데, 느끼할까 봐 걱정했는데, 밍밍한가 싶었는데, 넓어 보였는데.
    r"|[가-힣]\s?줄\s?알|까\s?봐|[거꺼]라\s?(?:믿|생각|기대)|[가까]\s?싶|보였|보이던|기대했는데|기대하고|걱정했|려고\s?했"
    # In the past: 예전에는 맛있었는데, 처음에는 친절했는데.
    r"|(?:예전|옛날|전에|처음|초반|한때|원래|그때)\S{0,2}\s.{0,40}(?:[았었했였]|던)"
)
"""What makes a frame of a Korean clause, if another clause follows it."""

KOREAN_UNREAL = lazy_pattern(
    r"면\s?(?:뭐\s?[하해합]|다[냐인]|무슨\s)|면\s.{0,60}(?:텐데|[을갈할줄올]\s?거(?:예요|에요|임|야|다)|[았었했였]을\s?)|[았었했였]을\s?텐데"
)
"""What would be good if (서비스가 좋았다면 별 다섯 개 줬을 거예요), or helps nothing (분위기만 좋으면 뭐하나)."""

KOREAN_ELSEWHERE = lazy_pattern(
    r"(?:옆|다른|딴|앞|근처|인근|건너편)\s?(?:집|가게|데|곳|식당|카페|지점)[이가은는]\s"
    r"|(?:편의점|마트|급식|구내식당|학식|기내식|집밥|인스턴트)\S*\s?\S*[이가]\s"
)
"""Another place as a subject, whose praise is blame of this one: 옆 가게가 훨씬 맛있어요."""

# English words; all words of the same stem count.
PRAISE = (
    "good great excellent excellant amazing awesome fantastic wonderful delicious tasty yummy perfect "
    "incredible best nice friendly attentive helpful fresh outstanding superb exceptional phenomenal "
    "fabulous delight delightful pleasant enjoy enjoyable recommend beautiful lovely romantic cozy "
    "reasonable affordable bargain worth impressed impressive love courteous polite prompt accommodating "
    "professional gracious knowledgeable divine terrific favorite favourite reliable exquisite elegant "
    "notch flavorful flavourful juicy tender inexpensive happy charming efficient spectacular fun decent "
    "memorable stellar unbelievable scenic impeccable gorgeous breathtaking stunning cheerful inviting "
    "welcoming comforting creative inventive flawless generous heavenly mouthwatering scrumptious "
    "succulent crispy moist balanced cheap steal spotless clean quiet smile caring genuine comfortable "
    "comfy relaxing spacious quaint vibrant lively ideal superior quick speedy swift seamless smooth "
    "satisfying satisfied pleased pleasure treat gem authentic homemade melted yum glad thank grateful "
    "fluffy hearty refreshing outgoing adorable"
)
BLAME = (
    "bad terrible horrible awful poor worst worse slow rude overpriced expensive pricey disappointing "
    "disappointed disappointment disappoint dissapoint dissapointing mediocre bland tasteless cold dry "
    "overcooked undercooked salty oversalted greasy soggy stale inedible loud noisy deafening crowded "
    "cramped crammed small tiny dirty ignored inattentive unfriendly arrogant rushed forgot forgotten "
    "wrong lack unprofessional limited annoying annoyed overrated ridiculous outrageous snobbish "
    "unaccommodating haughty hostile brusque indifferent disaster mistake error complaint complain "
    "problem shame sad sadly unfortunately yuck hungry unsatisfied substandard tired uncomfortable trap "
    "raw burnt burned mushy delay unavailable uninspired underwhelmed underwhelming horrendous pathetic "
    "exorbitant average boring bored meh blah confused steep stodgy stressed uninteresting negative "
    "unimaginative careless regret intrusive touristy tough fatty rubbery chewy gummy gluey slimy watery "
    "lukewarm wilted charred rancid sour flavorless unseasoned cockroach roach sick poisoning filthy "
    "sticky grimy dingy shabby worn outdated stuffy smoky freezing harsh nightmare jerk condescending "
    "dismissive snooty surly pushy curt sloppy clueless incompetent refused disappeared hated hate "
    "dislike waste fortune ruined gross disgusting nasty downhill avoid insulting insult scam shocking "
    "skimpy measly stingy disorganized chaotic understaffed letdown pretentious sketchy unacceptable "
    "unpleasant awkward"
)
_NOT = r"(?:not|\w+n't)"
_ENGLISH_PHRASES_OF_PRAISE = (
    rf"no complaints?|(?:can't|cannot|can not) (?:go wrong|beat|complain|wait to|say enough)|not a single bad"
    rf"|could(?:n't| not) (?:have been|be) (?:better|nicer|happier|more|any)|never (?:disappoints?|fails?)"
    rf"|never rush(?:ed)?|never lets? (?:us|me|you) down|hard to beat|second to none|to die for"
    rf"|nothing but (?:good|great|praise)|nothing (?:\w+ ){{0,3}}(?:did not|didn't|don't) (?:like|love|enjoy)"
    rf"|{_NOT} (?:have to )?wait\b|no wait\b|without (?:a|any) wait|{_NOT} (?:too|overly)|worth (?:it|every|the wait)"
    rf"|full of flavou?r|at home|(?:will|'ll|to) (?:definitely |certainly |surely )*(?:be back|return|(?:come|go) back)"
    rf"|right away|out of (?:their|her|his) way|on the house|comped|(?:better|cheaper|nicer|quieter|friendlier) than"
    rf"|fair(?:ly)? pric\w*|prices? (?:are|is|were|was) (?:\w+ )?fair|easy (?:to|parking|access)"
)
_ENGLISH_PHRASES_OF_BLAME = (
    rf"{_NOT} (?:be )?(?:worth|cheap|back|return|returning|recommend)|nothing special|stay away|rip(?:ped)?[ -]?off"
    rf"|never (?:be |to )?(?:again|came|come|coming|went|going|back|return|returning|recommend)"
    rf"|(?:better|cheaper|half the price) (?:\w+ ){{0,3}}(?:elsewhere|at|from|across|down|next)"
    rf"|(?:next door|elsewhere|(?:across|down) the street) (?:\w+ ){{0,2}}(?:better|cheaper)"
    rf"|there (?:are|is) (?:much )?better|expected (?:more|better)|worse than|left hungry|nowhere to be"
    rf"|had to (?:ask|wait|flag|beg|send)|ask(?:ed|ing)? (?:\w+ ){{0,2}}(?:twice|times|again|repeatedly)"
    rf"|took (?:forever|ages|over|an hour|\w+ minutes)|wait(?:ed|ing)? (?:\w+ ){{0,3}}(?:hours?|minutes|forever|ages)"
    rf"|(?:wait|line) (?:was|is) (?:\w+ )?long|long (?:wait|line)s?|lost (?:our|my|the) (?:order|reservation)"
    rf"|(?<!not )(?<!n't )\btoo (?!good\b|\W|$)|to expensive|charged (?:us|me) for|hair in (?:my|the|our)"
    rf"|tast(?:ed|es) like (?!home|heaven)|(?:drove|drives?) (?:us|me) crazy"
)
_ENGLISH_NOT = (
    r"not|no|never|without|hardly|nothing|none|nobody|neither|nor|cannot|barely|isn't|\w+n't"
    r"|(?:did|do|does|was|were|is|are|would|could|ca|wo|should|have|has|had)nt"
)

ENGLISH = lazy_pattern(
    r"\bnot (?=only\b|just\b)"
    f"|\\b(?:(?P<good>{_ENGLISH_PHRASES_OF_PRAISE})|(?P<bad>{_ENGLISH_PHRASES_OF_BLAME})"
    f"|(?P<before>{_ENGLISH_NOT}))\\b"
    r"|(?P<word>[a-z\u00df-\u024f]+(?:['-][a-z\u00df-\u024f]+)*)|(?P<close>[.,;:!?])"
    r"|(?P<face>[👍😋😍🥹❤♥💕🤤😊])|(?P<frown>[😡👎😤😠🤢🤮😭😱💸])"
)
"""Everything in an English clause that carries or turns an opinion, by the name of its group."""

ENGLISH_FRAME = lazy_pattern(
    r"\b(?:expect(?:ed|ing)|thought|hop(?:ed|ing)|feared|afraid|worried|heard|had read|supposed|assumed"
    r"|(?:they|people) say|used to|wanted to|high hopes|(?:was|were) told|in the past"
    r"|looks? (?:\w+ ){1,2}in (?:the )?(?:photo|picture)s?)\b"
)
"""What makes a frame of an English clause, if another clause follows it."""

ENGLISH_UNREAL = lazy_pattern(
    r"\b(?:could|would|might) (?:be|have been) .{1,80} if\b|\bif .{1,80} (?:would|could) have\b|\b(?:i|we) wish\b"
    r"|\bif only\b"
)
"""What would be good if."""

ENGLISH_DENIAL = lazy_pattern(
    r"\b(?:(?:i|we) (?:was|were) wrong|(?:is|was|were|did|could|do)(?:n't| not)\W*$|not any ?more|none of that"
    r"|not (?:the case|true)|not (?:my|our) experience)"
)
"""A clause that says only that the one before is not so."""
