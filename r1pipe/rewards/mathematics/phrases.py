"""Finds the answer in what is written around it: boxes, phrases, quotes, bold type, full stops."""

from __future__ import annotations

import re
import unicodedata

from r1pipe.rewards.mathematics import sentences
from r1pipe.rewards.mathematics.spelling import BOLD
from r1pipe.rewards.mathematics.units import unit_named

_BRACE = re.compile(r"(?<!\\)[{}]")
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_MARK = "####"

_HEDGES = frozenset(
    [
        "approx", "rounded", "estimate", "estimated", "if", "suppose", "none", "nothing",
        "nobody", "nowhere", "нет", "меньше", "больше", "около", "mehr", "weniger", "moins",
        "menos", "más", "không", "hoặc", "could", "might", "may", "can", "can't", "cannot",
        "would", "won't", "wasn't", "weren't", "not", "or", "either", "neither", "never", "nor",
        "cannot", "isn't", "isnt", "aren't", "doesn't", "don't", "maybe", "perhaps", "possibly",
        "probably", "between", "less", "more", "than", "least", "most", "about", "approximately",
        "roughly", "nearly", "almost", "around", "no", "false", "wrong", "incorrect", "unless",
        "except", "other", "half", "twice", "double", "triple", "guess", "if", "unlike",
        "should", "thinks", "believes", "claims", "wants", "hopes", "says", "fewer", "suppose",
        "supposing", "assume", "assuming", "without", "不", "不是", "或", "或者", "大约", "约",
        "nicht", "kein", "pas", "non", "ni", "ne",
        "o", "ou", "oder", "не", "или", "one", "some", "opposite", "negative", "minus", "plus",
        "squared", "reciprocal", "inverse", "unsure",
    ]
)  # fmt: skip
_FOREIGN_HEDGES = (
    "可能", "比", "倍", "如果", "假设", "若", "第", "至少", "至多", "最多", "超过",
    "不足", "接近", "吗",
    "也许", "大概", "不", "非", "没", "未", "或", "约", "小于", "大于", "ない", "または",
    "아니", "또는", "ليس", "أو",
    "नहीं", "या ", "ไม่", "หรือ", "لا ",
)  # fmt: skip
_VERB = (
    r"(?:is|are|equals|equal|was|were|be|has|have|had|gives|give|get|gets|find|obtain|got|contains"
    r"|paid|spent|bought|sold|earned|made|makes|received|scored|walked|drove|ran|read|ate|used"
    r"|cost"
    r"|measures|totals|yields|holds|requires|remain|remains|choose|chose|pick|select|costs"
    r"|needs|earns|takes|weighs|est|sont|ist|sind|es|son|é|равно|равен|равна|это|becomes|(?:in"
    r"|de)creased by|rose by|fell by|grew by|reste|restent|met|mettent|y a|(?<=[Ii]l )a"
    r"|(?<=[Ee]lle )a|ont|coûte|vaut|mesure"
    r"|dure|parcourt|reçoit|hat|haben|kostet|kosten|bleiben|bleibt|beträgt|braucht|verdient|gibt"
    r"|tiene|tienen|quedan|queda|cuesta|cuestan|hay|gana|vale|custa|ha|costa|è|lautet|lauten"
    r"|ergibt sich|macht|sono)"
)
_SYMBOLS = r"\$[A-Za-z][A-Za-z +-]{0,15}\$|\\\([A-Za-z][A-Za-z +-]{0,15}\\\)"
"""A formula of letters alone, `$m+n$`."""
_LEAD = re.compile(
    rf"(?P<before>(?:[^\W\d_]|{_SYMBOLS})"
    rf"(?:[^\d$\\=<>()\[\]{{}}:_^|*/+]|{_SYMBOLS}){{0,200}}?)\b{_VERB}\b"
    r"(?:\s+(?:equal\s+to|égale?s?\s+à|gleich|igual\s+a|donc|also|quindi|de|exactly|simply|just|given\s+by|then"
    r"|therefore|thus|that)\b)?\s*:?\s*",
    re.IGNORECASE,
)
_LABEL = re.compile(
    r"(?:the\s+|my\s+|our\s+)?(?:final\s+|correct\s+|exact\s+|right\s+)*"
    r"(?:answer|ans\.?|result|solution|solutions|antwort|réponse|respuesta|risposta|resposta|ответ"
    r"|答案|答|解|结果|最终答案|ergebnis|lösung|résultat|resultado|output|value|conclusion)"
    r"\s*(?:\([^()]{0,20}\)\s*)?(?:[:：=→]|-(?=\s)|\s(?=[\d$\\(\[{*-]))\s*",
    re.IGNORECASE,
)
_CHINESE_LEAD = re.compile(
    r"[^\d$\\=<>()\[\]{}:：]{0,60}?(?:答案|结果|值|解)?(?:是|为|等于|：|共有|有|需要|得到|得|还?剩下?|剩余|一共|总共|共?需|共|要"
    r"|花了|用了|卖了|买了|赚了?|付了?)\s*[:：]?\s*"
)
_CONNECTIVE = re.compile(
    r"(?:so|thus|hence|therefore|then|finally|which means|that is|i\.e\.|and so|we (?:get|have"
    r"|find"
    r"|obtain)(?: that)?|it follows that|in conclusion|overall|clearly|yes|solution|exactly"
    r"|roots?:|solutions?:"
    r"|(?:the )?(?:points?|vectors?|interval|ordered pair|coordinates)(?=\s*[(\[{\\$<⟨])"
    r"|(?:the )?(?:cent(?:er|re)|vertex|midpoint|focus|coordinates|point|intersection|centroid)"
    r"(?: is)?(?: at)?(?=\s*\$?[(\\])"
    r"|\$?[fghp]\s*\([a-z]\)\$? is(?: an?)?"
    r"|at(?=\s*[(\[{\\$<⟨])|(?:the )?year(?=\s+\d)|an?(?=\s+\d)"
    r"|a total of|in total|(?:it|that)'s|⇒|⟹|→|=>|\\Rightarrow|因此"
    r"|所以|综上(?:所述)?|故|即|∴|\\therefore|=)(?=[\s,:，：]|(?<=[=∴故即以此述上e>⇒⟹→w]))[\s,:，：]*",
    re.IGNORECASE,
)
_NAMED_LABEL = re.compile(r"[^\d:：$\\=<>()\[\]{}+*/^|,;_]{2,40}[:：]\s*")
_FOREIGN_LEAD = re.compile(
    r"(?:(?:hay|tiene|tienen|quedan?|cuestan?|il faut)(?=\s+[$\d])|答えは|正解は|こたえは"
    r"|解は|정답은|답은|정답|คำตอบคือ|ตอบ"
    r"|đáp án là|đáp án|kết quả là|الجواب هو|الإجابة هي"
    r"|उत्तर है|उत्तर|odpowiedź|odpowiedź to"
    r"|cevap|yanıt|antwoord|jawaban|jawabannya adalah)[\s:：、]*",
    re.IGNORECASE,
)
_FOREIGN_TAIL = re.compile(
    r"(?<=\d种)不同的[\u4e00-\u9fff]{1,6}[。.]?\Z|"
    r"(?<=[\s\d}$)])\s*(?:です|である|だ|になります|입니다|이다|예요|이에요|है|হয়)[。.]?\Z"
)
_REASON = re.compile(r"[\s,]*(?:\\text\s*\{\s*)?(?:\(\s*)?\b(?:since|because)\b", re.IGNORECASE)
_GAP = r"(?:\\[ ,;:!]|\\q?quad(?![a-zA-Z])|[\s~])"
_ASIDE = re.compile(
    rf"{_GAP}+(?:\\text\s*\{{\s*)?(?:\((?=[^()\d]{{3}})[^\W\d_][^()\d\\$=]*\)"
    r"|\[(?=by |using |exact|simpl|in )[^\[\]()\d\\$=]*\])\s*\}?\Z"
)
_PROVED = re.compile(
    rf"(?<=\S)(?:{_GAP}|[.,;])+\$?(?:\\(?:blacksquare|square|qed|Box)|Q\.?E\.?D\.?)\s*\$?\Z"
)
_CONSTANT = re.compile(
    rf"(?:{_GAP}|[,;(]|\\text\s*\{{)+(?:(?:where|with|for|and)(?:{_GAP}|\}})*)?(?:any |some "
    rf"|every )?(?:constant )?"
    rf"\$?(?:[CcK](?:_1)?)\$?(?:{_GAP}|\}}|\\text\s*\{{)*"
    r"(?:is (?:an? |any |the )?(?:arbitrary |real )*(?:constant|number)(?: of integration)?"
    r"|(?:\\in(?![a-z])|∈)\s*(?:\\mathbb\s*\{?R\}?|ℝ|R))[\s)}]*\Z"
)
_UNIT_ASIDE = re.compile(
    r"(?<=[\d}])\s*[(（]\s*(?:\\(?:text|mathrm)\s*\{)?([a-z]{2,3}|[\u4e00-\u9fff]{1,4})\}?\s*[)）]\Z"
)
"""`9(cm)`."""
_DOMAIN = re.compile(
    rf"(?:{_GAP}|\\text\s*\{{)+(?:\(|(?:for|where|when|if|with|provided)(?:{_GAP}|\}}|that)+)\$?"
    r"([a-z]\s*(?:\\neq?(?![a-z])|≠|!=)[^<>=()]{1,20}?)\$?\)?\s*\Z"
)
_QUANTIFIER = re.compile(
    rf"(?:{_GAP}|,|\\text\s*\{{)*(?:for\s+(?:all|every|each|any)|\\forall(?![a-z])|∀)"
    rf"(?:{_GAP}|\}})*(?:(?:positive\s+|non-?negative\s+|natural\s+|real\s+)*(?:integers?|numbers?"
    rf"|reals?)(?:{_GAP}|\}})*)?\$?([a-z])(?:\s*(?:\\in(?![a-z])|∈)\s*(?:\\mathbb\s*\{{?[RZNQ]\}}?"
    r"|[ℝℤℕℚ])(?:[\^_]\{?[+*0]\}?)?)?[\s$)}}]*\Z".replace("}}", "}")
)
"""`f(n) = n + 1 for all n`."""
_FORM = re.compile(
    rf"{_GAP}*[\s,(]*(?:\\text\s*\{{)?[\s,(]*(?:when |if )?(?:(?:fully |completely"
    rf" )?(?:simplified|reduced|factored)"
    r"|(?:in|as)\s+(?:an?\s+|its\s+|the\s+)?(?:most\s+)?(?:simplest|lowest|simplified|reduced"
    r"|exact|interval"
    r"|standard|slope-intercept|factored|fractional|set|scientific|radical|polar|rectangular"
    r"|mixed|improper|simple)"
    r"\s+(?:radical\s+)?(?:form|terms|notation|number|fraction))[\s)}]*\Z",
    re.IGNORECASE,
)
_CONCLUSION = re.compile(
    r"(?:\\Rightarrow|\\implies|\\therefore|⟹|⇒|∴|=>|,\s*(?:so|therefore|thus|hence)\b)[\s,]*"
    r"((?:(?!\\Rightarrow|\\implies|⟹|⇒|=>).){1,200})\Z",
    re.DOTALL,
)
_TAG = re.compile(r"</?(?:b|i|strong|em|u|p|span|div|code)>", re.IGNORECASE)
_ALL_TEXT = re.compile(r"\\(?:text\w*|mbox)\s*\{([^{}]*\d[^{}]*|[^{}]*\banswer\b[^{}]*)\}")
_TEXT_LEAD = re.compile(r"\\text(?:bf|it|rm)?\s*\{([^{}]*[^\W\d_]{2}[^{}]*)\}\s*(?=\S)")
_TAIL = re.compile(
    r"[\s,]*(?:\b(?:which\s+)?(?:is|are)\s+(?:the|my|our)?\s*(?:final|correct|right|only)?\s*"
    r"(?:answer|solution|result|option|choice|one)s?|\bis\s+(?:correct|right)"
    r"|,\s*as\s+(?:required|desired|claimed|needed|requested)|,\s*which\s+completes\s+the\s+proof)[\s.!]*\Z",
    re.IGNORECASE,
)
_ANSWER_IS = re.compile(
    r"\banswer(?:\s+is|\s*:|\s+=|\s+therefore\s+is)\s*:?|答案(?:是|为|：|:)", re.IGNORECASE
)
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»", "`": "`", "「": "」"}


