"""Grammar of LaTeX environments: matrices, cases, aligned equations."""

from __future__ import annotations

from r1pipe.rewards.mathematics.cursor import Cursor
from r1pipe.rewards.mathematics.nodes import Node, Unreadable

_OTHERWISE = frozenset(["otherwise", "else", "sonst", "sinon", "其他", "其它"])
_CONDITION_WORDS = _OTHERWISE | {"if", "for", "when", "where", "wenn", "falls", "si", "当", "若"}


def _is_piece(row: list[Node]) -> bool:
    return len(row) == 2 and row[0].op != "rel" and row[1].op in ("rel", "word")


class Environments(Cursor):
    """Rows of cells; the upper half of the grammar gives `relation`."""

    def relation(self) -> Node:
        raise NotImplementedError

    def environment(self) -> Node:
        """Read from `\\begin` to `\\end`."""
        name = self._environment_name()
        if name == "array" and self.accept("{"):
            while not self.accept("}"):
                if self.take().kind == "end":
                    raise Unreadable("array")
        rows: list[list[Node]] = [[]]
        with self.nested():
            while not self.is_cmd("end"):
                if self.accept("\\\\"):
                    rows.append([])
                elif self.accept("&"):
                    if name in ("cases", "aligned", "align", "gathered", "align*"):
                        continue
                elif self.next.kind == "end" or len(rows) > 100:
                    raise Unreadable("open environment")
                elif name == "cases" and self.next.text.lower() in _CONDITION_WORDS:
                    word = self.take().text.lower()
                    if word in _OTHERWISE:
                        rows[-1].append(Node("word", (), "otherwise"))
                else:
                    rows[-1].append(self.relation())
                    self.accept(",", ";")
        if self._environment_name() != name:
            raise Unreadable("environments cross")
        rows = [row for row in rows if row]
        if name == "cases" and rows and all(map(_is_piece, rows)):
            # A function by cases: each value belongs to its condition.
            return Node("piecewise", tuple(Node("piece", tuple(row)) for row in rows))
        if not rows:
            raise Unreadable("empty environment")
        relations = all(len(row) == 1 and row[0].op == "rel" for row in rows)
        if name in ("cases", "aligned", "align", "gathered") or relations:
            items = tuple(item for row in rows for item in row)
            return items[0] if len(items) == 1 else Node("list", items, ("\\\\",))
        if not name.endswith("matrix") and name != "array":
            raise Unreadable(f"unknown environment {name!r}")
        if any(len(row) != len(rows[0]) for row in rows):
            raise Unreadable("rows of different lengths")
        if name == "vmatrix":
            return Node("func", (Node("matrix", _flat(rows), len(rows[0])),), "det")
        return Node("matrix", _flat(rows), len(rows[0]))

    def _environment_name(self) -> str:
        self.take()
        self.expect("{")
        name = self.take().text
        self.accept("*")
        self.expect("}")
        return name


def _flat(rows: list[list[Node]]) -> tuple[Node, ...]:
    return tuple(item for row in rows for item in row)
