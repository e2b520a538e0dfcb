"""Cuts a cleaned text into numbers, names, words, commands and signs."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction

from r1pipe.rewards.mathematics.nodes import Node, Unreadable, num
from r1pipe.rewards.mathematics.number_words import merge_number_words
from r1pipe.rewards.mathematics.spelling import TIGHT_COMMA

MAX_DIGITS = 4000
"""`int` refuses more than 4,300 digits; longer numbers are compared as text."""
MAX_EXPONENT = 3000
"""Largest power of ten that e-notation may name."""
MAX_TOKENS = 3000


@dataclass(frozen=True)
class Token:
    """`kind`: num, sym (one letter), word, cmd (without its backslash), op or end."""

    kind: str
    text: str
    spaced: bool = False
    quoted: bool = False
    node: Node | None = None
    start: int = 0


_C = TIGHT_COMMA
_REPEATING = re.compile(
    r"(?P<head>\d*\.\d*)(?:\\(?:overline|bar|overbar)\s*\{\s*(?P<line>\d+)\s*\}"
    r"|\\(?:overline|bar)\s*(?P<bar>\d)"
    r"|\\dot\s*\{?\s*(?P<first>\d)\s*\}?(?:(?P<between>\d*)\s*\\dot\s*\{?\s*(?P<last>\d)\s*\}?)?"
    r"|\((?P<paren>\d+)\)(?![\d.])|\s?(?P<dots>\\dots))"
)
_THOUSANDS = (
    rf"\d{{1,3}}(?:{_C}\d{{3}})+|\d{{1,3}}(?:'\d{{3}})+|\d{{1,3}}(?:_\d{{3}})+"
    r"|\d{1,3}(?: \d{3})+(?!\s*/)"
)
_COMMAS = r"\d{1,3}(?:,\d{3})+|\d{1,2}(?:,\d{2})+,\d{3}"
_NUMBER = r"(?:\d+(?:\.\d+)?|\.\d+)"
_EXPONENT = r"[eE][+-]?\d{1,9}(?![\w.])"
_TAIL = rf"(?![\d{_C}])"
_LITERAL = re.compile(
    rf"(?P<dotted>\d{{1,3}}(?:\.\d{{3}}){{2,}}){_TAIL}"
    rf"|(?P<grouped>{_THOUSANDS}){_TAIL}(?P<tail>\.\d+)?"
    rf"|(?P<tight>\d+{_C}\d+){_TAIL}"
    rf"|(?P<plain>{_NUMBER})(?P<exponent>{_EXPONENT})?"
)
_DECIMAL_COMMA = re.compile(
    r"(?P<groups>\d{1,3}(?:\.\d{3})+|\d{1,3}(?: \d{3})+),(?P<part>\d{1,2})(?![\d,])"
)
_LITERAL_WITH_COMMAS = re.compile(rf"(?P<grouped>{_COMMAS})(?!\d|,\d|{_C})(?P<tail>\.\d+)?")
_HEX = re.compile(r"0([xob])([0-9a-fA-F]+)(?!\w)")
_LETTERS = re.compile(
    r"[^\W\d_]{2,}'[^\W\d_]+|[^\W\d_\u2e80-\uffff]+|[^\W\d_]+?(?=[a-zA-Z])|[^\W\d_]+"
)
_GREEK = re.compile(r"[\u0391-\u03c9](?![a-zA-Z\u00e0-\uffff])|[\u0391-\u03bb\u03bd-\u03c9]")
_COMMAND = re.compile(r"\\([a-zA-Z]+)")
_WIDE_COMMA = re.compile(r",\s")
_PREFIX_BASES = {"x": 16, "o": 8, "b": 2}
_BASE_WORDS = {
    "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "twelve": 12, "sixteen": 16,
}  # fmt: skip
_BASE_NAME = rf"(\d{{1,2}}|{'|'.join(_BASE_WORDS)})"
_BASED = re.compile(
    rf"(?:\((?P<inside>[0-9A-Fa-f]+)\)|(?P<digits>\d{{1,4}}(?:[ ,{_C}]\d{{3,4}})+(?=_)"
    rf"|[0-9A-Fa-f]+))"
    rf"(?:\s*_\s*(?:\\text\s*)?\{{?\s*(?:\\text\s*\{{)?\s*\(?(?:base )?{_BASE_NAME}\)?\s*\}}?\}}?"
    rf"|,?\s+\(?(?:in )?base[ -]{_BASE_NAME}\)?)(?!\w)"
)

FUNCTIONS = frozenset(
    [
        "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh",
        "tanh", "log", "ln", "lg", "exp", "gcd", "lcm", "max", "min", "det", "dim", "arg", "Re",
        "Im", "deg", "sgn", "cis",
    ]
)  # fmt: skip
_NAMED = FUNCTIONS | {"sqrt", "pi", "mod", "bmod", "pmod", "infty", "cbrt", "theta", "alpha",
                      "beta", "gamma", "lambda", "phi", "omega"}  # fmt: skip
_WORD_COMMANDS = {
    "infinity": "infty", "inf": "infty", "oo": "infty", "union": "cup", "arcsine": "arcsin",
    "tg": "tan", "asin": "arcsin", "acos": "arccos", "atan": "arctan", "modulo": "mod",
    "U": "cup", "degrees": "degree", "degree": "degree", "percent": "percent", "pct": "percent",
    "permille": "permille", "GCD": "gcd", "LCM": "lcm", "percents": "percent",
}  # fmt: skip
_SIGNS = "+-*/^_!%=<>()[],;:|&'.?\"@#$~`"


def tokens_of(text: str) -> list[Token]:
    """Return the tokens of a cleaned text; raises Unreadable on too many or too long ones."""
    return merge_number_words(_Reader(text).read())


class _Reader:
    def __init__(self, text: str) -> None:
        self.text, self.at, self.tokens = text, 0, list[Token]()
        self.depth = 0
        self.environments = 0
        self.wide_commas = bool(_WIDE_COMMA.search(text))
        self.text_ends: list[int] = []
        """How deep the braces were where each open `\\text{` began."""

    def read(self) -> list[Token]:
        text = self.text
        spaced = False
        while self.at < len(text):
            if len(self.tokens) > MAX_TOKENS:
                raise Unreadable("too many parts")
            char = text[self.at]
            if char == "\n":
                if self.depth == 0 and not self.environments:
                    self._add("op", "\n")
                self.at += 1
            elif char.isspace():
                self.at += 1
            else:
                self.spaced = spaced
                self._one(char)
                spaced = False
                continue
            spaced = True
        self._add("end", "")
        return self.tokens

    def _add(self, kind: str, text: str, node: Node | None = None) -> None:
        spaced = getattr(self, "spaced", False)
        self.tokens.append(Token(kind, text, spaced, bool(self.text_ends), node, self.at))

    def _one(self, char: str) -> None:
        if (char in "(ABCDEFabcdef" or char.isdecimal()) and self._based():
            return
        if char.isdecimal() or (char == "." and self.text[self.at + 1 : self.at + 2].isdecimal()):
            self._number()
        elif char == "\\":
            self._command()
        elif char.isalpha():
            self._letters()
        elif char in "{}":
            self._brace(char)
        elif char in _SIGNS:
            self.depth += (char in "([") - (char in ")]")
            self._add("op", char)
            self.at += 1
        elif char == TIGHT_COMMA:
            self._add("op", ",")
            self.at += 1
        else:
            raise Unreadable(f"unknown sign {char!r}")

    def _brace(self, char: str) -> None:
        self.at += 1
        if char == "{":
            self.depth += 1
            self._add("op", "{")
            return
        self.depth -= 1
        if self.text_ends and self.text_ends[-1] == self.depth:
            self.text_ends.pop()
            return
        self._add("op", "}")

    def _command(self) -> None:
        match = _COMMAND.match(self.text, self.at)
        if match is None:
            sign = self.text[self.at : self.at + 2]
            if sign not in ("\\\\", "\\{", "\\}"):
                raise Unreadable(f"unknown command {sign!r}")
            self._add("op", sign)
            self.depth += (sign == "\\{") - (sign == "\\}")
            self.at += 2
            return
        name = match.group(1)
        after = match.end()
        while self.text[after : after + 1] == " ":
            after += 1
        if name == "text":
            if self.text[after : after + 1] == "{":
                self.text_ends.append(self.depth)
                self.depth += 1
                after += 1
            self.at = after
            return
        self.environments += (name == "begin") - (name == "end")
        self._add("cmd", name)
        self.at = match.end()

    def _based(self) -> bool:
        """Read a number in a named base, `101_2` or `1F_{16}`; False where none stands here."""
        match = _BASED.match(self.text, self.at)
        if match is None or len(match.group()) > MAX_DIGITS:
            return False
        digits = (match["inside"] or match["digits"]).upper()
        if "," in digits and self.depth > len(self.text_ends):
            # Inside brackets a comma stands between two things.
            return False
        digits = re.sub(rf"[ ,{_C}]", "", digits)
        name = match[3] or match[4]
        base = _BASE_WORDS.get(name) or int(name)
        if not 2 <= base <= 36 or (len(digits) == 1 and digits.isalpha()):
            return False
        if any(int(digit, 16) >= base for digit in digits):
            return False
        self._add("num", match.group(), Node("base", (), (digits, base)))
        self.at = match.end()
        return True

    def _letters(self) -> None:
        greek = _GREEK.match(self.text, self.at)
        if greek:
            full = unicodedata.name(greek.group(), "")
            name = full.rpartition(" ")[2].lower()
            self._add("cmd", name.capitalize() if "CAPITAL" in full else name)
            self.at += 1
            return
        match = _LETTERS.match(self.text, self.at)
        assert match is not None
        run = match.group()
        end = match.end()
        if run in ("U",) and self.tokens and self.tokens[-1].text in (")", "]", "}", "\\}"):
            self._add("cmd", "cup")
        elif run in _NAMED:
            self._add("cmd", run)
        elif run in _WORD_COMMANDS and run != "U":
            self._add("cmd", _WORD_COMMANDS[run])
        elif len(run) == 1 and run.isascii() and (not self.text_ends or run in "eid"):
            self._add("sym", run)
        elif (split := _function_prefix(run)) and not self.text_ends:
            self._add("cmd", split)
            end = self.at + len(split)
        else:
            self._add("word", run)
        self.at = end

    def _number(self) -> None:
        text, at = self.text, self.at
        hexed = _HEX.match(text, at)
        if hexed:
            base = _PREFIX_BASES[hexed.group(1)]
            self._add("num", hexed.group(), Node("base", (), (hexed.group(2).upper(), base)))
            self.at = hexed.end()
            return
        repeating = _REPEATING.match(text, at)
        if repeating:
            self._add("num", repeating.group(), num(_repeating(repeating)))
            self.at = repeating.end()
            return
        top = self.depth == len(self.text_ends)
        match = None if not top else _DECIMAL_COMMA.match(text, at)
        if match is not None and match.end() - at < MAX_DIGITS:
            digits = re.sub(r"\D", "", match["groups"]) + "." + match["part"]
            self._add("num", match.group(), num(Fraction(digits)))
            self.at = match.end()
            return
        match = None
        if self.wide_commas or top:
            match = _LITERAL_WITH_COMMAS.match(text, at)
        match = match or _LITERAL.match(text, at)
        assert match is not None
        if match.end() - at > MAX_DIGITS:
            raise Unreadable("number too long")
        groups = match.groupdict()
        if groups.get("grouped"):
            digits = re.sub(r"\D", "", groups["grouped"]) + (groups["tail"] or "")
        elif groups.get("dotted"):
            digits = groups["dotted"].replace(".", "")
        elif groups.get("tight"):
            digits = groups["tight"].replace(TIGHT_COMMA, ".")
        else:
            digits = groups["plain"]
        value = Fraction(digits)
        if groups.get("exponent"):
            power = int(groups["exponent"][1:])
            if abs(power) > MAX_EXPONENT:
                raise Unreadable("exponent too large")
            value *= Fraction(10) ** power
        self._add("num", match.group(), num(value))
        self.at = match.end()


def _function_prefix(run: str) -> str | None:
    """Return the function that a run such as `sinx` begins with."""
    for name in ("arcsin", "arccos", "arctan", "sin", "cos", "tan", "log", "ln"):
        if run.startswith(name) and len(run) == len(name) + 1:
            return name
    return None


def _repeating(match: re.Match[str]) -> Fraction:
    """Return the exact value of a repeating decimal; raises Unreadable where no period shows."""
    head = match["head"]
    if len(head) > MAX_DIGITS:
        raise Unreadable("number too long")
    whole, _, fixed = head.partition(".")
    period = match["line"] or match["bar"] or match["paren"]
    if match["first"]:
        period = match["first"]
        if match["last"]:
            period = match["first"] + (match["between"] or "") + match["last"]
    if match["dots"]:
        fixed, period = _period_of(fixed)
    if period is None or len(period) > MAX_DIGITS:
        raise Unreadable("no period")
    start = Fraction(int((whole or "0") + fixed), 10 ** len(fixed))
    return start + Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(fixed))


def _period_of(digits: str) -> tuple[str, str]:
    """Split `1666` into `1` and `6`: what explains the digits best by a period seen twice."""
    digits = digits[:200]
    best: tuple[str, str] | None = None
    for length in range(1, len(digits) // 2 + 1):
        period = digits[-length:]
        if digits[-2 * length : -length] != period:
            continue
        start = len(digits) - length
        while start > 0 and digits[start - 1] == digits[start - 1 + length]:
            start -= 1
        if best is None or start + length < len(best[0]) + len(best[1]):
            best = digits[:start], digits[start : start + length]
    if best is None:
        raise Unreadable("the digits before the dots show no period")
    return best
