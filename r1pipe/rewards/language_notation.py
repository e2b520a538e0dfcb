"""Takes mathematics, code and addresses out of a text, and leaves the prose that hides in them."""

from __future__ import annotations

import re
import unicodedata

GAP = " \ufffc "
"""Stands where notation was taken out: words on both sides of it are no neighbours."""

_LETTER = "[^\\W\\d_]"
# Possessive, and started at word starts only: no run of letters is walked through twice.
_SENTENCE = re.compile(
    rf"(?<!\w){_LETTER}{{2,}}+(?:(?:[,;:.]? {{1,3}}|['’\-]){_LETTER}{{2,}}+(?!\w)){{2,}}+"
)
_FOREIGN = re.compile(
    r"[\u0400-\u052f\u0590-\u1dbf\u2c00-\ud7ff\uf900-\ufdff\U00020000-\U0003ffff]{2,}+"
)

_OPENER = re.compile(
    r"```|~~~|`|\$\$|\$|\\\(|\\\["
    r"|\\(?:begin|end|operatorname|label|ref|eqref|tag|color)\*?\{[\w:.*-]{0,24}\}"
    r"|\\(?:math(?:rm|bf|it|cal|bb|sf|frak)|boldsymbol|bm)\s?\{\w{0,12}\}"
    r"|\\[A-Za-z]+|(?:https?://|www\.)[!-~]*|[\w.+-]{1,64}@[A-Za-z0-9.-]{1,64}"
    r"|(?<![\w.])[A-Za-z]\w{0,30}(?:(?:\.[a-z_]\w{0,30}){1,2}(?![.\w])|(?=\[[\w:+-]{1,20}\]))"
    r"|</?(?:br|b|i|u|p|div|span|code|pre|table|thead|tbody|tr|td|th|ul|ol|li|sub|sup|em|strong"
    r"|h[1-6]|hr|think|answer)\s?/?>",
    re.ASCII,
)
_CLOSERS = {"```": "```", "~~~": "~~~", "`": "`", "$$": "$$", "$": "$", "\\(": "\\)", "\\[": "\\]"}
_ONE_LINE = frozenset({"`", "$"})
_FENCES = frozenset({"```", "~~~"})

_TEXT_IN_MATHS = re.compile(r"\\(?:text(?:bf|it|rm|sf|normal)?|[mh]box)\s?\{([^{}]*)\}")
_STYLED = re.compile(r"\\(?:math(?:rm|bf|it|sf|tt)|operatorname\*?|boldsymbol|bm)\s?\{([^{}]*)\}")
_COMMAND = re.compile(r"\\(?:begin|end)\{[^{}]{0,40}\}|\\(?:[A-Za-z]+|.)|~")

_STRING = re.compile(r"\"[^\"\n]*\"|'[^'\n]*'")
_COMMENT = re.compile(r"\s*(?:#|//|/\*|\*|%|--)")
_CODE_LINE = re.compile(
    r"\s*(?:[$>%]\s*)?(?:"
    r"(?:return|assert|import|raise|yield|global|nonlocal|del|print|echo|pip|git|cd|sudo|apt|npm|curl|wget|docker|let"
    r"|const|var|int|long|double|float|void|char|using|include|public|private|static|package"
    r"|SELECT|FROM|WHERE|INSERT|UPDATE|DELETE|CREATE|ORDER|GROUP|JOIN|INNER|LEFT|VALUES|SET|LIMIT)\b"
    r"|from\s+[\w.]+\s+import\b"
    r"|(?:if|elif|else|for|while|with|def|class|try|except|finally|async|case|match|switch)\b"
    r"[^\n]*[:{]\s*$)"
)
_CODE_SIGN = re.compile(r"[={}\[\]<>;_]|[\w)]\(|\w\.\w|->|\|\|")
_BARE_CODE = re.compile(
    r"^[ \t]*(?:def \w{1,60}\([^\n]{0,200}:|class \w{1,60}[:(][^\n]{0,200}|import "
    r"[\w.]{1,60}(?: as \w{1,30})?[ \t]*"
    r"|from [\w.]{1,60} import [^\n]{1,200}|for \w{1,30} in [^\n]{1,60}:|while [^\n]{1,60}:"
    r"|(?:el)?if [^\n]{0,60}[=<>][^\n]{0,60}:|else:|print\([^\n]{0,200}\)[ \t]*"
    r"|return [\w+\-*/%(). \[\],]{1,60})$",
    re.MULTILINE,
)

