"""Answers in words: plain text, and the letters of multiple choice."""

from __future__ import annotations

import re
import unicodedata

from r1pipe.rewards.mathematics.units import set_of

_PUNCTUATION = re.compile(r"[\s.,;:!?\"'`´’‘“”«»*$~_()\[\]{}-]+")
_ARTICLES = frozenset(["a", "an", "the"])
_TEXT_COMMAND = re.compile(
    r"\\(?:text(?:bf|it|rm|normal|sf|tt|up)?|mathrm|mathbf|mbox|hbox|emph|operatorname"
    r"|boldsymbol|bf"
    r"|rm|it|quad|qquad|left|right)(?![a-zA-Z])|\\[ ,;:!]"
)
_BRACKETS = str.maketrans("【】〔〕「」", '[][]""')
_INDEX = re.compile(r"(?<=[A-Za-z])_\{?(\d+)\}?")
_ORDINAL_TEXT = re.compile(r"(\d)\s*\\text\s*\{\s*(st|nd|rd|th)\s*\}")
_LEADING = frozenset(["on", "in", "at", "it", "they", "he", "she"])
_ORDINALS = {
    word: str(number) + {1: "st", 2: "nd", 3: "rd"}.get(number, "th")
    for number, word in enumerate(
        [
        "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth",
        "tenth", "eleventh", "twelfth", "thirteenth", "fourteenth", "fifteenth", "sixteenth",
        "seventeenth", "eighteenth", "nineteenth", "twentieth",
    ],
        start=1,
    )
}  # fmt: skip
_LONG_WORD = re.compile(r"[^\W\d_]{2,}")
_CODE = re.compile(r"[^\W\d_]\d\w*")
"""`H2O`, `R2D2`: letters and digits in one name."""
_MARKUP = re.compile(r"[\\^_=<>+*/|]|\d\s*[(\[{]")

_LETTER = r"[A-Ja-j]"
_CHOICE = re.compile(
    rf"(?:(?:the\s+)?(?:option|choice|answer|letter|choose|pick|select|选项|选择|选)\s*:?\s*)?"
    rf"(?:\(\s*(?P<round>{_LETTER})\s*\)|\[\s*(?P<square>{_LETTER})\s*\]"
    rf"|(?P<bare>{_LETTER})(?=\s*[).:：、项]|\s+-\s|\s*\Z))\s*(?:[).:：、]|-(?=\s))?\s*(?P<rest>.*)",
    re.IGNORECASE | re.DOTALL,
)
_MARKERS = re.compile(
    r"\(\s*([A-Ja-j])\s*\)|(?<![A-Za-z])([A-J])[).:](?=\s|\Z)"
    r"|\b(?:or|and|not)\s+(?:option\s+)?\(?([A-J])\b|(?<=[/,&])\s*([A-J])(?=\s*\Z)"
)
_SEPARATORS = re.compile(r"\s*(?:,|;|/|&|\band\b|、|和)\s*|\s+", re.IGNORECASE)
_AROUND_LETTERS = re.compile(
    r"\A(?:both|options?|choices?|answers?)\s*:?\s+|\s+only\Z", re.IGNORECASE
)
_ONE_LETTER = re.compile(rf"\(?\s*({_LETTER})\s*\)?\.?")
_RUN = re.compile(r"[A-J]{2,10}")
_ROUND_RUN = re.compile(rf"(?:\(\s*{_LETTER}\s*\)\s*){{2,10}}")


def plain(text: str) -> str:
    r"""Return the text without text commands, braces and dollars: `\text{(B)}` becomes `(B)`."""
    text = unicodedata.normalize("NFKC", text).translate(_BRACKETS)
    text = _ORDINAL_TEXT.sub(r"\1\2", _INDEX.sub(r"\1", text))
    text = _TEXT_COMMAND.sub(" ", text)
    return " ".join(re.sub(r"[{}$]|\*\*|\\[()\[\]]", " ", text).split())


def words_of(text: str) -> str:
    """Return the words that are compared: casefolded, no articles, no punctuation.

    A text of a letter or two keeps its case: `a` and `A` are names in mathematics.
    """
    text = plain(text)
    words = _PUNCTUATION.sub(" ", text).split()
    if not _LONG_WORD.search(text) or sum(map(len, words)) <= 2:
        folded = " ".join(words)
        return folded.casefold() if folded.casefold() in ("no", "ok") else folded
    words = [word.casefold() for word in words]
    kept = [_ORDINALS.get(word, word) for word in words if word not in _ARTICLES]
    if len(kept) > 1 and kept[0] in _LEADING:
        kept = kept[1:]
    return " ".join(kept or words)


