"""Grammar of what stands between operators: numbers, names, brackets, functions, matrices."""

from __future__ import annotations

from r1pipe.rewards.mathematics.environments import Environments
from r1pipe.rewards.mathematics.nodes import Node, Unreadable, num
from r1pipe.rewards.mathematics.tokens import FUNCTIONS, Token

GREEK = frozenset(
    [
        "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa",
        "lambda", "mu", "nu", "xi", "rho", "sigma", "tau", "upsilon", "phi", "chi", "psi",
        "omega", "Gamma", "Delta", "Theta", "Lambda", "Xi", "Pi", "Sigma", "Upsilon", "Phi",
        "Psi", "Omega", "ell", "hbar", "aleph",
    ]
)  # fmt: skip
_ACCENTS = frozenset(
    ["overline", "bar", "hat", "vec", "overrightarrow", "widehat", "tilde", "widetilde", "dot"]
)
_NAMES = frozenset(["angle", "triangle", "odot", "circ", "square", "parallelogram"])
OPAQUE = frozenset(
    [
        "int", "iint", "oint", "sum", "prod", "lim", "forall", "exists", "Rightarrow", "iff",
        "to", "perp", "parallel", "sim", "cong", "approx", "subset", "subseteq", "supset",
        "notin", "neg", "partial", "nabla", "infinitesimal", "simeq", "propto", "ge", "le", "ne",
        "equiv", "in", "mapsto", "leftrightarrow", "Leftrightarrow", "because", "therefore",
        "langle", "rangle", "prime",
    ]
)  # fmt: skip
_APPLIED = frozenset("fgh")
_CLOSERS = {"(": (")", "]"), "[": ("]", ")", "["), "]": ("[", "]")}
_SETS = frozenset("RZNQC")


