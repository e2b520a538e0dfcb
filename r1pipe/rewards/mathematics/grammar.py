"""Grammar of whole answers: lists, relations, sums, products, quantities."""

from __future__ import annotations

from r1pipe.rewards.mathematics.atoms import GREEK
from r1pipe.rewards.mathematics.nodes import Node, Unreadable, num, walk
from r1pipe.rewards.mathematics.quantities import AND_WORDS, OR_WORDS, Quantities
from r1pipe.rewards.mathematics.spelling import clean
from r1pipe.rewards.mathematics.tokens import FUNCTIONS

_ORDINAL = frozenset(["st", "nd", "rd", "th"])
_MINUS_WORDS = frozenset(["minus", "negative"])
_RELATIONS = {"=": "=", "<": "<", ">": ">"}
_RELATION_COMMANDS = {"le": "<=", "ge": ">=", "ne": "!=", "in": "in", "equiv": "=="}
_STARTS = frozenset(
    [
        "frac", "sqrt", "cbrt", "fourthroot", "pi", "infty", "binom", "lfloor", "lceil",
        "langle", "begin", "mathbb", "emptyset", "overline", "bar", "hat", "vec",
        "overrightarrow", "widehat", "angle", "triangle",
    ]
)  # fmt: skip


def parse(text: str) -> Node:
    """Read a cleaned text as one answer; raises Unreadable where the grammar does not fit."""
    parser = Grammar(text)
    node = parser.statement()
    if parser.next.kind != "end":
        raise Unreadable(f"unexpected {parser.next.text!r}")
    return node


def read(text: str) -> Node:
    """Clean and parse a text."""
    return parse(clean(text))


