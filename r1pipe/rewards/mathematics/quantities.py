"""Grammar of quantities: the units, nouns and currencies around a number."""

from __future__ import annotations

from r1pipe.rewards.mathematics.atoms import GREEK, Atoms
from r1pipe.rewards.mathematics.nodes import Node, Unreadable, names_in, num
from r1pipe.rewards.mathematics.units import (
    ANGLE_DEGREE,
    BARE_LETTERS,
    COMMAND_UNITS,
    GENERIC,
    UNITS,
    Unit,
    noun,
    unit_named,
)

AND_WORDS = frozenset(["and", "und", "et", "y", "и", "和", "与", "及", "且"])
OR_WORDS = frozenset(["or", "oder", "ou", "o", "или", "或", "或者"])
_MONEY_BEFORE = frozenset(["USD", "EUR", "GBP", "CNY", "RMB", "JPY", "INR", "Rs", "CHF"])
_SQUARE = {"square": 2, "sq": 2, "cubic": 3, "cu": 3, "平方": 2, "立方": 3}
_POWER_WORDS = {"squared": 2, "cubed": 3}
_PER = frozenset(["per", "pro", "par", "por", "a", "each"])


_TRAILING = frozenset(
    [
        "long", "wide", "tall", "high", "deep", "thick", "old", "left", "away", "apart", "total",
        "altogether", "remaining", "übrig", "insgesamt", "each", "apiece",
    ]
)  # fmt: skip


