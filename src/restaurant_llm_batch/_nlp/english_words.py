"""
English part-of-speech guesser: base form and part of speech from lists, endings and the preceding word.

Lists cover the common words of reviews, and endings many others (-ful, -ous, -ly). Otherwise the preceding word
decides: "was very" precedes an adjective, "we" a verb. Anything else counts as a noun.
"""

from __future__ import annotations

from .reading import GUESS, LIKELY, SURE, PartOfSpeech, WordAnalysis, word_set
from .terms import stem_english, terms

_MAX_LENGTH = 30
_LONG = 5
"""Letters from which an unknown word in -ed or -ing is a verb (hated, tried), not a noun (bread)."""

_ADJECTIVES = word_set(
    "good great excellent amazing awesome fantastic wonderful delicious tasty yummy perfect incredible best nice "
    "friendly attentive helpful fresh outstanding superb exceptional phenomenal fabulous delightful pleasant "
    "beautiful lovely romantic cozy reasonable affordable courteous polite prompt accommodating professional "
    "gracious knowledgeable divine terrific favorite reliable exquisite elegant flavorful juicy tender inexpensive "
    "happy charming efficient spectacular decent memorable stellar unbelievable scenic impressive bad terrible "
    "horrible awful poor worst slow rude overpriced expensive pricey disappointing disappointed mediocre bland cold "
    "dry overcooked undercooked salty greasy soggy stale loud noisy crowded cramped small tiny dirty inattentive "
    "unfriendly arrogant wrong limited annoying overrated ridiculous hungry tired uncomfortable raw burnt "
    "unavailable uninspired pathetic average boring hot warm spicy sweet sour bitter crispy crunchy creamy rich "
    "light heavy big huge large little long short new old young high low early late fast quick quiet clean cheap "
    "full busy empty special local authentic traditional italian french chinese japanese korean mexican american "
    "indian thai greek spanish asian whole different similar sure able ready worth fun cool soft tough rare medium "
    "fried grilled baked roasted smoked steamed homemade seasonal main extra super real true easy hard simple open "
    "fine okay ok live outdoor indoor upscale trendy classic casual intimate pretty many few several last first "
    "next second better worse bigger smaller well-cooked free generous unique fancy black white red green "
    "usual worthy extraordinary important appropriate interesting lukewarm marginal vibrant stressed "
    "substandard unsatisfied underwhelmed overrated horrendous crappy uninterested lousy bright dark"
)
_ADVERBS = word_set(
    "always never often sometimes usually really quite rather almost already still yet soon later again together "
    "twice maybe perhaps well instead however else nearby ever though away definitely"
)
# Words that are indexed for search, but useless in a vocabulary.
_EMPTY = word_set(
    "like one two three four five six seven eight nine ten despite during besides except without within across along "
    "among around behind toward towards since per via although unless whether may might shall nor either neither "
    "everyone someone anyone nobody everybody somebody everything something anything nothing many few several "
    "really just even back way lot lots bit let hey lol thing things able sure first last next second ever "
    "though yet still already perhaps maybe else however instead should must today each another between due etc "
    "enough ago overall going gone must being yes its ours those any all both"
)
_LY_ADJECTIVES = frozenset(
    ("friendly", "lovely", "early", "daily", "ugly", "unfriendly", "lively", "costly", "homely")
)
_LY_NOUNS = frozenset(("family", "jelly", "belly", "assembly", "reply", "supply"))
_BASES = (
    "order serve arrive taste love enjoy recommend wait ask try want visit return come go eat drink dine pay cost "
    "charge bring take make give get tell say feel think know find look seem leave stay sit seat start finish share "
    "cook bake fry grill roast season refill clean clear check call book reserve cancel change offer include expect "
    "need help greet welcome smile ignore forget remember apologize explain suggest impress disappoint surprise "
    "celebrate plan decide choose pick walk drive park move keep let put use work live hear see watch smell complain "
    "hate ruin regret stand burn become begin run turn send spend hope wish believe understand deserve lack improve "
    "exceed treat attend"
)
_VERBS = {stem_english(base): base for base in _BASES.split()}
_IRREGULAR = {
    form: base
    for base, forms in {
        "come": "came", "go": "went gone", "eat": "ate eaten", "drink": "drank", "pay": "paid", "bring": "brought",
        "take": "took taken", "make": "made", "give": "gave given", "tell": "told", "say": "said", "feel": "felt",
        "think": "thought", "know": "knew known", "find": "found", "leave": "left", "sit": "sat", "forget": "forgot "
        "forgotten", "choose": "chose chosen", "drive": "drove", "keep": "kept", "hear": "heard", "see": "saw seen",
        "become": "became", "begin": "began begun", "run": "ran", "send": "sent", "spend": "spent",
        "understand": "understood",
        "stand": "stood", "lose": "lost", "sell": "sold", "hold": "held", "mean": "meant",
    }.items()
    for form in forms.split()
}  # fmt: skip
# Words that are both verbs and nouns; the preceding word decides.
_BOTH = word_set("order drink seat taste look start change book help plan walk work park check visit cost")
_NOUNS = word_set(
    "evening morning pudding dressing wedding dumpling lighting seating building ceiling stuffing topping frosting "
    "icing serving filling setting parking wing thing nothing something everything anything ring king spring "
    "string sibling bed bread shed food wood weed seed breed curry gravy berry party city pastry brewery bakery "
    "salmon lemon meal deal detail portal rental arrival total hospital festival cocktail olive table vegetable "
    "principle relish dish fish radish"
)
_ADJECTIVE_ENDINGS = ("ful", "ous", "able", "ible", "less", "ive", "ish", "ical", "ional", "ic")
_PLURAL_ONLY = frozenset(("fries", "tapas", "grits", "news", "series", "hors", "lens", "calamari"))
_AFTER_VERB = word_set(
    "i we you they he she it who to would will could can should must might didn't don't doesn't won't couldn't "
    "can't wouldn't never always also"
)
_AFTER_ADJECTIVE = word_set(
    "is was were are be been very so too really quite extremely pretty incredibly super absolutely isn't wasn't "
    "weren't aren't more most felt seemed looked tasted"
)
_AFTER_NOUN = word_set(
    "the a an our my your their his her its this that these those of with for at from in no some any each every"
)