class Atoms(Environments):
    """The lower half of the grammar; the upper half gives `statement` and `expression`."""

    def statement(self) -> Node:
        raise NotImplementedError

    def expression(self) -> Node:
        raise NotImplementedError

    def term(self, first: bool = False) -> Node:
        raise NotImplementedError

    def factor(self) -> Node:
        raise NotImplementedError

    def primary(self) -> Node:
        """Read one operand without its powers and other signs behind it."""
        token = self.next
        if token.kind == "num":
            return self._number()
        if token.kind == "sym":
            return self._symbol()
        if token.kind == "cmd":
            return self._command()
        if token.kind == "word":
            return self._word()
        if token.kind == "op":
            if token.text in _CLOSERS:
                return self._bracket()
            if token.text in ("{", "\\{"):
                return self._braces()
            if token.text == "|":
                return self._bars()
        raise Unreadable(f"unexpected {token.text!r}")

    def _number(self) -> Node:
        token = self.take()
        assert token.node is not None
        if token.node.op == "base":
            return token.node
        return self._mixed(token)

    def _mixed(self, token: Token) -> Node:
        r"""Read `3 1/2` or `3\frac{1}{2}` as one number where the fraction is a proper one."""
        whole = token.node
        assert whole is not None
        before = self.at
        if whole.value.denominator != 1 or not token.text.isdigit():
            return whole
        if self.is_cmd("frac"):
            part = self._fraction()
        elif self.next.kind == "num" and self.next.spaced and self.second.text == "/":
            top = self.take().node
            self.take()
            bottom = self.take() if self.next.kind == "num" else None
            if top is None or bottom is None or bottom.node is None:
                raise Unreadable("two numbers side by side")
            part = Node("div", (top, bottom.node), "/")
        elif self.next.kind == "num" and self.next.spaced and self.next.node is not None:
            part = self.next.node
            # A word such as `half` after a number: `3 half` is none, `3 1/2` came above.
            raise Unreadable("two numbers side by side")
        else:
            return whole
        top, bottom = part.args
        if top.op == bottom.op == "num" and all(
            one.value.denominator == 1 for one in (top, bottom)
        ):
            if not 0 < top.value < bottom.value:
                raise Unreadable("a mixed number needs a proper fraction")
            return num(whole.value + top.value / bottom.value)
        self.at = before
        return whole

    def _symbol(self) -> Node:
        token = self.take()
        name = token.text
        if self.is_op("_"):
            name += self._subscript()
        while self.accept("'"):
            name += "'"
        if name == "e":
            return Node("const", (), "e")
        if name == "i":
            return Node("const", (), "i")
        applied = name.rstrip("'")[:1] in _APPLIED or self._names_function()
        if applied and self.is_op("(") and not self.next.spaced:
            return Node("apply", self._arguments(), name)
        return Node("sym", (), name)

    def _names_function(self) -> bool:
        """True for `p(x) =` at the start: nobody names a product so."""
        inside, close, sign = (
            self.tokens[min(self.at + n, len(self.tokens) - 1)] for n in (1, 2, 3)
        )
        name = self.tokens[self.at - 1]
        return (
            self.at == 1
            and inside.kind in ("sym", "num")
            and (inside.kind == "sym" or name.text not in "kmnxyz")
            and inside.text != name.text
            and close.text == ")"
            and sign.text == "="
        )

    def _subscript(self) -> str:
        """Read what follows a name: `_1`, `_{12}`, `_{max}`."""
        self.take()
        if not self.accept("{"):
            token = self.take()
            if token.kind not in ("num", "sym", "word", "cmd"):
                raise Unreadable("subscript")
            return f"_{token.text}"
        parts: list[str] = []
        while not self.accept("}"):
            token = self.take()
            if token.kind == "end" or token.text == "{" or len(parts) > 20:
                raise Unreadable("subscript")
            parts.append(token.text)
        return "_" + "".join(parts)

    def _word(self) -> Node:
        """Read letters: a product of a few, or the name of something."""
        token = self.take()
        text = token.text
        if self.is_op("_"):
            return Node("sym", (), text + self._subscript())
        if token.quoted or not text.isascii() or len(text) > 3 or text.isupper():
            return Node("sym", (), text) if text.isupper() else Node("word", (), text)
        letters = tuple(
            Node("const", (), letter) if letter in "ei" else Node("sym", (), letter)
            for letter in text
        )
        return Node("mul", letters, "letters")

    def _bracket(self) -> Node:
        opening = self.take().text
        closers = _CLOSERS[opening]
        with self.nested():
            if opening == "(" and self.is_op(")"):
                raise Unreadable("empty brackets")
            inside = self.statement()
        closing = self.expect(*closers)
        if inside.op != "list" and opening + closing in ("()",):
            if inside.op in ("rel", "word"):
                raise Unreadable("a statement in brackets")
            return inside
        if inside.op == "matrix":
            return inside
        items = inside.args if inside.op == "list" else (inside,)
        return Node("seq", items, opening + closing)

    def _braces(self) -> Node:
        opening = self.take().text
        closing = "}" if opening == "{" else "\\}"
        if self.accept(closing):
            return Node("set", (), "empty")
        # `{1, {2}}` holds a set, `{{2}}` only groups.
        listed = self.in_set and self.at > 1 and self.tokens[self.at - 2].text == ","
        within = self.in_set
        with self.nested(bar_closes=True):
            self.in_set = True
            inside = self._over(self.statement())
            self.in_set = within
            if self.is_op("|", ":"):
                self.take()
                self.bar_closes = False
                condition = self.statement()
                self.expect(closing)
                return Node("builder", (inside, condition))
        self.expect(closing)
        if inside.op == "list":
            return Node("seq", inside.args, "{}")
        listed = listed or (within and self.is_op(","))
        if opening == "{" and inside.op not in ("set", "seq") and not listed:
            return inside
        return Node("seq", (inside,), "{}")

    def _over(self, top: Node) -> Node:
        r"""Read the rest of TeX's `{3 \over 4}`."""
        if self.is_cmd("choose"):
            self.take()
            return Node("func", (top, self.expression()), "binom")
        if not self.is_cmd("over"):
            return top
        self.take()
        return Node("div", (top, self.expression()), "frac")

    def _bars(self) -> Node:
        if self.bar_closes:
            raise Unreadable("unexpected bar")
        self.take()
        with self.nested(bar_closes=True):
            inside = self.expression()
        self.expect("|")
        return Node("abs", (inside,))

    def argument(self) -> Node:
        """Read the argument of a command or a power: a group in braces, or one operand."""
        if self.accept("{"):
            with self.nested():
                inside = self._over(self.expression())
            self.expect("}")
            return inside
        if self.next.kind == "num" and self.next.node is not None:
            node = self.next.node
            self.take()
            return node
        with self.nested(self.bar_closes):
            if self.is_op("-", "+"):
                sign = self.take().text
                inside = self.primary()
                return Node("neg", (inside,)) if sign == "-" else inside
            return self.primary()

    def _fraction(self) -> Node:
        self.take()
        return Node("div", (self._fraction_part(), self._fraction_part()), "frac")

    def _fraction_part(self) -> Node:
        r"""Read one part of `\frac`; without braces that is one digit or letter, as in TeX."""
        token = self.next
        if token.kind == "num" and token.text.isdigit() and len(token.text) > 1:
            rest = token.text[1:]
            self.tokens[self.at] = Token("num", rest, False, False, num(int(rest)), token.start)
            return num(int(token.text[0]))
        return self.argument()

    def _arguments(self) -> tuple[Node, ...]:
        self.expect("(")
        with self.nested():
            inside = self.statement()
        self.expect(")")
        return inside.args if inside.op == "list" else (inside,)

    def _command(self) -> Node:
        name = self.next.text
        if name == "frac":
            return self._fraction()
        if name in FUNCTIONS:
            return self._function()
        if name == "begin":
            return self.environment()
        self.take()
        if name in ("sqrt", "cbrt", "fourthroot"):
            return self._root(name)
        if name == "pi":
            return Node("const", (), "pi")
        if name == "infty":
            return Node("const", (), "oo")
        if name == "emptyset":
            return Node("set", (), "empty")
        if name == "mathbb":
            letter = self.argument()
            if letter.op != "sym" or letter.value not in _SETS:
                raise Unreadable("unknown set")
            return Node("set", (), letter.value)
        if name == "binom":
            return Node("func", (self.argument(), self.argument()), "binom")
        if name in GREEK:
            return self._named(name)
        if name == "dots":
            return Node("word", (), "dots")
        if name in ("lfloor", "lceil"):
            with self.nested():
                inside = self.expression()
            if not self.is_cmd("rfloor" if name == "lfloor" else "rceil"):
                raise Unreadable("open floor")
            self.take()
            return Node("floor" if name == "lfloor" else "ceil", (inside,))
        if name == "langle":
            with self.nested():
                inside = self.statement()
            if not self.is_cmd("rangle"):
                raise Unreadable("open angle bracket")
            self.take()
            return Node("seq", inside.args if inside.op == "list" else (inside,), "<>")
        if name in _ACCENTS or name in _NAMES:
            return self._accented(name)
        raise Unreadable(f"unknown command {name!r}")

    def _named(self, name: str) -> Node:
        if self.is_op("_"):
            name += self._subscript()
        return Node("sym", (), name)

    def _accented(self, name: str) -> Node:
        braced = self.accept("{")
        parts: list[str] = []
        while self.next.kind in ("sym", "word", "num", "cmd") and len(parts) < 8:
            token = self.next
            if token.kind == "cmd" and token.text not in GREEK:
                break
            parts.append(self.take().text)
            if not braced and token.kind != "sym":
                break
        if braced:
            self.expect("}")
        if not parts:
            raise Unreadable(name)
        return Node("sym", (), f"{name} {''.join(parts)}")

    def _root(self, name: str) -> Node:
        degree = num({"sqrt": 2, "cbrt": 3, "fourthroot": 4}[name])
        if name == "sqrt" and self.accept("["):
            with self.nested():
                degree = self.expression()
            self.expect("]")
        return Node("root", (self.argument(), degree))

    def _function(self) -> Node:
        name = self.take().text
        power = base = None
        for _ in range(2):
            if self.accept("^"):
                power = self.argument()
            elif self.accept("_"):
                base = self.argument()
        if self.is_op("(") or (self.is_op("{") and name != "log"):
            opening = self.take().text
            with self.nested():
                inside = self.statement()
            self.expect(")" if opening == "(" else "}")
            args = inside.args if inside.op == "list" else (inside,)
        else:
            with self.nested(self.bar_closes):
                args = (self._bare_argument(),)
        if base is not None:
            if name != "log":
                raise Unreadable("a subscript of a function")
            args = (*args, base)
        node = Node("func", args, name)
        if power is None:
            return node
        if power.op == "neg" and power.args[0] == num(1):
            return Node("func", args, f"arc{name}")
        return Node("pow", (node, power))

    def _bare_argument(self) -> Node:
        r"""Read what follows a function without brackets: `\sin 2x` takes both factors."""
        parts = [self.factor()]
        while (
            self.next.kind in ("num", "sym", "word") or self.is_cmd("pi", "frac", "sqrt", *GREEK)
        ) and len(parts) < 10:
            if self.next.kind == "word" and (self.next.spaced or self.next.quoted):
                break
            parts.append(self.factor())
        return parts[0] if len(parts) == 1 else Node("mul", tuple(parts), "implicit")