_INVISIBLE = [
    *(0x00AD, 0x034F, 0x061C, 0x0640, 0x180E, 0xFEFF),
    *range(0x064B, 0x0653),
    0x0670,
    *range(0x200B, 0x2010),
    *range(0x202A, 0x202F),
    *range(0x2060, 0x2070),
    *range(0xFE00, 0xFE10),
    *range(0xE0000, 0xE01F0),
]
# Letters in another dress: full width, mathematical, circled, ligatures, Arabic shapes.
_DRESSED = (
    *range(0x2100, 0x2150),
    *range(0x24B6, 0x24EA),
    *range(0x3131, 0x318F),
    *range(0xFB00, 0xFB07),
    *range(0xFB50, 0xFE00),
    *range(0xFE70, 0xFEFD),
    *range(0xFF01, 0xFF5F),
    *range(0x1D400, 0x1D800),
    *range(0x1F130, 0x1F14A),
)
_CHUNK = 512
_LOOSE_MARKS = re.compile(
    "[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]++"
)
_FOLD: dict[int, str | None] = {}


def _fold_table() -> dict[int, str | None]:
    if not _FOLD:
        for code in _DRESSED:
            plain = unicodedata.normalize("NFKC", chr(code))
            if len(plain) <= 4:
                _FOLD[code] = plain
        _FOLD.update(dict.fromkeys(_INVISIBLE))
        _FOLD[0x3000] = " "
    return _FOLD


def folded(text: str) -> str:
    """Return `text` composed (NFC), without invisible characters, plain letters for dressed ones.

    Goes through in pieces: sorting the marks of one letter is quadratic in their number.
    """
    if text.isascii():
        return text
    text = text.translate(_fold_table())
    composed = "".join(
        unicodedata.normalize("NFC", text[start : start + _CHUNK])
        for start in range(0, len(text), _CHUNK)
    )
    return _LOOSE_MARKS.sub("", composed)


def without_notation(text: str) -> str:
    r"""Return `text` without code, delimited mathematics, LaTeX commands and addresses.

    What is prose inside them stays: `\text{...}`, three words in a row, words in other scripts,
    and the lines of a fenced block that are no code; else a policy could think in any language
    between two dollar signs. A fence without its end goes on to the end of the text; any other
    opener without its closer stays text. One pass: each kind of closer is looked for at most once
    in vain.
    """
    kept, position, exhausted = [], 0, set[str]()
    while match := _OPENER.search(text, position):
        kept.append(text[position : match.start()])
        opener, position = match.group(), match.end()
        kept.append(GAP)
        closer = _CLOSERS.get(opener)
        if closer is None or closer in exhausted:
            continue
        end = text.find(closer, position)
        if opener in _FENCES:
            end = len(text) if end < 0 else end
            kept += [prose_in_fence(text[position:end]), GAP]
            position = end + len(closer)
        elif end < 0:
            exhausted.add(closer)
        elif "\n" not in (inside := text[position:end]) or opener not in _ONE_LINE:
            kept += [_prose_in_ticks(inside) if opener == "`" else prose_in_maths(inside), GAP]
            position = end + len(closer)
    kept.append(text[position:])
    return _BARE_CODE.sub(GAP, "".join(kept))


def prose_in_maths(formula: str) -> str:
    r"""Return the prose in a formula: what `\text` holds, and words that stand in a row."""
    if "\\" in formula or "~" in formula:
        said = [f"{match.group(1)}." for match in _TEXT_IN_MATHS.finditer(formula)]
        rest = _STYLED.sub(r" \1 ", _TEXT_IN_MATHS.sub(GAP, formula))
        rest = " ".join(_COMMAND.sub(" ", rest).split())
    else:
        said, rest = [], formula
    return GAP.join([*said, *_sentences(rest)])


def _prose_in_ticks(code: str) -> str:
    return "" if _CODE_LINE.match(code) else GAP.join(_sentences(code))


def _sentences(text: str) -> list[str]:
    return [*_SENTENCE.findall(text), *_FOREIGN.findall(_SENTENCE.sub(GAP, text))]


def prose_in_fence(block: str) -> str:
    """Return the lines of a fenced block that are prose.

    A comment belongs to the code beside it; where comments outnumber the lines of code, the
    block is a vehicle for them. A block without a line of code is prose if it holds a sentence.
    """
    prose, comments, code_lines, quoted = [], [], 0, False
    for line in block.split("\n"):
        starts_comment = _COMMENT.match(line) is not None
        marks = line.count('"""') + line.count("'''")
        if quoted or marks or starts_comment:
            comments.append(line)
            quoted ^= marks % 2 == 1
            continue
        rest = _STRING.sub(" ", line)
        if rest.isspace() and not line.isspace():
            rest = line
        sentences = [] if _CODE_LINE.match(rest) else _sentences(rest)
        if sentences and (not _CODE_SIGN.search(rest) or sum(map(len, sentences)) > len(rest) / 2):
            prose.append(line)
        elif _CODE_LINE.match(rest) or _CODE_SIGN.search(rest):
            code_lines += 1
    said = [line for line in comments if _sentences(line)]
    return "\n".join([*prose, *(said if len(said) > code_lines else [])])