_KINDS = set_of(
    "triangle triangles quadrilateral function functions number numbers angle angles line lines"
    " method equation equations sequence series polygon parallelogram matrix vectors events"
    " event variable variables relation relationship growth decay set"
)
_ADJECTIVES = set_of(
    "isosceles equilateral scalene acute obtuse right equiangular even odd linear quadratic"
    " cubic exponential logarithmic constant periodic increasing decreasing bijective injective"
    " surjective one-to-one rational irrational prime composite real imaginary complex parallel"
    " perpendicular skew intersecting coincident vertical horizontal supplementary complementary"
    " adjacent straight reflex arithmetic geometric harmonic convergent divergent regular convex"
    " concave cyclic independent dependent mutually-exclusive continuous discrete similar"
    " congruent positive negative whole natural singular invertible symmetric orthogonal"
    " inconsistent consistent monotonic bounded finite infinite substitution elimination"
)
"""What a noun that only repeats the kind of thing may follow: `isosceles triangle`."""
_VERDICTS = frozenset(["yes", "no", "true", "false"])
_AGAINST = {
    "yes": {"no", "not", "false"}, "true": {"no", "not", "false"}, "no": {"yes", "true"},
    "false": {"yes"},
}  # fmt: skip
_PREDICATES = frozenset(["converges", "diverges", "increases", "decreases", "exists"])
_ENUMERATION = re.compile(r"\s*,\s*(?:and\s+)?|\s+and\s+|\s*、\s*|\s*和\s*")


def same_text(answer: str, gold: str) -> bool:
    """True for the same words; `Alice and Bob` has no order, `Yes, it is` is Yes."""
    wanted, given = words_of(gold), words_of(answer)
    if wanted == given:
        return True
    adjective, _, kind = given.partition(" ")
    if adjective == wanted and kind in _KINDS and wanted in _ADJECTIVES:
        return True
    if wanted in _VERDICTS:
        first, comma, rest = plain(answer).partition(",")
        others = set(words_of(rest).split())
        against = {"but", "or", "however", "maybe"} | _AGAINST[wanted]
        return bool(comma) and words_of(first) == wanted and not others & against
    if wanted in _PREDICATES:
        subject = given.removesuffix(wanted).split()
        return given.endswith(wanted) and len(subject) == 1
    parts = [sorted(map(words_of, _ENUMERATION.split(plain(text)))) for text in (answer, gold)]
    return len(parts[1]) > 1 and parts[0] == parts[1] and "or" not in given.split()


def is_plain_text(text: str) -> bool:
    """True for words without any mark-up of mathematics."""
    text = plain(text)
    if _MARKUP.search(text):
        return False
    wide = any(char > "\u2e80" and char.isalpha() for char in text)
    return wide or bool(_LONG_WORD.search(text) or _CODE.fullmatch(text))


def choice(text: str) -> tuple[str, str] | None:
    """Return the letter of a multiple-choice answer and the text behind it; None without one."""
    text = plain(text)
    match = _CHOICE.fullmatch(text)
    if match is None:
        return None
    letter = (match["round"] or match["square"] or match["bare"]).upper()
    rest = match["rest"].strip().removeprefix("项")
    if rest.casefold() in ("wrong", "incorrect", "no", "not"):
        return None
    for marker in _MARKERS.finditer(rest):
        other = next(group for group in marker.groups() if group)
        if other.upper() != letter:
            return None
    return letter, rest


def gold_choice(text: str) -> tuple[str, str] | None:
    """Return the letter of a gold answer that is one: a capital, or a letter in brackets."""
    found = choice(text)
    if found is None:
        return None
    bare = plain(text)
    if found[1] and not re.match(r"\(?[A-Ja-j]\)|[A-J][.:]\s|option|choice", bare, re.IGNORECASE):
        return None
    if len(bare) == 1 and bare.islower():
        return None
    return found


def letters(text: str, of_gold: bool = False) -> frozenset[str] | None:
    """Return several choice letters, `AC`, `A, C`, `(A) and (C)`; None for anything else."""
    text = plain(text)
    text = _AROUND_LETTERS.sub("", text)
    if _RUN.fullmatch(text):
        if len(text) > 2 and not of_gold and list(text) != sorted(text):
            # `CBA` may be an order; only two letters, or letters in a list, are a plain choice.
            return None
        ordered = list(text) == sorted(set(text))
        return frozenset(text) if ordered or not of_gold else None
    if _ROUND_RUN.fullmatch(text):
        return frozenset(char.upper() for char in text if char.isalpha())
    parts = [part for part in _SEPARATORS.split(text) if part]
    if not 2 <= len(parts) <= 10:
        return None
    found: set[str] = set()
    for part in parts:
        match = _ONE_LETTER.fullmatch(part)
        if match is None or (of_gold and not match[1].isupper()):
            return None
        found.add(match[1].upper())
    return frozenset(found) if len(found) == len(parts) else None