class Grammar(Quantities):
    """The upper half of the grammar."""

    def statement(self) -> Node:
        """Read items joined by commas, semicolons, line breaks, `and` or `or`."""
        items = [self.relation()]
        joints: list[str] = []
        while joint := self._joint():
            joints.append(joint)
            if self.next.kind == "end" and joint in ("\n", "\\\\"):
                joints.pop()
                break
            items.append(self.relation())
        if not joints:
            return items[0]
        return Node("list", tuple(items), tuple(joints))

    def _joint(self) -> str:
        found = ""
        while True:
            token = self.next
            if token.kind == "op" and token.text in (",", ";", "\n", "\\\\") and not found:
                found = token.text
            elif token.kind == "word" and token.text.lower() in AND_WORDS:
                found = "and"
            elif token.kind == "word" and token.text.lower() in OR_WORDS:
                found = "or"
            elif (token.kind == "op" and token.text == "&" and not found) or self.is_cmd("land"):
                found = "and"
            elif self.is_cmd("lor"):
                found = "or"
            else:
                return found
            self.take()

    def relation(self) -> Node:
        """Read expressions joined by relation signs, and the modulus of a congruence."""
        with self.nested(self.bar_closes):
            items, signs = [self._union()], list[str]()
            while sign := self._sign():
                signs.append(sign)
                items.append(self._union())
            modulus = self._modulus()
        if modulus is None and "==" in signs and items[-1].op == "mod":
            items[-1], modulus = items[-1].args
        if modulus is not None:
            if any(sign not in ("==", "=") for sign in signs):
                raise Unreadable("congruence")
            return Node("congruence", (*items, modulus))
        if not signs:
            return items[0]
        return Node("rel", tuple(items), tuple(signs))

    def _sign(self) -> str | None:
        token = self.next
        if token.kind == "op" and token.text in _RELATIONS:
            self.take()
            return _RELATIONS[token.text]
        if token.kind == "cmd" and token.text in _RELATION_COMMANDS:
            self.take()
            return _RELATION_COMMANDS[token.text]
        return None

    def _modulus(self) -> Node | None:
        if self.is_cmd("pmod"):
            self.take()
            return self.argument()
        if self.is_op("(") and self.second.kind == "cmd" and self.second.text in ("mod", "bmod"):
            self.take()
            self.take()
            modulus = self.expression()
            self.expect(")")
            return modulus
        return None

    def _union(self) -> Node:
        node = self._ratio()
        while self.is_cmd("cup", "cap", "setminus"):
            name = {"cup": "union", "cap": "inter", "setminus": "minus"}[self.take().text]
            node = Node(name, (_as_set(node), _as_set(self._ratio())))
        return node

    def _ratio(self) -> Node:
        node = self.expression()
        if not self.is_op(":") or self.bar_closes:
            return node
        items = [node]
        while self.accept(":"):
            items.append(self.expression())
        return Node("ratio", tuple(items))

    def expression(self) -> Node:
        """Read a sum."""
        with self.nested(self.bar_closes):
            node = self._signed(first=True)
            terms = [node]
            while True:
                if self.accept("+"):
                    # `-2 + -1i` is clumsy, but can be read.
                    negative = self.accept("-")
                    terms.append(Node("neg", (self.term(),)) if negative else self.term())
                elif self.accept("-"):
                    terms.append(Node("neg", (self.term(),)))
                elif self.is_cmd("pm", "mp"):
                    left = terms[0] if len(terms) == 1 else Node("add", tuple(terms))
                    terms = [Node(self.take().text, (left, self.term()))]
                else:
                    break
        return terms[0] if len(terms) == 1 else _sum(terms)

    def _signed(self, first: bool) -> Node:
        if self.accept("-"):
            return Node("neg", (self._deeper(),))
        if self.accept("+"):
            return self._deeper()
        if self.is_cmd("pm", "mp"):
            return Node(self.take().text, (num(0), self.term(first)))
        if self.next.text.lower() in _MINUS_WORDS and self.second.kind == "num":
            self.take()
            return Node("neg", (self.term(first),))
        return self.term(first)

    def _deeper(self) -> Node:
        with self.nested(self.bar_closes):
            return self._signed(first=True)

    def term(self, first: bool = False) -> Node:
        """Read a product; `first`: the first one of a sum, which may carry a one-letter unit."""
        node = self.factor()
        node = self._with_unit(node, first)
        while True:
            if self.is_op("*") or self.is_cmd("times", "cdot"):
                self.take()
                node = _product(node, self._operand_like(node), "times")
            elif self.is_op("/") or self.is_cmd("div"):
                how = "/" if self.take().text == "/" else "div"
                node = Node("div", (node, self._operand_like(node)), how)
            elif self.is_cmd("mod", "bmod"):
                self.take()
                node = Node("mod", (node, self._operand()))
            elif self._starts_operand(node):
                node = _product(node, self.factor(), "implicit")
            else:
                return node
            node = self._with_unit(node, first)

    def _operand_like(self, left: Node) -> Node:
        """Read an operand; behind a quantity it may be one: `60 km / 2 h`."""
        operand = self._operand()
        return self._with_unit(operand, True) if left.op == "quantity" else operand

    def _operand(self) -> Node:
        if self.accept("-"):
            return Node("neg", (self._operand_deeper(),))
        if self.accept("+"):
            return self._operand_deeper()
        return self.factor()

    def _operand_deeper(self) -> Node:
        with self.nested(self.bar_closes):
            return self._operand()

    def _starts_operand(self, left: Node) -> bool:
        """True where a factor follows without a sign of multiplication."""
        if left.op in ("quantity", "percent"):
            return False
        token = self.next
        if token.kind == "sym":
            return True
        if token.kind == "num":
            before = self.tokens[self.at - 1]
            if before.kind == "sym" and before.text == "i" and not token.spaced:
                return True
            return left.op != "num" and before.text in (")", "}", "]", "!")
        if token.kind == "word":
            text = token.text
            if text in _ORDINAL and self.tokens[self.at - 1].kind == "num":
                return False
            short = len(text) <= 2 or (len(text) <= 4 and not token.spaced)
            return text.isascii() and short and text.lower() not in AND_WORDS | OR_WORDS
        if token.kind == "cmd":
            return token.text in _STARTS or token.text in GREEK or token.text in FUNCTIONS
        if token.text == "(":
            return self.second.text not in ("mod", "bmod")
        return token.text == "{" or (token.text == "|" and not self.bar_closes)

    def factor(self) -> Node:
        """Read an operand with its powers, factorials, percent and degree signs."""
        node = self._money() or self.primary()
        if node.op == "mul" and node.value == "letters" and self.is_op("^", "!"):
            # A power belongs to the last letter alone: ab^2.
            *letters, last = node.args
            return Node("mul", (*letters, self._with_marks(last)), "implicit")
        return self._with_marks(node)

    def _with_marks(self, node: Node) -> Node:
        while True:
            if self.accept("^"):
                with self.nested(self.bar_closes):
                    power = self.argument()
                    # Powers bind to the right: 2^3^2 is 2^9.
                    if self.accept("^"):
                        power = Node("pow", (power, self.argument()))
                node = Node("pow", (node, power))
            elif self.is_op("!"):
                self.take()
                node = Node("fact", (node,))
            elif self.is_op("%") or self.is_cmd("percent"):
                self.take()
                node = Node("percent", (node,))
            elif self.is_cmd("permille"):
                self.take()
                node = Node("percent", (Node("percent", (_product(node, num(10), "exact"),)),))
            elif (
                self.next.kind == "word"
                and self.next.text == "per"
                and (self.second.text in ("cent", "mille"))
            ):
                self.take()
                self.take()
                node = Node("percent", (node,))
            elif self.is_cmd("degree"):
                self.take()
                node = self._degrees(node)
            else:
                return node


def _sum(terms: list[Node]) -> Node:
    """Return a sum; a unit behind its last term alone belongs to all: `3 + 2√2 cm`."""
    sets = any(one.op in ("set", "seq") for one in terms)
    if sets and len(terms) == 2 and terms[1].op == "neg":
        return Node("minus", (terms[0], _as_set(terms[1].args[0])))
    last = terms[-1].args[0] if terms[-1].op == "neg" else terms[-1]
    units = [one for term in terms for one in walk(term) if one.op == "quantity"]
    if last.op == "quantity" and len(units) == 1:
        number = last.args[0]
        terms[-1] = Node("neg", (number,)) if terms[-1].op == "neg" else number
        return Node("quantity", (Node("add", tuple(terms)),), last.value)
    return Node("add", tuple(terms))


def _product(left: Node, right: Node, how: str) -> Node:
    return Node("mul", (left, right), how)


def _as_set(node: Node) -> Node:
    """Return the set that `{1}` is beside a union sign; elsewhere such braces only group."""
    return Node("seq", (node,), "{}") if node.op in ("num", "neg", "div") else node
