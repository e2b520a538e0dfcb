"""One spelling for what Unicode, Markdown and LaTeX write in many ways."""

from __future__ import annotations

import re
import unicodedata

_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufe00-\ufe0f\ufeff]")
_OVERLINED = re.compile("(?:.[\u0305\u0304])+")
_RAISED = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱˣʸᵃᵇᵏᵐᵗ", "0123456789+-=()nixyabkmt", strict=True))
_LOWERED = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₐₑₓₖₙₘ", "0123456789+-=()aexknm", strict=True))
_SUPERSCRIPT = re.compile(f"[{''.join(map(re.escape, _RAISED))}]+")
_SUBSCRIPT = re.compile(f"[{''.join(map(re.escape, _LOWERED))}]+")

TIGHT_COMMA = "\ue000"
r"""What `{,}` becomes: a comma inside a number, never between two."""

_COMMANDS_OF = {
    "×": "times", "✕": "times", "⨯": "times", "✖": "times", "·": "cdot", "⋅": "cdot",
    "∙": "cdot", "•": "cdot", "∗": "cdot", "÷": "div", "±": "pm", "∓": "mp", "∞": "infty",
    "∅": "emptyset", "⌀": "emptyset", "Ø": "emptyset", "ø": "emptyset", "≤": "le", "⩽": "le",
    "≦": "le", "≥": "ge", "⩾": "ge", "≧": "ge", "≠": "ne", "≈": "approx", "≃": "approx",
    "≅": "cong", "≡": "equiv", "∈": "in", "∉": "notin", "∪": "cup", "⋃": "cup", "∩": "cap",
    "∖": "setminus", "⊂": "subset", "⊆": "subseteq", "∧": "land", "∨": "lor", "¬": "neg",
    "⇒": "Rightarrow", "⟹": "Rightarrow", "⇔": "iff", "⟺": "iff", "→": "to", "⟶": "to",
    "∀": "forall", "∃": "exists", "∫": "int", "∑": "sum", "∏": "prod", "∂": "partial",
    "∇": "nabla", "°": "degree", "º": "degree", "˚": "degree", "∠": "angle", "△": "triangle",
    "Δ": "Delta", "⊥": "perp", "∥": "parallel", "∼": "sim", "…": "dots", "⋯": "dots",
    "ℝ": "mathbb{R}", "ℤ": "mathbb{Z}", "ℕ": "mathbb{N}", "ℚ": "mathbb{Q}", "ℂ": "mathbb{C}",
    "√": "sqrt", "∛": "cbrt", "∜": "fourthroot", "⟨": "langle", "⟩": "rangle", "〈": "langle",
    "〉": "rangle", "⌊": "lfloor", "⌋": "rfloor", "⌈": "lceil", "⌉": "rceil", "π": "pi",
    "€": "euro", "£": "pound", "¥": "yen", "￥": "yen", "₹": "rupee", "₽": "ruble", "₩": "won",
    "¢": "cent", "‰": "permille", "ℓ": "ell", "℃": "degree C", "℉": "degree F", "µ": "mu",
    "∣": "mid", "∶": "colon",
}  # fmt: skip
_PLAIN_OF = {
    "−": "-", "–": "-", "‐": "-", "‑": "-", "‒": "-", "﹣": "-", "⁄": "/", "∕": "/", "＼": "\\",
    "、": ", ", "，": ", ", "。": ".", "；": "; ", "‚": ",", "’": "'", "‘": "'", "“": '"',
    "”": '"', "′": "'", "″": "''", "㎡": "m^{2}", "㎥": "m^{3}", "㎠": "cm^{2}", "㎤": "cm^{3}",
    "㎢": "km^{2}", "【": "[", "】": "]", "「": '"', "」": '"', "％": "%", "﹪": "%",
    "＄": "\\$", "ⅈ": "i", "ⅇ": "e", "：": ": ",
}  # fmt: skip
_TRANSLATION = str.maketrans(
    {char: f"\\{name} " for char, name in _COMMANDS_OF.items()} | _PLAIN_OF
)

