"""Finds the value in a sentence that states exactly one: `She has 18 eggs left.`"""

from __future__ import annotations

import re

from r1pipe.rewards.mathematics.units import set_of, unit_named

MAX_SENTENCE = 240
"""Characters; what is longer explains rather than states."""

_NUMBER = r"\d+(?:,\d{3})*(?:\.\d+)?"
_FRACTION = r"\\[dt]?frac\s*\{[^{}]{1,20}\}\s*\{[^{}]{1,20}\}"
_CHAIN = r"(?:[$(]*\d[\d.,]*[)]*(?:\s?[-+*/x×÷·]\s?[$(]*\d[\d.,]*[)]*)+\s?=\s?)+"
_VALUE = re.compile(
    r"(?P<math>\$\$?[^$]{1,80}\$\$?|\\\([^()\\]{1,80}\\\))(?![\d])"
    rf"|(?P<plain>(?:{_CHAIN})?-?(?:\\?\$|[€£¥])?\s?-?(?:{_FRACTION}|{_NUMBER}"
    rf"(?:\s*/\s*\d+|\s?{_FRACTION}|\s\d+/\d+)?)(?:\s?\\?%|\s?[€£]"
    r"|\s?(?:[A-Za-z]{1,4}/[A-Za-z]{1,4}|[A-Za-z]{1,3}(?:[²³]|\^\{?[23]\}?))(?![A-Za-z])"
    r"|\s?°[CF]?)?)"
)
_LONE_MONEY = re.compile(r"\$\s?-?\d[\d,.]*(?![^$]*\$)")
_WORDS = re.compile(r"[A-Za-z]+(?:['’-][A-Za-z]+)*")
_ONLY_WORDS = re.compile(r"[A-Za-z'’,\s-]*")
_OPENERS = re.compile(
    r"\A\s*(?:so|thus|hence|therefore|then|finally|in conclusion|in total|altogether|overall"
    r"|this means(?: that)?|we (?:get|have|find|conclude)(?: that)?|as a result"
    r"|consequently)\b[\s,]*",
    re.IGNORECASE,
)
HEDGING = set_of(
    "hardly scarcely barely seldom rarely untrue doubtful doubt doubts deny denies denied refuses"
    " refused lacks lack lacking lacked unable "
    "not no none never neither nor nobody nothing cannot can't won't isn't aren't don't"
    " doesn't didn't wasn't weren't hasn't haven't hadn't wouldn't couldn't without except"
    " unlike fails false wrong incorrect mistaken impossible instead rather"
    " or either maybe perhaps possibly probably likely might may could would should must"
    " about approximately approx roughly nearly almost around close estimate estimated"
    " estimates guess guesses think thinks believe believes hope hopes wish wishes expect"
    " expected claims claimed says said thought seems appears least most between within"
    " exceeding exceeds beyond above below under over up-to rounded rounds"
    " if unless when whenever while whereas until suppose supposing assume assuming assumed"
    " let given provided whether because since although though but however"
    " what which who whom whose why how where that than"
    " more less fewer greater larger smaller bigger higher lower older younger longer shorter"
    " taller heavier lighter faster slower cheaper farther further another additional extra"
    " let's earlier later ago before after twice thrice half double doubles doubled triple triples"
    " quadruple times squared cubed percent per-cent percentage quarter third thirds fourth"
    " quarters halves dozen dozens hundred hundreds thousand thousands million millions"
    " billion billions one two three four five six seven eight nine ten eleven twelve thirteen"
    " fourteen fifteen sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty"
    " seventy eighty ninety zero first second both pair pairs several some other others few"
    " equation eq step problem question page figure fig table section example theorem lemma"
    " exercise chapter line row column item number-one option case answer-key hint solution-key"
    " day-one multiple multiples factor divisor divisible power root square-of remainder modulo"
    " mod digit digits ratio plus minus add subtract multiply divided and also then as to-date"
    " used-to opposite negative reciprocal inverse unsure uncertain incorrectly wrongly"
    " originally initially started starts began begins minus out original needs-not other-than"
    " dont doesnt didnt isnt wasnt cant wont"
)
_STOP_BEFORE = set_of(
    "first last part version level grade room number no route bus flight highway gate day year"
    " week month hour floor stage round game team group channel size model unit block"
)
_VERBS = set_of(
    "approaches converge tend "
    "is are was were eaten driven written taken given drunk grown seen gone done met"
    " equals equal has have had gets get got gives give gave makes make made earns"
    " earn earned pays pay paid spends spend spent costs cost sells sell sold buys buy bought"
    " saves save saved needs need needed takes take took walks walk walked runs run ran drives"
    " drive drove travels travel traveled travelled rides ride rode flies fly flew sprints"
    " sprint reads read eats eat ate drinks drink drank uses use used weighs weigh weighed"
    " measures measure totals total receives receive received collects collect collected"
    " scores score scored wins win won loses lose lost owes owe owed charges charge charged"
    " contains contain holds hold held remain remains leaves leave left found finds find"
    " obtain obtains produces produce produced picks pick picked plants plant planted bakes"
    " bake baked cooks cook cooked writes write wrote draws draw drew counts count counted"
    " covers cover covered lasts last lasted swims swim swam climbs climb climbed grows grow"
    " grew gains gain gained donates donate donated raises raise raised invests invest"
    " invested washes wash washed fills fill filled feeds feed fed works work worked sees see"
    " saw catches catch caught sits seats seat carries carry carried delivers deliver delivered"
    " requires require required yields yield becomes become completes complete completed"
    " finishes finish finished add adds sums comes returns return returned keeps keep kept"
    " brings bring brought"
    " shares share gave sent sends send borrowed withdrew deposited jumped jumps jump cuts cut"
    " burned burns burn consumes consume consumed attended attend attends"
)
_DOING = set_of("like likes liked prefer prefers wear wears play plays passed own owns")
_ADVERBS = frozenset(
    [
        "exactly",
        "only",
        "just",
        "still",
        "now",
        "altogether",
        "together",
        "precisely",
        "also",
        "a",
        "an",
        "the",
        "all",
        "then",
    ]
)
_MEASURES = set_of(
    "total sum-total profit cost amount price distance area perimeter volume length width"
    " height average mean speed rate score age weight balance revenue income loss change fee"
    " tip bill salary wage payment value result answer probability circumference radius"
    " diameter median population capacity depth"
)
_GIVING = set_of("takes take took costs cost gives leaves saves")
_OBJECTS = set_of("him her them us me you it")
_UP_TO = frozenset(
    [
        "up",
        "comes",
        "come",
        "equal",
        "simplifies",
        "simplify",
        "reduces",
        "evaluates",
        "sums",
        "converges",
        "tends",
        "amounts",
        "adds",
        "totals",
    ]
)
_MONTH = (
    r"(?:January|February|March|April|May|June|July|August|September|October|November|December)"
)
_MONTHS = re.compile(
    rf"\b(?:in|of|during|for|from|since)\s+{_MONTH}(?:,?\s+(?:and|to|through|until)\s+{_MONTH})?\b"
)
_OUTCOME = re.compile(r"\b(?:works|comes|turns) out to(?: be)?\b")
_QUESTION_STARTS = set_of(
    "is are was were does do did has have had can could will would should how what which"
    " who why when where whether let suppose if"
)
_ENDS_NOUN = set_of(
    "of in for at per on to from every each a an the left remaining total altogether with by"
    " away together remain remains is are was were have has will during into this his her"
    " their its my our who that today tomorrow yesterday daily weekly monthly long wide tall"
    " high deep"
    " apiece after like likes passed"
)
_PER = frozenset(["per", "a", "an", "each", "every"])