def boxes(text: str) -> list[tuple[int, int, str]]:
    r"""Return start, end and content of each outermost `\boxed{…}` that closes. Linear time."""
    found: list[tuple[int, int, str]] = []
    at = 0
    while match := _BOX.search(text, at):
        depth = 1
        for brace in _BRACE.finditer(text, match.end()):
            depth += 1 if brace.group() == "{" else -1
            if depth == 0:
                found.append((match.start(), brace.end(), text[match.end() : brace.start()]))
                at = brace.end()
                break
        else:
            return found
    return found


def unboxed(text: str) -> str:
    r"""Return the text with each `\boxed{…}` replaced by its content, also boxes in boxes."""
    for _ in range(4):
        found = boxes(text)
        if not found:
            break
        parts: list[str] = []
        at = 0
        for start, end, content in found:
            parts += [text[at:start], content]
            at = end
        text = "".join([*parts, text[at:]])
    return text


def only_box(text: str) -> str | None:
    """Return what the boxes of a text say, where all say the same and no word beside doubts it."""
    found = boxes(text)
    contents = {trim(content) for _, _, content in found}
    if len(contents) != 1:
        return None
    for start, end, _ in found:
        before = _words(text[max(0, start - 60) : start])[-2:]
        after = _words(text[end : end + 60])[:2]
        if _HEDGES & {*before, *after}:
            return None
    return contents.pop()