_COMMAND_NAMES = {
    "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "nicefrac": "frac",
    "sfrac": "frac", "flatfrac": "frac", "xfrac": "frac", "cr": "\\\\", "num": " ",
    "leq": "le", "leqslant": "le",
    "geq": "ge", "geqslant": "ge", "neq": "ne", "lt": "<", "gt": ">", "lbrace": "\\{",
    "rbrace": "\\}", "lvert": "|", "rvert": "|", "vert": "|", "mid": "|", "lbrack": "[",
    "rbrack": "]", "colon": ":", "ast": "*", "star": "*", "ldots": "\\dots", "cdots": "\\dots",
    "dotsc": "\\dots", "dotso": "\\dots", "varnothing": "\\emptyset", "rightarrow": "\\to",
    "longrightarrow": "\\to", "implies": "\\Rightarrow", "wedge": "\\land", "vee": "\\lor",
    "bigcup": "\\cup", "bigcap": "\\cap", "backslash": "\\setminus", "smallsetminus": "\\setminus",
    "R": "\\mathbb{R}", "Z": "\\mathbb{Z}", "N": "\\mathbb{N}", "Q": "\\mathbb{Q}",
    "reals": "\\mathbb{R}", "textdegree": "\\degree", "degrees": "\\degree", "perthousand":
    "\\permille", "textdollar": "\\dollar", "texteuro": "\\euro", "pounds": "\\pound",
    "textbackslash": "\\setminus", "tbinom": "\\binom", "dbinom": "\\binom", "percent": "%",
    "varphi": "\\phi", "varepsilon": "\\epsilon", "vartheta": "\\theta", "dotsb": "\\dots",
    "overarc": "\\widehat", "ngtr": "\\le", "nless": "\\ge", "lor": " or ", "land": " and ",
    "textless": "<", "textgreater": ">", "mathds": "\\mathbb", "Bbb": "\\mathbb",
    "textsubscript": "_", "textsuperscript": "^", "arctan": "\\arctan", "textbar": "|",
}  # fmt: skip
_COMMAND_NAMES = {
    name: to if to.startswith("\\") or not to.isalpha() else f"\\{to}"
    for name, to in _COMMAND_NAMES.items()
}
_DROPPED = frozenset(
    [
        "left", "right", "big", "Big", "bigg", "Bigg", "bigl", "bigr", "Bigl", "Bigr", "biggl",
        "biggr", "Biggl", "Biggr", "bigm", "displaystyle", "textstyle", "scriptstyle", "limits",
        "nolimits", "quad", "qquad", "enspace", "thinspace", "hfill", "mathbf", "boldsymbol",
        "bm", "mathit", "mathnormal", "mathsf", "mathcal", "pmb", "underline", "rm", "bf", "it",
        "middle", "mathtt", "bold", "symbf", "mathbin", "mathrel", "mathord", "noindent",
        "centering", "large", "Large", "vphantom", "boxed", "fbox",
    ]
)  # fmt: skip
_TEXT = frozenset(
    [
        "text", "textbf", "textit", "textrm", "textnormal", "textsf", "texttt", "mathrm", "mbox",
        "hbox", "emph", "operatorname", "mathop", "textup",
    ]
)  # fmt: skip
_COMMAND = re.compile(r"\\([a-zA-Z]+)\*?|\\([^a-zA-Z])", re.DOTALL)
_DELIMITER_DOT = re.compile(r"\\(?:left|right)\s*\.(?!\d)")
_DEGREE = re.compile(r"\^\s*(?:\{\s*\\(?:circ|degree)\s*\}|\\(?:circ|degree)(?![a-zA-Z]))")
BOLD = re.compile(r"(?<![\w)\]}*])(\*\*|__)(?=\S)([^*\n]+?)(?<=\S)\1(?![\w(*])")
_NOT_EQUAL = re.compile(r"(?<=[A-Za-z\s])!=")
_POWER = re.compile(r"(?<=[\w)\]}])\s*\*\*\s*(?=[\w({+-])")
_WIDE_GROUP = re.compile(r"(?<=\d)，(?=\d{3}(?!\d))")
_SCENERY = re.compile(
    r"\\(?:begin|end)\s*\{\s*(?:equation|align|displaymath|math|gather|center|split)\*?\s*\}"
    r"|\\(?:text)?color\s*(?:\[\w*\])?\{[^{}]*\}|\\(?:hspace|vspace|h?phantom)\s*\{[^{}]*\}"
    r"|\\left\s*(?:\\\{|\\lbrace)\s*(?=\\begin\s*\{\s*(?:array|matrix|aligned|cases))"
    r"|\\ensuremath(?![a-zA-Z])"
)
"""Environments, colours and spaces that say nothing, and the brace in front of a system."""
_SI = re.compile(r"\\(?:SI|qty)\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_ANGLE = re.compile(r"\\ang\s*\{([^{};]*)\}")
_TIMES_TEN = re.compile(r"(?<=\d)\s*[xX]\s*(?=10\s*(?:\^|\*\*))")
_TEXT_E = re.compile(r"(?<=\d)\s*\\text\s*\{\s*[eE]\s*\}\s*(?=[-+]?\d)")
_OVER = re.compile(r"(?<=\d)\s+over\s+(?=\d)")
_MINUS_SET = re.compile(r"(?<=[}ℝ])\s*\\ +(?=\\?\{)")
_SIDE_BY_SIDE = re.compile(r"(=\s*[-+]?[\w./{}\\]+)(?<!\\)\s+(?=[a-z]\s*=)")
"""`x=2 y=3`: two relations without a comma."""
_TYPED_ANGLES = re.compile(r"(?<![^=\s])<([^<>=]*,[^<>=]*)>(?=\s*\Z)")
_TEXT_DIGITS = re.compile(r"\\text\s*\{\s*([0-9A-Fa-f]+)\s*\}\s*_")
_ALIGNED = re.compile(r"&\s*(=|<|>|\\(?:le|ge|ne|equiv)(?![a-zA-Z]))(?:\s*&)?|(?<==)\s*&")
"""The marks of aligned relations."""
_CONTINUED = re.compile(r"(?<=\S)[ \t]*(?:\\\\|\n)[ \t]*(?==(?!=))")
"""A row that starts with `=` goes on with the one above."""
_CIRCLED = re.compile(r"(?<=[\u2460-\u2473])\s{0,9}(?=[\u2460-\u2473])")
"""Between circled numbers, which name statements: ①③ is a list."""
_SPACES = re.compile(r"[ \t\r\f\v\u00a0\u2000-\u200a\u202f\u205f\u3000]+")


def clean(text: str) -> str:
    r"""Return `text` in the one spelling that the tokens are read from. Linear time.

    Unicode mathematics becomes LaTeX commands, typographic LaTeX is dropped, text commands are
    all `\text`, delimiters of formulas are gone, and a line break outside brackets is `;`.
    """
    text = _CIRCLED.sub(", ", _WIDE_GROUP.sub(",", _INVISIBLE.sub("", text)))
    text = _MINUS_SET.sub(r"\\setminus ", text).replace("Rs.", "Rs ")
    text = _ANGLE.sub(r"\1\\degree ", _SI.sub(r"\1 \\text{\2}", _SCENERY.sub(" ", text)))
    text = _OVERLINED.sub(lambda m: "\\overline{" + m.group()[::2] + "}", text)
    text = _SUPERSCRIPT.sub(
        lambda m: "^{" + "".join(map(_RAISED.__getitem__, m.group())) + "}", text
    )
    text = _SUBSCRIPT.sub(
        lambda m: "_{" + "".join(map(_LOWERED.__getitem__, m.group())) + "}", text
    )
    text = "".join(_vulgar_fraction(char) for char in text.translate(_TRANSLATION))
    text = unicodedata.normalize("NFKC", text).replace("{,}", TIGHT_COMMA).replace("{.}", ".")
    text = text.replace("\\!,", TIGHT_COMMA).replace(",\\!", TIGHT_COMMA)
    text = BOLD.sub(r"\2", text)
    text = _DEGREE.sub(r"\\degree ", _DELIMITER_DOT.sub(" ", text))
    text = _COMMAND.sub(_one_command, text)
    text = _CONTINUED.sub(" ", _ALIGNED.sub(lambda match: match[1] or "", text))
    text = _POWER.sub("^", _NOT_EQUAL.sub(r"\\ne ", text))
    text = text.replace("<=", "\\le ").replace(">=", "\\ge ").replace("==", "=")
    text = text.replace(":=", "=").replace("->", "\\to ").replace("...", "\\dots ")
    text = _SIDE_BY_SIDE.sub(r"\1, ", text)
    text = text.replace("`", " ").replace("~", " " if text[:1] != "~" else "~").replace("US$", "$")
    text = _TYPED_ANGLES.sub(r"\\langle \1\\rangle ", text)
    text = _OVER.sub("/", _TEXT_E.sub("e", _TIMES_TEN.sub(r"\\times ", text)))
    text = _TEXT_DIGITS.sub(r"\1_", text)
    text = text.replace("US\\dollar", "\\dollar")
    return _SPACES.sub(" ", _without_dollars(text)).strip()


def _vulgar_fraction(char: str) -> str:
    if char.isascii() or not unicodedata.decomposition(char).startswith("<fraction>"):
        return char
    top, _, bottom = unicodedata.normalize("NFKC", char).partition("⁄")
    return f"\\frac{{{top}}}{{{bottom}}}" if top and bottom else char


def _one_command(match: re.Match[str]) -> str:
    name, sign = match.groups()
    if sign is not None:
        return _ONE_SIGN.get(sign, match.group())
    if name in _DROPPED:
        return " "
    if name in _TEXT:
        return "\\text"
    return _COMMAND_NAMES.get(name, f"\\{name}") + " "


_ONE_SIGN = {
    ",": " ", ";": " ", ":": " ", "!": "", " ": " ", ">": " ", "\n": " ", "%": "%",
    "$": "\\dollar ", "&": "&", "#": "#", "_": "_", "(": " ", ")": " ", "[": " ", "]": " ",
    "|": "|", "-": "",
}  # fmt: skip


def _without_dollars(text: str) -> str:
    r"""Return `text` without the dollars around formulas; a dollar beside a number is money."""
    if "$" not in text:
        return text
    parts = text.replace("$$", "$").split("$")
    money = len(parts) % 2 == 0 and len(parts) == 2
    if len(parts) > 2 and len(parts) % 2:
        inside = parts[1::2]
        after = parts[2::2]
        money = any(
            (part.endswith(" ") or part == "") and rest[:1].isdigit()
            for part, rest in zip(inside, after, strict=True)
        )
    return "\\dollar ".join(parts) if money else " ".join(parts)