def stated_value(text: str) -> str | None:
    """Return the value, with its unit, of a sentence that states one and nothing else.

    None for questions, negations, hedges, comparisons, conditions, references (`step 18`), two
    numbers, and arithmetic: where a word might change what the number says, nothing is read.
    """
    text = text.strip()
    if len(text) > MAX_SENTENCE or "?" in text or "\n" in text:
        return None
    text = _OUTCOME.sub("equals", _OPENERS.sub("", text).rstrip(" .!"))
    found = _only_value(text)
    if found is None:
        return None
    value, start, end = found
    before, after = text[:start], text[end:]
    if not (_ONLY_WORDS.fullmatch(before) and _ONLY_WORDS.fullmatch(after)):
        return None
    after = _MONTHS.sub("in June", after)
    before = _MONTHS.sub("in June", before)
    heads, tails = _WORDS.findall(before.lower()), _WORDS.findall(after.lower())
    if (
        HEDGING.intersection(heads)
        or (HEDGING - {"who", "that"}).intersection(tails)
        or len(tails) > 14
    ):
        return None
    if not (heads or tails) or after[:1].strip(" ,-") != "" or after.startswith("-"):
        return None
    if tails[-1:] == ["short"] or any(
        word.startswith("un") and word.endswith("ed") for word in tails
    ):
        return None
    if not heads and tails in (["of", "them"], ["of", "it"]):
        return value
    if not heads and tails[:1] == ["of"] and len(tails) == 3 and unit_named(tails[2]):
        return f"{value} {tails[2]}" if tails[1] in ("a", "an") else None
    if not (_introduces(heads) if heads else (_VERBS | _DOING).intersection(tails[1:])):
        return None
    if "=" in value:
        value = re.sub(r"(?<=\d)\s?x\s?(?=\$?\d)", "*", value).replace("$", "")
    return f"{value} {_unit(tails)}".strip()


