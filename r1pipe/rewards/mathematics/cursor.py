"""Walks over the tokens of an answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from r1pipe.rewards.mathematics.nodes import Unreadable
from r1pipe.rewards.mathematics.tokens import Token, tokens_of

MAX_DEPTH = 120
"""Brackets in brackets; Python's own stack would end at a few hundred."""


class Cursor:
    """The tokens of one cleaned text and the place in them."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = tokens_of(text)
        self.at = 0
        self.depth = 0
        self.in_set = False
        self.bar_closes = False
        """Inside `|...|` or a set builder: a bar ends the expression."""

    @property
    def next(self) -> Token:
        """The token that comes."""
        return self.tokens[self.at]

    @property
    def second(self) -> Token:
        """The token after the next, or the end."""
        return self.tokens[min(self.at + 1, len(self.tokens) - 1)]

    def take(self) -> Token:
        """Return the next token and go on."""
        token = self.tokens[self.at]
        if token.kind != "end":
            self.at += 1
        return token

    def is_op(self, *signs: str) -> bool:
        """True where the next token is one of these signs."""
        return self.next.kind == "op" and self.next.text in signs

    def is_cmd(self, *names: str) -> bool:
        """True where the next token is one of these commands."""
        return self.next.kind == "cmd" and self.next.text in names

    def accept(self, *signs: str) -> bool:
        """Go past one of these signs, if it comes."""
        if self.is_op(*signs):
            self.at += 1
            return True
        return False

    def expect(self, *signs: str) -> str:
        """Return the sign that comes; raises Unreadable where it is none of these."""
        if not self.is_op(*signs):
            raise Unreadable(f"expected {signs} at {self.next.text!r}")
        return self.take().text

    @contextmanager
    def nested(self, bar_closes: bool = False) -> Iterator[None]:
        """One level deeper; raises Unreadable on too many."""
        before, self.bar_closes = self.bar_closes, bar_closes
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable("nested too deeply")
        try:
            yield
        finally:
            self.depth -= 1
            self.bar_closes = before