def read(token: str, before: str) -> tuple[str, WordAnalysis | None]:
    """
    Analyze a word form.

    Args:
        token: The word, in lower case.
        before: The preceding word, or "".

    Returns:
        The stem, equal for all forms of a word, and the analysis; None for function words.
    """
    plain = token.replace("’", "'").removesuffix("'s")
    if not 2 < len(plain) <= _MAX_LENGTH or "'" in plain or plain in _EMPTY or not terms(plain):
        return plain[:_MAX_LENGTH], None
    if (
        before in _AFTER_VERB
        and plain.endswith("s")
        and stem_english(plain) in _VERBS
        and plain not in _NOUNS
    ):
        return stem_english(plain), WordAnalysis(_VERBS[stem_english(plain)], "v", LIKELY)
    base = _IRREGULAR.get(plain)
    if base:
        return stem_english(base), WordAnalysis(base, "v", SURE)
    stem = stem_english(plain)
    return stem, _from_lists(plain, stem, before) or _from_ending(plain) or _from_context(plain, before)


def _from_lists(word: str, stem: str, before: str) -> WordAnalysis | None:
    if word in _ADJECTIVES:
        return WordAnalysis(word, "adj", SURE)
    if word in _ADVERBS:
        return WordAnalysis(word, "adv", SURE)
    if word in _PLURAL_ONLY:
        return WordAnalysis(word, "n", SURE)
    base = _VERBS.get(stem)
    if base and base not in _BOTH and word not in _NOUNS:
        return WordAnalysis(base, "v", SURE)
    if base and (before in _AFTER_VERB or word.endswith(("ed", "ing"))):
        return WordAnalysis(base, "v", LIKELY)
    singular = _singular(word)
    return WordAnalysis(singular, "n", LIKELY) if base or singular in _NOUNS else None


def _from_ending(word: str) -> WordAnalysis | None:
    if word.endswith("ly") and len(word) > 4 and word not in _LY_NOUNS:
        return WordAnalysis(word, "adj" if word in _LY_ADJECTIVES else "adv", SURE)
    if word.endswith(_ADJECTIVE_ENDINGS) and len(word) > 5:
        return WordAnalysis(word, "adj", LIKELY)
    return None


def _from_context(word: str, before: str) -> WordAnalysis | None:
    pos: PartOfSpeech = "n"
    if before in _AFTER_ADJECTIVE and not word.endswith(("s", "ing")):
        pos = "adj"
    elif (
        word.endswith(("ed", "ing")) and len(word) > 5 and before not in _AFTER_NOUN
    ) or before in _AFTER_VERB:
        pos = "v"
    return WordAnalysis(
        word if pos != "n" else _singular(word), pos, LIKELY if before in _AFTER_NOUN else GUESS
    )


def _singular(word: str) -> str:
    if len(word) < 4 or word in _PLURAL_ONLY or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    return word[:-2] if word.endswith(("sses", "shes", "ches", "xes", "zzes", "toes")) else word[:-1]