def _only_value(text: str) -> tuple[str, int, int] | None:
    """Return the one value of a text and its place, None where there is none or a second."""
    money = _LONE_MONEY.search(text)
    found = list(_VALUE.finditer(text))
    if money and len(found) == 1 and text.count("$") == 1:
        return found[0].group().strip(), *found[0].span()
    if len(found) != 1:
        return None
    match = found[0]
    value = match["math"] or match["plain"]
    if match["math"] and re.search(r"[=<>]|\\[lg]eq?\b|\\approx|\\text|\\sim|\w{4,}\s", value):
        return None
    return value.strip(), *match.span()


def _introduces(heads: list[str]) -> bool:
    """True where the words in front of a value end in a verb that states it."""
    if "can" in heads and heads[-1] in ("be", "equal", "equals", "have", "can"):
        return False
    if heads[0] in _QUESTION_STARTS or _STOP_BEFORE.intersection(heads[-1:]):
        return False
    rest = list(heads)
    while rest and rest[-1] in _ADVERBS:
        rest.pop()
    if len(rest) < 2:
        # A verb alone is an order: `Take 18 from both sides`.
        return False
    for length in (1, 2):
        verb, objects = rest[-length - 1 : -length or None][:1], rest[-length:]
        if verb and (
            (length == 1 and objects[0] in _OBJECTS and verb[0] in _VERBS)
            or (verb[0] in _GIVING and (length == 1 or objects[0] in ("the", "a", "his", "her")))
        ):
            del rest[-length:]
            break
    last, before = rest[-1], rest[-2] if len(rest) > 1 else ""
    if last == "of":
        return before in _MEASURES and (before != "total" or len(rest) > 1)
    if last == "to":
        return before in _UP_TO and len(rest) > 2 and (before != "up" or rest[-3] in _VERBS)
    if last == "with":
        return before in ("up", "left")
    if last in ("for", "in", "at"):
        return bool(_VERBS.intersection(rest[:-1])) and "answer" not in rest
    return last in _VERBS and not ("answer" in rest and last in ("has", "have", "contains"))


def _unit(tails: list[str]) -> str:
    """Return the unit or noun that directly follows a value, with `per hour` behind it."""
    noun: list[str] = []
    for at, word in enumerate(tails):
        if word in _PER and at + 1 < len(tails) and unit_named(tails[at + 1]) and noun:
            return " ".join([*noun, "per", tails[at + 1]])
        if word in _ENDS_NOUN or len(noun) == 4:
            break
        noun.append(word)
    return " ".join(noun)
