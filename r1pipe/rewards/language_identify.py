"""Labels each word of a run of words with its language, where the script leaves a choice."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from r1pipe.rewards.language_lexicon import languages_of_word

OTHER = "other"
"""A language that is no target: pinyin and other romanisations, Polish, Turkish ..."""

LANGUAGES_OF_SCRIPT: dict[str, tuple[str, ...]] = {
    "latin": ("en", "fr", "de", "es", "it", "pt", "nl", "vi"),
    "cyrillic": ("ru", "uk", "bg"),
    "arabic": ("ar", "fa", "ur"),
    "devanagari": ("hi", "mr", "ne"),
}
# Their scores stand for "some other language of this script".
_STRANGERS = {
    "latin": ("pl", "cs", "hr", "sl", "ro", "tr", "id", "sv", "da", "fi", "hu", "sw", "tl"),
    "cyrillic": ("sr", "mk", "be", "kk"),
    "arabic": ("ps", "ug", "ku"),
    "devanagari": (),
}

# Log-odds, chosen on our own labelled texts. The identifier's scores are sums over letter n-grams
# that overlap, hence the scale.
SCALE = 0.5
LEAST = -6.0
LISTED_ELSEWHERE = -3.5
"""At most this for a language that does not list a word which another one lists, ..."""
UNLISTED = 1.5
"""... and at least this much less than by its letters."""
MISSPELT = -4.0
"""At most this for a language that has not these letters or syllables."""
SYLLABLES = -1.0
"""At least this for pinyin where a word is made of its syllables."""
STRANGER = {"latin": -1.5, "cyrillic": -3.0, "arabic": -3.0, "devanagari": -3.0}
NAME = 0.3
SWITCH = (3.6, 3.0, 2.0)
"""What a change of language costs within a phrase, across a comma or formula, across a stop."""
SWITCH_TO_OTHER = 1.5
FAVOUR = 0.8
SELDOM = {"nl": 1.0, "it": 0.5, "pt": 0.3, "uk": 1.0, "bg": 2.0, "fa": 0.5, "ur": 0.5, "ne": 1.0}
"""What the less likely ones of languages with the same letters cost, unless favoured."""
TRUST = 0.5
DOUBT = 0.03

_CACHED_WORDS = 50_000
_LONGEST_WORD = 40

_INITIAL = "zh|ch|sh|[bpmfdtnlgkhjqxrzcsyw]"
_FINAL = (
    "iang|iong|uang|ueng|ang|eng|ing|ong|ian|iao|uai|uan|van|ai|ei|ao|ou|an|en|in|un|ia|ie|iu|ua|uo"
    "|ui|ue|ve|er|a|o|e|i|u|v|ü"
)
_PINYIN = re.compile(rf"(?:(?:{_INITIAL})?(?:{_FINAL}))+")
# Syllables can be cut in many ways (`xian`, `xi an`): a longer word could take exponential time.
_LONGEST_PINYIN = 16
_PINYIN_TONES = frozenset("ǎěǐǒǔǖǘǚǜāēīōū")
_VIETNAMESE_SYLLABLE = re.compile(
    "(?:ngh|ng|nh|ch|gh|gi|kh|ph|qu|th|tr|[bcdđghklmnpqrstvx])?[aeiouyăâêôơư]{1,3}"
    "(?:ch|ng|nh|[cmnpt])?"
)
_MARKS = {
    "cyrillic": {
        "ru": frozenset("ыэё"),
        "uk": frozenset("іїєґ"),
        OTHER: frozenset("ўђјљњћџқғңұһә"),
    },
    "arabic": {
        "ar": frozenset("ةىيكإأؤ"),
        "fa": frozenset("پچژگیک"),
        "ur": frozenset("ٹڈڑںےہھ"),
    },
    "devanagari": {"mr": frozenset("ळ")},
}
_NOT_ITS_MARKS = {
    "ru": frozenset("іїєґўђјљњћџқғңұһә"),
    "bg": frozenset("ыэёіїєґўђјљњћџ"),
    "uk": frozenset("ыэёъўђјљњћџ"),
    "ar": frozenset("پچژگیکٹڈڑںےہھ"),
    "fa": frozenset("ةىيكٹڈڑںےہھ"),
    "ur": frozenset("ةىيك"),
    "hi": frozenset("ळ"),
    "ne": frozenset("ळ"),
}


@dataclass
class Word:
    """A word of a text, lower case; `gap` indexes `SWITCH`: what stands before it."""

    text: str
    gap: int
    is_name: bool = False


@cache
def _identifier() -> Any:
    """Return py3langid's model (all of its languages), loaded once per process."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE)


@cache
def _row_starts() -> list[int]:
    """Return where the rows of the model's automaton start: 256 next states, one for a byte."""
    return [row << 8 for row in _identifier().tk_row]


@cache
def _columns(script: str) -> tuple[Any, int]:
    """Return the model's log-likelihoods of the languages of `script`, and how many are ours."""
    model, ours = _identifier(), LANGUAGES_OF_SCRIPT[script]
    order = [model.nb_classes.index(code) for code in (*ours, *_STRANGERS[script])]
    return model.nb_ptc[:, order], len(ours)