def trim(text: str) -> str:
    """Return the text without white space, quotes, bold marks and full stops around it."""
    before = None
    text = text[text.rfind(_MARK) + len(_MARK) :] if _MARK in text else text
    while text != before:
        before = text
        text = text.strip().strip("\u200b\ufeff")
        while text and _is_ornament(text[-1]):
            text = text[:-1].rstrip()
        while text and _is_ornament(text[0]):
            text = text[1:].lstrip()
        if text.endswith((".", "。", ",", ";", "，", "；", ":")) and not text.endswith(
            ("..", "\\,", "\\;", "\\:")
        ):
            text = text[:-1]
        if len(text) > 1 and _QUOTES.get(text[0]) == text[-1] and text[0] not in text[1:-1]:
            text = text[1:-1]
        text = BOLD.sub(r"\2", _TAG.sub("", text.lstrip("#")))
        worded = _ALL_TEXT.fullmatch(text)
        text = worded[1] if worded else text
        text = text[:-60] + _PROVED.sub("", text[-60:])
        for mark in ("**", "__", "*", "_", "$$", "$"):
            inner = text[len(mark) : -len(mark)]
            if (
                len(text) > 2 * len(mark)
                and text.startswith(mark)
                and text.endswith(mark)
                and mark not in inner
            ):
                text = inner
        for opening, closing in (("\\(", "\\)"), ("\\[", "\\]")):
            if text.startswith(opening) and text.endswith(closing) and opening not in text[2:]:
                text = text[2:-2]
    return text


