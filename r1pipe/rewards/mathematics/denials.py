"""Finds words that deny or doubt what is said beside them, in several languages."""

from __future__ import annotations

import re

_DENIED = re.compile(
    r"\b(?:impossible(?! event)|impossibility|false(?! (?:positive|negative|alarm))|falsely|untrue"
    r"|wrong(?:ly)?|incorrect(?:ly)?|mistaken(?:ly)?|unlikely|doubt(?:s|ful|fully)?|den(?:y|ies|ied)"
    r"|fail(?:s|ed)? to|refuse[sd]? to|declin(?:es|ed) to|anything but|far from|nowhere near"
    r"|other than|instead of|rather than|hardly|scarcely|seldom|rarely|never|nobody"
    r"|(?:possible|plausible|probable|improbable|implausible|conceivable|likely) that"
    r"|(?:mistake|error|lie) (?:that|to)|myth|hoax|illusion|misconception|absurd|nonsense"
    r"|contradict(?:s|ed|ion)?|disagree[sd]?|reject(?:s|ed)?|unclear|whether"
    r"|unmöglich|falsch|keine?[mnrs]?|niemals|nie|impossibile|jamais|faux|imposible|falso|falsa"
    r"|nunca|jamás|tampoco|невозможно|неверно|никогда|неправильно)\b"
    r"|不可能(?!事件)|并非|绝非|决非|不是|不等于|从未|无法|错(?!排|位)|误(?!差)|否认|假的|(?:他|她|有人)说",
    re.IGNORECASE,
)
_CONCLUSION = re.compile(
    r"(?:\\Rightarrow|\\implies|\\therefore|⟹|⇒|∴|=>|[,.;]\s*(?:so|therefore|thus|hence)\b"
    r"|所以|因此|故)",
    re.IGNORECASE,
)


def is_denied(text: str) -> bool:
    """True where a word denies what the text says; what leads to a conclusion does not count."""
    *_, said = _CONCLUSION.split(text)
    return _DENIED.search(said) is not None
