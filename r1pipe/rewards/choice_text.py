"""Reads which choices of a multiple-choice question a short text states."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

NOTHING: frozenset[str] = frozenset()

_WRAPPER = re.compile(
    r"\\(?:boxed|fbox|mbox|(?:text|math)[a-z]*|operatorname|left|right|bf|rm|it|quad|,|;|!)"
    r"(?![a-z])\*?\s*|\\[()\[\]{}]|\\(?=\s)|</?(?:b|i|u|p|em|strong|span|br)\s?/?>"
)
_MARKUP = re.compile(r"\*\*|__|[`${}\u200b-\u200f\u2060\ufe0f\ufeff]")
_SPACES = re.compile(r"[^\S\n]+")
_LINES = re.compile(r"\s*\n\s*")
_BOX = re.compile(r"\\boxed\s*\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}")

_LATIN = "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff"
_VOWEL_SIGNS = "\u0900-\u0903\u093a-\u094f\u0e31\u0e34-\u0e3a\u0e47-\u0e4e"
_TOKEN = re.compile(
    rf"(?P<latin>[{_LATIN}\d]+(?:['\u2019][{_LATIN}]+)*)"
    rf"|(?P<foreign>(?:[^\W\d_{_LATIN}]|[{_VOWEL_SIGNS}])+)|(?P<mark>[^ ])"
)

# Words that may stand around a choice without changing what is stated. A word that is not here
# (not, except, wrong, could, least ...) leaves the text without a statement.
_NEUTRAL = frozenset(
    re.findall(
        r"\S+",
        """
        the my our this that it it's its is i'm going are be being should would must will so
        thus therefore hence ok okay well i i'd i'll we choose choosing pick select chose
        selected go with think believe conclude get correct right best final most likely
        appropriate suitable accurate answer answers answer's option options choice choices
        letter letters response solution ans selection statement statements item alternative
        number which one ones here in for to of
        conclusion question clearly certainly definitely indeed only both and as follows follow
        die der antwort ist richtige richtig korrekte lautet lösung und
        la le les el los réponse réponses est sont bonne correcte choix et
        respuesta es correcta opción opcion y risposta è corretta giusta resposta é correta opção
        đáp án là đúng câu trả lời chọn jawaban jawabannya adalah cevap doğru svar svaret är er
        antwoord het juiste odpowiedź odpověď
        """,
    )
)
# Possessive: some of these are made of others, and trying all ways to cut them takes for ever.
_FOREIGN_NEUTRAL = re.compile(
    unicodedata.normalize(
        "NFKC",
        "(?:正确|正確|最佳|最终|最終|答案|答え|回答|解答|正解|选项|選項|選択肢|选择|選擇|应该|應該|应|應"
        "|所以|因此|故|我|本题|此题|选|選|该|該|是|为|為|的|项|項|和|与|與|及|は|が|です|と"
        "|정답은|정답|답은|답|입니다|이다|правильный|верный|ответ|вариант|это|и"
        "|सही|उत्तर|है|คำตอบ|คือ|ข้อ|الجواب|هو|الإجابة|هي)++",
    )
)
_HEDGES = frozenset(
    ("or", "either", "vs", "versus", "maybe", "perhaps", "possibly", "oder", "ou", "hoặc")
)
_FOREIGN_HEDGES = frozenset(("或", "或者", "还是", "還是", "または", "또는", "или", "либо", "أو"))
_MARKS = frozenset(".,:;?()[]<>\"'\u2018\u2019\u201c\u201d=&+-\u2013\u2014*_#\n。、「」【】«»✓✔✅•")
_RANGES = frozenset("-\u2013\u2014~")
_AFTER_A_LETTER = frozenset(("is", "and", "or", "because", "since", "vs", "versus", "only"))

_LABEL_END = re.compile(
    r"[\"'\u2019\u201d]?(?:[)\]:\n]|\.(?=\s|$|[A-Z][a-z])|\s[-\u2013](?=\s)|\s?\u2014"
    r"|(?P<why>,?\s(?=because\b|since\b))|(?P<comma>,\s)|\s\((?=[^()]+\)[\s.]*$))"
)
_RETRACTED = re.compile(
    r"[\s,.:;-]*(?:(?:(?:is|was|are|seems?|looks|can|could|may|might|would|should|must)\b"
    r"[^\n]*\b(?:not|wrong|incorrect|false|impossible|unlikely|out|excluded|eliminated)\b)"
    r"|(?:this|that|it)\s(?:is|was)(?:\snot\s(?:the|a)?\s?(?:answer|correct|right|best|option|choice)"
    r"|n't|\s(?:wrong|incorrect|false))\b"
    r"|(?:not|isn't|wasn't|aren't|can't|cannot|won't|doesn't|wouldn't|couldn't|shouldn't)\b"
    r"|(?:wrong|incorrect|ruled out|excluded|eliminated|rejected|maybe|perhaps)\b"
    r"(?:\s(?:answer|option|choice|one))?[\s.!]*$)",
    re.IGNORECASE,
)
_OFFERING = frozenset(
    ("option", "choice", "answer", "is", "be", "not", "than", "also", "else", "actually", "rather")
)
_CONCLUSION = re.compile(
    r"(?:\b(?:answer|option|choice)(?:\s+is|\s*:)|答案(?:是|为|：|:))\s*"
    r"(?:(?:option|choice)\s+)?[(\[]?(?P<letter>[A-Za-z0-9])[)\]]?[\s.!。]*$",
    re.IGNORECASE,
)
_DOUBT = re.compile(
    r"\b(?:not|never|no|nor|neither|wrong|incorrect|false|doubt|if|unless|could|might|may|maybe"
    r"|perhaps|than|except|least|worst|second|or)\b|n['\u2019]t\b|不|非|错|或",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.;!?\n。；！？]\s")


def plain(text: str) -> str:
    """Return a text on one line without LaTeX wrappers, markup, quotes and a closing stop."""
    return " ".join(_clean(text).split()).strip(" *_\"'.\u2018\u2019\u201c\u201d")


def _clean(text: str) -> str:
    text = _WRAPPER.sub(" ", unicodedata.normalize("NFKC", text))
    text = _SPACES.sub(" ", _MARKUP.sub("", text))
    return _LINES.sub("\n", text).strip()


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    start: int
    end: int


def _tokens(text: str) -> list[_Token]:
    return [
        _Token(match.lastgroup or "", match.group(), *match.span())
        for match in _TOKEN.finditer(text)
    ]


@dataclass(frozen=True)
class Choices:
    """The letters or digits one may choose from."""

    letters: str
    by_folded: Mapping[str, str]

    @classmethod
    def of(cls, letters: str) -> Choices:
        """Return the choices that these characters are, different when case is folded."""
        return cls(letters, {letter.casefold(): letter for letter in letters})

    def stated(self, text: str, offered: Mapping[str, str]) -> frozenset[str]:
        """Return the choices that a text states; none where it hedges, negates or says more.

        `offered`: the options' texts by letter, to compare what follows a letter with.
        """
        found = self._read(_clean(text), offered)
        if found is None:
            boxes = [self._read(_clean(box), offered) for box in _BOX.findall(text)]
            found = NOTHING.union(*(box or NOTHING for box in boxes))
        return found

    def _read(self, text: str, offered: Mapping[str, str]) -> frozenset[str] | None:
        """Return what a cleaned text states, or None where it cannot be understood."""
        tokens = _tokens(text)
        found = self._named(tokens, text)
        if found is None:
            found = self._labelled(tokens, text, offered)
        return self._concluded(text) if found is None else found

    def _named(self, tokens: list[_Token], text: str) -> frozenset[str] | None:
        """Read a text of choices and neutral words only; None for any other."""
        found: list[str] = []
        hedged = False
        for index, token in enumerate(tokens):
            folded = token.text.casefold()
            if token.kind == "mark":
                if token.text in "/|" or (token.text in _RANGES and self._between(tokens, index)):
                    hedged = True
                elif not self._is_harmless(tokens, index, bool(found)):
                    return None
            elif token.kind == "foreign":
                hedged |= folded in _FOREIGN_HEDGES
                if folded not in _FOREIGN_HEDGES and not _FOREIGN_NEUTRAL.fullmatch(folded):
                    return None
            elif folded in self.by_folded and not self._is_word(tokens, index, text):
                if text[token.end : token.end + 1] == "(":  # `f(a)` is a formula
                    return None
                found.append(self.by_folded[folded])
            elif folded in _NEUTRAL:
                continue
            elif folded in _HEDGES:
                hedged = True
            elif self._is_run(token.text):
                found += (self.by_folded[letter.casefold()] for letter in token.text)
            else:
                return None
        if not found:
            return None
        return NOTHING if hedged else frozenset(found)

    def _is_run(self, text: str) -> bool:
        """True for `ACD`: different letters in capitals."""
        known = all(letter.casefold() in self.by_folded for letter in text)
        return known and text.isalpha() and text.isupper() and len(set(text)) == len(text)

    def _between(self, tokens: list[_Token], index: int) -> bool:
        return 0 < index < len(tokens) - 1 and all(
            tokens[near].text.casefold() in self.by_folded for near in (index - 1, index + 1)
        )

    def _is_harmless(self, tokens: list[_Token], index: int, after_letter: bool) -> bool:
        token, mark = tokens[index], tokens[index].text
        if mark in "+-#" and index and tokens[index - 1].end == token.start:
            # `B+` and `C#` are other things than B and C; `A+C` is a list.
            letter = tokens[index - 1].text.casefold() in self.by_folded
            return not letter or self._between(tokens, index)
        if mark == "!":  # in front of a letter it negates
            return index + 1 == len(tokens) or tokens[index + 1].kind == "mark"
        if mark in "=<>":
            return not after_letter or not self._between(tokens, index)
        return mark in _MARKS

    def _is_word(self, tokens: list[_Token], index: int, text: str) -> bool:
        """True for the article `a` and the pronoun `I`: a word follows, and no verb of theirs."""
        token = tokens[index]
        if token.text.casefold() not in ("a", "i") or index + 1 == len(tokens):
            return False
        after = tokens[index + 1]
        gap = text[token.end : after.start]
        if after.kind != "latin" or gap != " " or after.text.casefold() in self.by_folded:
            return False
        return after.text.casefold() not in _AFTER_A_LETTER

    def _labelled(
        self, tokens: list[_Token], text: str, offered: Mapping[str, str]
    ) -> frozenset[str] | None:
        """Read `B) text`: a labelled choice after neutral words only; None for any other."""
        for index, token in enumerate(tokens):
            folded = token.text.casefold()
            if folded in self.by_folded and not self._is_word(tokens, index, text):
                break
            neutral = folded in _NEUTRAL or bool(_FOREIGN_NEUTRAL.fullmatch(folded))
            if not (neutral or folded in _MARKS or folded in ("a", "i")):
                return None
        else:
            return None
        own = self.by_folded[folded]
        end = _LABEL_END.match(text, token.end)
        tail = text[end.end() if end else token.end :]
        said = plain(tail).casefold()
        same = [letter for letter, option in offered.items() if plain(option).casefold() == said]
        if same:
            return frozenset((own,)) if own in same else NOTHING
        if end is None or _RETRACTED.match(tail):
            return None
        others, hedged = self._offered_besides(own, tail)
        if end["comma"] and (others or _DOUBT.search(tail) or self._letters_in(tail) - {own}):
            return None
        if hedged:
            return NOTHING
        return frozenset((own,)) if end["why"] else others | {own}

    def _letters_in(self, text: str) -> set[str]:
        tokens = _tokens(text)
        return {
            self.by_folded[token.text.casefold()]
            for index, token in enumerate(tokens)
            if token.text.casefold() in self.by_folded and not self._is_word(tokens, index, text)
        }

    def _offered_besides(self, own: str, tail: str) -> tuple[frozenset[str], bool]:
        """Return the other choices that the text after a label offers, and whether it hedges."""
        tokens = _tokens(tail)
        others, hedged = set[str](), False
        for index, token in enumerate(tokens):
            other = self.by_folded.get(token.text.casefold())
            if other in (None, own) or self._is_word(tokens, index, tail):
                continue
            before = tokens[index - 1] if index else _Token("mark", "\n", 0, 0)
            after = tail[token.end : token.end + 1]
            word, capital = before.text.casefold(), token.text.isupper() or token.text.isdigit()
            if word in _HEDGES | _FOREIGN_HEDGES | _OFFERING and (capital or after in ").:"):
                hedged = True
            elif self._is_label(tail, before, token, after, capital):
                others.add(other)
        return frozenset(others - {None}), hedged

    @staticmethod
    def _is_label(tail: str, before: _Token, token: _Token, after: str, capital: bool) -> bool:
        if before.text in "([" and before.end == token.start:
            # Of `P(A)` and `f(x)` the bracket is part of a formula.
            return (capital or after in ")]") and not tail[: before.start][-1:].isalnum()
        if after == ")":
            return True
        joined = before.text in ",;/|&+\n" or before.text.casefold() in ("and", "und", "et", "y")
        labelled = after == ":" or (after == "." and tail[token.end + 1 : token.end + 2] == " ")
        return capital and (joined or labelled or (before.text in ".:!?" and after in ".:"))

    def _concluded(self, text: str) -> frozenset[str] | None:
        """Read prose that ends in `the answer is B` and offers no other choice before."""
        match = _CONCLUSION.search(text)
        if match is None or match["letter"].casefold() not in self.by_folded:
            return None
        own = self.by_folded[match["letter"].casefold()]
        before = text[: match.start()]
        if _DOUBT.search(_SENTENCE_END.split(before)[-1]):
            return None
        others, hedged = self._offered_besides(own, before)
        return None if others or hedged else frozenset((own,))