def _is_ornament(char: str) -> bool:
    """True for check marks and other pictures."""
    return char == "∎" or (char >= "\u2600" and unicodedata.category(char) == "So")


def readings(text: str) -> list[str]:
    """Return the text and what is left of it when phrases around an answer are taken off."""
    found = [trim(text)]
    for _ in range(5):
        shorter = _without_phrase(found[-1])
        if shorter is None or not (shorter := trim(shorter)):
            break
        found.append(shorter)
    stated = (sentences.stated_value(one) for one in tuple(found))
    return [*found, *(value for value in stated if value)]


def _without_phrase(text: str) -> str | None:
    """Return the text without one phrase in front of or behind the answer, None without any."""
    for pattern in (_TAIL, _FOREIGN_TAIL, _FORM, _CONSTANT):
        tail = pattern.search(text[-80:])
        if tail and tail.group():
            return text[: len(text) - len(text[-80:]) + tail.start()]
    aside = _ASIDE.search(text[-80:])
    if aside and len(text) > len(aside.group()) and not _doubtful(aside.group()):
        return text[: len(text) - len(aside.group())]
    unit = _UNIT_ASIDE.search(text[-30:])
    if unit and unit_named(unit[1]):
        return f"{text[: len(text) - len(unit.group())]} {unit[1]}"
    everywhere = _QUANTIFIER.search(text[-80:])
    if everywhere:
        rest = text[: len(text) - len(everywhere.group())]
        if re.search(
            rf"[A-Za-z](?:\({everywhere[1]}\)|_\{{?{everywhere[1]}\}}?)\s*(?:=|\\equiv)", rest
        ):
            return rest
    domain = _DOMAIN.search(text[-80:])
    if domain:
        return f"{text[: len(text) - len(domain.group())]}, {domain[1]}"
    reason = _REASON.search(text)
    if reason and reason.start() and "?" not in text:
        return text[: reason.start()]
    worded = _TEXT_LEAD.match(text)
    if worded:
        return f"{worded[1]} {text[worded.end() :]}"
    for pattern in (_LABEL, _FOREIGN_LEAD, _CONNECTIVE):
        match = pattern.match(text)
        if match and match.end():
            return text[match.end() :]
    for pattern in (_LEAD, _CHINESE_LEAD, _NAMED_LABEL):
        match = pattern.match(text)
        if match and _describes_answer(match.group()):
            continue
        if match and match.group().endswith("used ") and text[match.end() :].startswith("to "):
            continue
        if match and match.end() and not _doubtful(match.group()):
            return text[match.end() :]
    conclusion = _CONCLUSION.search(text)
    if conclusion and not _doubtful(conclusion[1]):
        return conclusion[1]
    said = list(_ANSWER_IS.finditer(text))
    if len(said) == 1 and not _HEDGES & set(_words(text[: said[0].start()])[-4:]):
        return text[said[0].end() :]
    return None


def _describes_answer(text: str) -> bool:
    """True for `The answer has`, behind which its digits may be counted."""
    words = _words(text)
    return {"answer", "result", "solution"} & set(words) != set() and words[-1] in _HAS


_HAS = frozenset(["has", "have", "contains", "had", "needs", "requires"])


def _doubtful(text: str) -> bool:
    """True where a phrase denies or qualifies what it introduces."""
    if _HEDGES & set(_words(text)) or "used to " in text.lower():
        return True
    if text[:9].lower() in ("yesterday", "tomorrow ") and len(_words(text)) == 2:
        # `Tomorrow is Monday` is said on a Sunday.
        return True
    return not text.isascii() and any(hedge in text for hedge in _FOREIGN_HEDGES)


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)?", text.lower().replace("’", "'"))
