"""Counts the words of a text by language, so that a word weighs the same in every script."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator

from r1pipe.rewards.language_han import Clause, languages_of_runs
from r1pipe.rewards.language_identify import OTHER, Word, label
from r1pipe.rewards.language_lexicon import glue_words, languages_of_word
from r1pipe.rewards.language_notation import folded, without_notation

CHARS_PER_WORD = {"zh": 1.6, "ja": 2.3, "ko": 2.0, "th": 4.7}
"""Characters that make a word where no spaces do: 1.54 (Chinese), 2.31 (Japanese) and 4.63 (Thai)
for an English word in our count of MGSM's 250 parallel problems (Shi et al., arXiv 2210.03057),
5 % more for a German, French, Spanish or Russian one; for Hanja in Korean, a convention."""

NOTHING = "nothing"
"""Words that belong to no language because they only repeat what stands before them."""

_ALPHABETS = {
    "latin": "A-Za-zªºÀ-ÖØ-öø-ʯḀ-ỿ\u0300-\u036f",
    "cyrillic": "\u0400-\u0481\u048a-\u052f",
    "greek": "\u0370-\u0373\u0376-\u037d\u0386-\u03ff\u1f00-\u1fff",
}
_ANY = "".join(_ALPHABETS.values())
_TOKEN = re.compile(
    rf"(?P<alphabet>(?P<letters>[{_ANY}]++(?:['’ʼ][{_ANY}]++)*+)(?:[\d_][\dA-Za-z_]*+)?)"
    r"|(?P<han>[\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]++)"
    r"|(?P<kana>[\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f]++)"
    r"|(?P<hangul>[\u1100-\u11ff\u3131-\u318e\ua960-\ua97c\uac00-\ud7fb]++)"
    r"|(?P<thai>[\u0e01-\u0e3a\u0e40-\u0e4e]++)"
    r"|(?P<arabic>[\u0620-\u065f\u066e-\u06d3\u06d5-\u06ed\u06fa-\u06ff\u0750-\u077f\u08a0-\u08ff]++)"
    r"|(?P<devanagari>[\u0900-\u0963\u0971-\u097f\ua8e0-\ua8ff]++)"
    r"|(?P<number>[\d_][\d_.,]*+[A-Za-z]?[\dA-Za-z_]*+)"
    r"|(?P<other>[^\W\d_]++)"
    r"|(?P<stop>[.!?\n。！？;；:：।॥؟…]++)"
    r"|(?P<comma>[,，、،]++)"
    r"|(?P<mark>[^\w\s])"
)
_PHRASE, _SENTENCE = 1, 2
_SCRIPT = {name: re.compile(f"[{chars}]") for name, chars in _ALPHABETS.items()}
# The letters that look alike, Cyrillic and Greek against Latin.
_CYRILLIC_ALIKE, _LATIN_ALIKE = (
    "асеһіјорԛѕԝхуԁԍАВСЕНІЈКМОРЅТХУαοντυρικΑΒΕΖΗΙΚΜΝΟΡΤΥΧ",
    "acehijopqswxydgABCEHIJKMOPSTXYaovtupikABEZHIKMNOPTYX",
)
_TO_LATIN = str.maketrans(_CYRILLIC_ALIKE, _LATIN_ALIKE)
_TO_CYRILLIC = str.maketrans("aceopxyABCEHKMOPTXYk", "асеорхуАВСЕНКМОРТХУк")

_LOOP = re.compile(r"(.{1,3}?)\1{3,}", re.DOTALL)
_TURNS_THAT_COUNT = 3

_FUNCTIONS_WRITTEN = """
    sin cos tan cot sec csc sinh cosh tanh arcsin arccos arctan log ln lg exp max min mod gcd
    lcm lim det sqrt abs
    floor ceil sgn arg tr ker dim deg inf argmax argmin diag cov tg ctg arctg mcd
    mcm pgcd ppcm ggt kgv mdc mmc rad cbrt frac"""
FUNCTIONS = frozenset(_FUNCTIONS_WRITTEN.split())
_UNITS_WRITTEN = """
    km cm mm nm dm kg mg kj kw kwh hz khz mhz ghz mol ml cl dl kb mb gb tb kpa ev db kph mph
    rpm usd eur rmb cny м см км мм кг мг мл л ч г т руб"""
UNITS = frozenset(_UNITS_WRITTEN.split())
_LONGEST_ACRONYM = 5
_SHOUTING = 3
_NAME_RUN = 3
_LONGEST_FORMULA = 3
_ALPHABET = "abcdefghijklmnopqrstuvwxyz"
_PARTS_OF_AN_IDENTIFIER = 3
_PARTS = re.compile(r"[_\d]+|(?<=[a-zß-ÿ])(?=[A-Z])")
_CHAT_ARABIC = re.compile(r"[a-z]*[23578][a-z]+(?:[23578][a-z]*)*")

_GLUE_AT_LEAST = 4
_GLUE_SHARE = 0.8
_LEAST_MIX = 0.25


def count_words(text: str, favoured: str | None = None) -> dict[str, float]:
    """Return {language: number of words} of a text; `OTHER` for languages that are no target.

    A word is a run of letters of an alphabet, or `CHARS_PER_WORD` characters of a script without
    spaces. Numbers, single Latin letters (variables), letters that touch a digit (`25r3`), names
    of functions, units, acronyms, point names (`AB`), identifiers and, among words of another
    script, capitalised words that no list knows (names) count for no language; code and
    mathematics as in `without_notation`. From the fourth time in a row on, a word counts for
    `NOTHING`. `favoured`: whose a run is that two languages could have written.
    """
    reader = _Reader()
    reader.read(without_notation(folded(text)))
    counts = reader.weight
    glue, known = 0.0, glue_words(favoured) if favoured else frozenset()
    languages_of_clauses = languages_of_runs(reader.clauses, favoured)
    for clause, languages in zip(reader.clauses, languages_of_clauses, strict=True):
        for run, language in zip(clause.runs, languages, strict=True):
            counts[language] += len(run) / CHARS_PER_WORD[language]
            if language == favoured:
                glue += sum(char in known for char in run) / CHARS_PER_WORD[language]
    for script, words in reader.words.items():
        if script == "latin":
            words = list(_without_symbols(words, bool(counts) or len(reader.words) > 1))
        if words:
            for word, language in zip(words, label(words, script, favoured), strict=True):
                counts[language] += 1
                glue += language == favoured and word.text in known
    if favoured is not None:
        _set_glue_aside(counts, favoured, glue)
    return {language: count for language, count in counts.items() if count}


def _set_glue_aside(counts: defaultdict[str, float], favoured: str, glue: float) -> None:
    """Count strewn function words for nothing.

    Half of a natural text is other words; a mixed text whose target words are nearly all function
    words has them for their number's sake.
    """
    ours = counts[favoured]
    theirs = sum(counts.values()) - ours
    is_mixed = theirs > _LEAST_MIX * ours and ours > _LEAST_MIX * theirs
    if is_mixed and glue >= _GLUE_AT_LEAST and glue > _GLUE_SHARE * ours:
        said = min(ours, 2 * (ours - glue))
        counts[favoured] = said
        counts[NOTHING] += ours - said


class _Reader:
    """Splits a text into the words of each alphabet, and clauses of Han runs; one pass."""

    def __init__(self) -> None:
        self.words: dict[str, list[Word]] = {}
        self.clauses: list[Clause] = []
        self.weight: defaultdict[str, float] = defaultdict(float)
        self._clause = Clause([], 0, 0)
        self._gap = _SENTENCE
        self._script = ""
        self._before = ""
        self._turns = 0

    def read(self, text: str) -> None:
        for match in _TOKEN.finditer(text):
            kind, run = match.lastgroup or "", match.group()
            if kind == "alphabet":
                letters = match.end("letters") - match.start()
                if letters == len(run):
                    self._add_alphabetic(run)
                else:
                    self._add_symbol(run)
            elif kind == "han" or kind == "kana" or kind == "thai":
                self._add_characters(run, kind)
            elif kind == "hangul":
                self._clause.hangul += len(run)
                self._add_counted(run, "ko", kind)
            elif kind == "other":
                if run.isalpha():
                    self._add_counted(run, OTHER, kind)
            elif kind == "number":
                if run.isdigit():
                    self._pause(_PHRASE, True)
                else:
                    self._add_symbol(run)
            elif kind == "stop" or kind == "comma":
                self._end_clause()
                self._pause(_SENTENCE if kind == "stop" else _PHRASE)
            elif kind == "mark":
                self._pause(_PHRASE, run not in "*\"'“”«»()-–—")
            else:
                self._add_word(run, kind)
        self._end_clause()

    def _end_clause(self) -> None:
        clause = self._clause
        if clause.runs or clause.kana or clause.hangul:
            self.clauses.append(clause)
            self._clause = Clause([], 0, 0)

    def _pause(self, gap: int, is_notation: bool = False) -> None:
        """Note what separates words; formulas between them make no repetition of a word."""
        self._gap = max(self._gap, gap)
        if is_notation:
            self._before = ""

    def _add_characters(self, run: str, kind: str) -> None:
        once = _LOOP.sub(_turns_that_count, run)
        if kind == "han":
            self._clause.runs.append(once)
            language = "zh"
        else:
            language = "ja" if kind == "kana" else "th"
            self.weight[language] += len(once) / CHARS_PER_WORD[language]
            if kind == "kana":
                self._clause.kana += len(once)
        self.weight[NOTHING] += (len(run) - len(once)) / CHARS_PER_WORD[language]
        self._script, self._gap = kind, 0

    def _add_counted(self, run: str, language: str, kind: str) -> None:
        self.weight[NOTHING if self._goes_round(run) else language] += 1
        self._script, self._gap = kind, 0

    def _add_word(self, run: str, script: str) -> None:
        if self._goes_round(run.lower()):
            self.weight[NOTHING] += 1
        else:
            gap = self._gap if self._script == script else max(self._gap, _PHRASE)
            self.words.setdefault(script, []).append(Word(run, gap))
        self._script, self._gap = script, 0

    def _add_alphabetic(self, run: str) -> None:
        """Add a word of Latin, Cyrillic or Greek letters; a mix is read as what it looks like."""
        if run.isascii():
            return self._add_word(run, "latin")
        counts = {name: len(pattern.findall(run)) for name, pattern in _SCRIPT.items()}
        script = max(counts, key=lambda name: counts[name])
        if counts[script] + run.count("'") + run.count("’") < len(run):
            latin, cyrillic = run.translate(_TO_LATIN), run.translate(_TO_CYRILLIC)
            if not _SCRIPT["cyrillic"].search(latin) and not _SCRIPT["greek"].search(latin):
                run, script = latin, "latin"
            elif not _SCRIPT["latin"].search(cyrillic):
                run, script = cyrillic, "cyrillic"
        if counts["greek"] and len(run) <= _LONGEST_FORMULA:
            return self._pause(_PHRASE, True)
        if script == "greek":
            return self._add_counted(run, OTHER, script)
        if script == "cyrillic" and _is_cyrillic_symbol(run):
            return self._pause(_PHRASE, True)
        return self._add_word(run.lower() if script == "cyrillic" else run, script)

    def _add_symbol(self, run: str) -> None:
        """Pass over letters with digits or `_`, unless they are words strung together."""
        parts = [part for part in _PARTS.split(run) if len(part) > 1]
        letters = sum(map(len, parts))
        if len(parts) > _PARTS_OF_AN_IDENTIFIER and "_" in run:
            for part in parts:
                self._add_word(part, "latin")
        elif letters > 3 and _CHAT_ARABIC.fullmatch(run) and parts[0] not in FUNCTIONS:
            self._add_counted(run, OTHER, "latin")
        else:
            self._pause(_PHRASE, True)

    def _goes_round(self, word: str) -> bool:
        """Whether a word stands for the fourth time in a row, or more often."""
        self._turns = self._turns + 1 if word == self._before else 1
        self._before = word
        return self._turns > _TURNS_THAT_COUNT


def _turns_that_count(match: re.Match[str]) -> str:
    return match.group(1) * _TURNS_THAT_COUNT


def _is_cyrillic_symbol(run: str) -> bool:
    lower = run.lower()
    if len(run) == 1:
        return lower not in languages_of_word("cyrillic") or run != lower
    return lower in UNITS or (len(run) <= 3 and run.isupper())


def _without_symbols(words: Iterable[Word], among_others: bool) -> Iterator[Word]:
    """Yield the Latin words in lower case, without variables, acronyms, names and identifiers."""
    run: list[Word] = []
    for word in words:
        if word.gap and run:
            yield from _of_phrase(run, among_others)
            run = []
        run.append(word)
    yield from _of_phrase(run, among_others)


def _of_phrase(run: list[Word], among_others: bool) -> Iterator[Word]:
    known = languages_of_word("latin")
    capitals = [word for word in run if len(word.text) > 1 and word.text.isupper()]
    shouting = len(capitals) >= _SHOUTING and any(w.text.lower() in known for w in capitals)
    lone = among_others and len(run) <= _NAME_RUN
    if lone and all(_is_name(word.text) for word in run):
        return
    gap = 0
    for word in run:
        text, gap = word.text, max(gap, word.gap)
        lower = text.lower()
        if lower in FUNCTIONS or lower in UNITS or _is_product(lower):
            continue
        if text.isupper():
            if len(text) <= _LONGEST_ACRONYM and not shouting:
                continue
        elif not text[1:].islower():
            parts = _PARTS.split(text)
            if len(parts) > _PARTS_OF_AN_IDENTIFIER:
                yield from (Word(part.lower(), 0) for part in parts if len(part) > 1)
                continue
            if len(parts) > 1 and lower not in known:
                continue
        is_name = text[0].isupper() and lower not in known
        yield Word(lower, gap, is_name)
        gap = 0


def _is_product(word: str) -> bool:
    """Whether a word is rather a variable or several: `x`, `ab`, `xyz`."""
    if len(word) <= 2:
        return len(word) < 2 or (word.isascii() and word not in languages_of_word("latin"))
    return len(word) <= _LONGEST_FORMULA and word in _ALPHABET


def _is_name(word: str) -> bool:
    return (
        word[0].isupper()
        and word.lower() not in languages_of_word("latin")
        and len(_PARTS.split(word)) <= _PARTS_OF_AN_IDENTIFIER
    )
