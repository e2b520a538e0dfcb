"""Grammar of LaTeX environments: matrices, cases, aligned equations."""

from __future__ import annotations

from r1pipe.rewards.mathematics.cursor import Cursor
from r1pipe.rewards.mathematics.nodes import Node, Unreadable


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
                else:
                    rows[-1].append(self.relation())
                    self.accept(",", ";")
        if self._environment_name() != name:
            raise Unreadable("environments cross")
        rows = [row for row in rows if row]
        if not rows:
            raise Unreadable("empty environment")
        relations = all(len(row) == 1 and row[0].op == "rel" for row in rows)
        if name in ("cases", "aligned", "align", "gathered") or relations:
            return Node("list", tuple(item for row in rows for item in row), ("\\\\",))
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