_SAME_WORDS = {
    "\\emptyset ": "has no solutions|the equation has no solutions|no solution"
    "|no solutions|no real solution|no real solutions|none exist"
    "|empty set|the empty set|null set|there is no solution|there are no solutions|no such x"
    " exists"
    "|has no solution|no real roots|no real root|无解|空集|方程无解|keine lösung|leere menge"
    "|pas de solution|aucune solution|ensemble vide|sin solución|conjunto vacío|нет решений"
    "|пустое множество|no solution exists|no solutions exist",
    "\\mathbb{R}": "all real numbers|all reals|the real numbers|real numbers|all real values"
    "|every real number|any real number|set of all real numbers|the set of all real numbers"
    "|the set of real numbers|全体实数|所有实数|实数集|alle reellen zahlen",
    "\\infty ": "infinity|positive infinity|plus infinity|unendlich|无穷大|无穷|infini"
    "|diverges to infinity|diverges to positive infinity|tends to infinity"
    "|goes to infinity|increases without bound|approaches infinity|正无穷|正无穷大",
    "-\\infty ": "negative infinity|minus infinity|负无穷"
    "|diverges to negative infinity|tends to negative infinity"
    "|decreases without bound|approaches negative infinity|goes to negative infinity",
    "does not exist": "dne|doesn't exist|the limit does not exist|it does not exist|不存在"
    "|limit does not exist|limit doesn't exist|the limit doesn't exist",
    "infinitely many solutions": "infinite solutions|infinitely many|infinite number of solutions"
    "|there are infinitely many solutions|无穷多解|无数解|infinite many solutions",
}
_MEANING = {
    words_of(phrase): meaning for meaning, phrases in _SAME_WORDS.items()
    for phrase in phrases.split("|")
}  # fmt: skip


_EXCEPT = re.compile(
    r"all (?:real numbers|reals|real values)(?: of)?(?: [a-z])? (?:except|other than|but)(?: for)?"
    r"(?: [a-z]\s*=)? (.{1,40})",
    re.IGNORECASE,
)


_SHARE = re.compile(r"\$?(\d{1,9})\$?\s+(?:out of|in)\s+\$?(\d{1,9})\$?")
"""`1 out of 6`."""


_COMPARED = re.compile(
    r"(?P<all>all\s+)?(?:real\s+)?(?:numbers?\s+|values\s+(?:of\s+)?)?(?P<name>[a-z]\s+)?"
    r"(?:is\s+|are\s+|that\s+are\s+)?"
    r"(?P<sign>(?:strictly\s+)?(?:greater|less)\s+than(?:\s+or\s+equal\s+to)?"
    r"|[<>≤≥])\s*(?P<bound>.+)",
    re.IGNORECASE | re.DOTALL,
)


def meaning_of(text: str) -> str:
    """Return the mathematics that a set phrase stands for (`no solution`), else the text."""
    if len(text) > 100:
        return text
    share = _SHARE.fullmatch(text.strip())
    if share and int(share[1]) <= int(share[2]) != 0:
        return f"{share[1]}/{share[2]}"
    compared = _COMPARED.fullmatch(text.strip())
    if compared and (compared["all"] or compared["name"]):
        sign = ">" if "greater" in compared["sign"] or compared["sign"] in ">≥" else "<"
        if "equal" in compared["sign"] or compared["sign"] in "≥≤":
            sign = {">": "\\ge ", "<": "\\le "}[sign]
        if compared["name"]:
            return f"{compared['name']} {sign} {compared['bound']}"
        return f"\\{{ x | x {sign} {compared['bound']} \\}}"
    without = _EXCEPT.fullmatch(text.strip())
    if without:
        return f"\\mathbb{{R}} \\setminus \\{{ {without[1]} \\}}"
    return _MEANING.get(words_of(text), text)


_QUOTIENT = re.compile(
    r"([+-]?)0*(\d+)\s*(?:r|rem\.?|,?\s*(?:with )?(?:a )?remainder(?: of)?|余)\s*0*(\d+)",
    re.IGNORECASE,
)


def quotient(text: str) -> tuple[str, str] | None:
    """Return quotient and remainder of `25r3` or `25 remainder 3` as digits, else None."""
    match = _QUOTIENT.fullmatch(plain(text))
    return (match[1] + match[2], match[3]) if match else None