class Quantities(Atoms):
    """What may follow or precede a number to make it a quantity."""

    def _money(self) -> Node | None:
        """Read `\\dollar 5` and `USD 5`; None where no currency comes."""
        token = self.next
        if token.kind == "cmd" and token.text in COMMAND_UNITS and token.text not in GREEK:
            unit = COMMAND_UNITS[token.text]
        elif token.text in _MONEY_BEFORE and self.second.kind == "num":
            unit = UNITS[token.text]
        else:
            return None
        self.take()
        negative = self.accept("-")
        amount = self.primary()
        if amount.op not in ("num", "div"):
            raise Unreadable("money without a number")
        node = Node("quantity", (Node("neg", (amount,)) if negative else amount,), unit)
        if self.next.kind == "word" and unit_named(self.next.text) == unit:
            self.take()
        before = self.at
        if self.is_op("/") or (self.next.kind == "word" and self.next.text in _PER):
            self.take()
            other = self._unit_atom()
            if other is not None:
                node = Node("quantity", node.args, unit * other**-1)
            else:
                self.at = before
        self._skip_trailing()
        return node

    def _skip_trailing(self) -> None:
        """Go past what describes a quantity without changing it: `5 m long`, `$12 left`."""
        if self.next.text.lower() == "in" and self.second.text.lower() in _TRAILING:
            self.take()
        while self.next.kind == "word" and self.next.text.lower() in _TRAILING:
            self.take()

    def _degrees(self, node: Node) -> Node:
        token = self.next
        name = token.text.lower()
        if name in ("c", "celsius", "centigrade"):
            self.take()
            return Node("quantity", (node,), UNITS["Celsius"])
        if name in ("f", "fahrenheit"):
            self.take()
            return Node("quantity", (node,), UNITS["Fahrenheit"])
        return Node("degree", (node,))

    def _with_unit(self, node: Node, first: bool) -> Node:
        if node.op == "percent" and self.next.kind == "word":
            # `a 20% increase`
            before = self.at
            if self._noun(node) is None:
                self.at = before
            return node
        if node.op in ("quantity", "percent", "word", "seq", "matrix", "set"):
            return node
        before = self.at
        unit = self._unit(node, first)
        if unit is None:
            self.at = before
            return node
        node = Node("quantity", (node,), unit)
        while unit.known and node.args[0].op == "num":
            before = self.at
            joined = self.next.text.lower() in AND_WORDS and self.second.kind == "num"
            if joined:
                self.take()
            if self.next.kind != "num":
                break
            try:
                node = self._further_part(node)
            except Unreadable:
                if not joined:
                    raise
                self.at = before
                break
        return node

    def _further_part(self, node: Node) -> Node:
        """Read the `30 min` of `1 h 30 min`."""
        unit, part = node.value, self.primary()
        smaller = self._unit(part, first=True)
        if smaller is None or smaller.dimension != unit.dimension or part.op != "num":
            raise Unreadable("two numbers side by side")
        if smaller.factor >= unit.factor:
            raise Unreadable("parts of a quantity go from large to small")
        total = node.args[0].value + part.value * smaller.factor / unit.factor
        return Node("quantity", (num(total),), unit)

    def _unit(self, node: Node, first: bool) -> Unit | None:
        token = self.next
        if token.kind == "sym" and not token.quoted:
            spaced_tonne = token.text == "t" and token.spaced
            bare = token.text in BARE_LETTERS or spaced_tonne
            if not first or not bare or not _is_literal(node):
                return None
            unit = self._compound_unit()
            return unit if unit is not None and self._ends() else None
        if token.kind == "cmd" and token.text == "frac":
            return self._unit_fraction()
        minutes = token.text in ("min", "deg", "mu") and self.second.text != "("
        if token.kind == "cmd" and token.text not in COMMAND_UNITS and not minutes:
            return None
        if token.kind not in ("word", "cmd", "sym"):
            return None
        if token.kind == "cmd" and token.text in GREEK and not _is_literal(node):
            return None
        unit = self._compound_unit()
        if unit is not None:
            self._skip_trailing()
            following = self.next
            if following.kind == "word" and not self._is_joint(following.text):
                # `5 square foot tiles` and the like: no unit that we know.
                return None if unit.known else unit
            return unit
        return self._noun(node)

    def _is_joint(self, text: str) -> bool:
        return text.lower() in AND_WORDS or text.lower() in OR_WORDS

    def _ends(self) -> bool:
        token = self.next
        if token.kind in ("end", "num"):
            return True
        if token.kind == "word":
            return self._is_joint(token.text)
        if token.text == "=" and self.second.kind == "num":
            return self.tokens[self.at - 1].spaced
        return token.kind == "op" and token.text in (",", ";", ")", "]", "}", "\\}", "\n", "\\\\")

    def _noun(self, node: Node) -> Unit | None:
        token = self.next
        if self._is_joint(token.text) or token.kind != "word":
            return None
        if names_in(node) or not (token.spaced or token.quoted or not token.text.isascii()):
            return None
        if not token.quoted and len(token.text) < 3 and token.text.isascii():
            return None
        words: list[str] = []
        while self.next.kind == "word" and not self._is_joint(self.next.text):
            words.append(self.take().text)
            if len(words) > 5:
                raise Unreadable("words")
        unit = noun(words)
        if unit is None:
            raise Unreadable("words after a number")
        return unit

    def _compound_unit(self) -> Unit | None:
        unit = self._unit_atom()
        if unit is None:
            return None
        while True:
            before = self.at
            divides = self.is_op("/") or (self.next.kind == "word" and self.next.text in _PER)
            if divides or self.is_op("*") or self.is_cmd("cdot", "times"):
                self.take()
                grouped = divides and self.accept("(")
            elif self.next.text in UNITS and (
                self.next.kind == "word" or (self.next.kind == "sym" and self.next.spaced)
            ):
                grouped = False
            else:
                return unit
            other = self._compound_unit() if grouped else self._unit_atom()
            if other is not None and grouped and not self.accept(")"):
                other = None
            if other is None:
                self.at = before
                return unit
            unit = unit * (other**-1 if divides else other)

    def _unit_atom(self) -> Unit | None:
        token = self.next
        power = 1
        if token.kind == "word" and token.text.lower() in _SQUARE:
            power = _SQUARE[token.text.lower()]
            self.take()
            self.accept(".")
            token = self.next
        if token.text == "mu" and f"μ{self.second.text}" in UNITS:
            self.take()
            unit = UNITS[f"μ{self.next.text}"]
        elif token.kind == "cmd" and token.text in COMMAND_UNITS:
            unit = COMMAND_UNITS[token.text]
        elif token.kind == "cmd" and token.text == "degree":
            unit = ANGLE_DEGREE
        elif token.kind == "cmd" and token.text in ("min", "deg"):
            unit = UNITS[token.text]
        elif token.text in ("unit", "units"):
            unit = GENERIC
        elif token.kind in ("word", "sym") and (found := unit_named(token.text)):
            unit = found
        elif power == 1 and token.kind == "word" and token.text[:2] in _SQUARE:
            found = unit_named(token.text[2:])
            if found is None:
                return None
            unit, power = found, _SQUARE[token.text[:2]]
        else:
            return None
        self.take()
        exponent = self._unit_power()
        if token.text == "ms" and exponent < 0:
            return UNITS["m"] * UNITS["s"] ** exponent
        return unit ** (power * exponent)

    def _unit_power(self) -> int:
        if self.accept("^"):
            power = self.argument()
            sign = -1 if power.op == "neg" else 1
            power = power.args[0] if power.op == "neg" else power
            if power.op != "num" or power.value not in (1, 2, 3, 4):
                raise Unreadable("power of a unit")
            return sign * int(power.value)
        if self.next.kind == "num" and not self.next.spaced and self.next.text in ("2", "3"):
            return int(self.take().text)
        if self.next.kind == "word" and self.next.text in _POWER_WORDS:
            return _POWER_WORDS[self.take().text]
        return 1

    def _unit_fraction(self) -> Unit | None:
        """Read `\\frac{\\text{m}}{\\text{s}}`; None where the fraction holds no units."""
        self.take()
        quoted = self.second.quoted
        units: list[Unit] = []
        for _ in range(2):
            if not self.accept("{") or self.next.text not in UNITS:
                return None
            unit = self._compound_unit()
            if unit is None or not self.accept("}"):
                return None
            units.append(unit)
        lengths = [dict(unit.dimension) for unit in units]
        if not quoted and (lengths[0].keys(), lengths[1].keys()) != ({"length"}, {"time"}):
            return None
        return units[0] * units[1] ** -1


def _is_literal(node: Node) -> bool:
    """True for a number that is written out: digits, a fraction, a root or pi, no variable."""
    return not names_in(node) and node.op in ("num", "div", "neg", "mul", "root", "const", "pow")