_evidence: dict[tuple[str, str], list[float]] = {}


def evidence(word: str, script: str) -> list[float]:
    """Return the log-odds of each language of `script`, then of `OTHER`; the best one is near 0."""
    key = (script, word[:_LONGEST_WORD])
    found = _evidence.get(key)
    if found is None:
        if len(_evidence) >= _CACHED_WORDS:
            _evidence.clear()
        found = _evidence[key] = _weigh(*key)
    return found


def _weigh(script: str, word: str) -> list[float]:
    scores = _by_letters(word, script)
    languages = LANGUAGES_OF_SCRIPT[script]
    bare = word.replace("\u2019", "'")
    listed = languages_of_word(script).get(bare)
    if listed:
        for index, language in enumerate(languages):
            elsewhere = min(scores[index] - UNLISTED, LISTED_ELSEWHERE)
            scores[index] = 0.0 if language in listed else elsewhere
        romanised = "romanised" in listed
        scores[-1] = 0.0 if romanised else min(scores[-1] - UNLISTED, LISTED_ELSEWHERE)
    elif script == "latin":
        if _PINYIN_TONES.intersection(word):
            return [*(min(score, MISSPELT) for score in scores[:-1]), 0.0]
        if not _is_vietnamese_syllable(word):
            scores[-2] = min(scores[-2], MISSPELT)
        if len(word) <= _LONGEST_PINYIN and _PINYIN.fullmatch(word):
            scores[-1] = max(scores[-1], SYLLABLES)
    else:
        for language, marks in _MARKS[script].items():
            if marks.intersection(word):
                at = languages.index(language) if language in languages else -1
                scores[at] = max(scores[at], 0.0)
    for index, language in enumerate(languages):
        if language in _NOT_ITS_MARKS and _NOT_ITS_MARKS[language].intersection(word):
            scores[index] = min(scores[index], MISSPELT)
    return [max(score, LEAST) for score in scores]


def _by_letters(word: str, script: str) -> list[float]:
    """Scores of our languages and of the best stranger by letter n-grams; the best is 0."""
    import numpy as np
    from py3langid.langid import visit_counts

    model = _identifier()
    table, ours = _columns(script)
    data = f" {word} ".encode("utf-8", errors="replace")
    visits = visit_counts(model.tk_nextmove, _row_starts(), model.tk_output, data)
    if not visits:
        return [0.0] * ours + [STRANGER[script]]
    rows = np.fromiter(visits.keys(), dtype=np.intp, count=len(visits))
    counts = np.fromiter(visits.values(), dtype=np.float32, count=len(visits))
    scores = (np.log1p(counts) @ table[rows]) * SCALE
    best = [*scores[:ours].tolist(), float(scores[ours:].max(initial=-math.inf)) + STRANGER[script]]
    top = max(best)
    return [max(score - top, LEAST) for score in best]


def _is_vietnamese_syllable(word: str) -> bool:
    return not word.isascii() or _VIETNAMESE_SYLLABLE.fullmatch(word) is not None


def label(words: Sequence[Word], script: str, favoured: str | None) -> list[str]:
    """Return the language of each word: the likeliest path, changes of language being rare.

    Where nothing speaks for or against (`ones`, `sum`), a run belongs to `favoured`. A second
    pass lets the languages that the text is written in decide over its doubtful runs.
    """
    states = [*LANGUAGES_OF_SCRIPT[script], OTHER]
    odds = [evidence(word.text, script) for word in words]
    odds = [
        [score * NAME for score in scores] if word.is_name else scores
        for word, scores in zip(words, odds, strict=True)
    ]
    entry = [FAVOUR if state == favoured else -SELDOM.get(state, 0.0) for state in states]
    entry[-1] -= SWITCH_TO_OTHER
    path = _best_path(odds, [word.gap for word in words], entry)
    if len(set(path)) > 1:
        shares = [path.count(at) / len(path) for at in range(len(states))]
        entry = [TRUST * math.log(share + DOUBT) for share in shares]
        entry[-1] -= SWITCH_TO_OTHER
        path = _best_path(odds, [word.gap for word in words], entry)
    return [states[at] for at in path]


def _best_path(odds: list[list[float]], gaps: list[int], entry: list[float]) -> list[int]:
    """Viterbi's algorithm; a change to state s costs `SWITCH[gap]` less `entry[s]`."""
    count = len(entry)
    states = range(count)
    score = [entry[at] + odds[0][at] for at in states]
    back: list[list[int]] = []
    for at in range(1, len(odds)):
        best = max(score)
        source = score.index(best)
        changed = best - SWITCH[gaps[at]]
        here = odds[at]
        came = list(states)
        fresh = []
        for state in states:
            stayed, moved = score[state], changed + entry[state]
            if moved > stayed:
                stayed, came[state] = moved, source
            fresh.append(stayed + here[state])
        score = fresh
        back.append(came)
    state = score.index(max(score))
    path = [state]
    for came in reversed(back):
        state = came[state]
        path.append(state)
    return path[::-1]
