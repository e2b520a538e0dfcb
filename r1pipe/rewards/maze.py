"""Maze reward: a legal path from the start to the exit of a grid, the shorter the better."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal

from r1pipe.errors import Problem, UserError
from r1pipe.rewards.completions import (
    bad_row,
    checked_by,
    column,
    final_answer,
    prefilled_rows,
    text_of,
)

_NAME = "maze_path"
_START = "S"
_MAX_CELLS = 1_000_000
_CHARS_PER_STEP = 64  # numbering, words and spaces around one step; longer text is no path

Cell = tuple[int, int]
_UP, _DOWN, _LEFT, _RIGHT = (-1, 0), (1, 0), (0, -1), (0, 1)
_MOVES = {"U": _UP, "D": _DOWN, "L": _LEFT, "R": _RIGHT}
_LETTERS = {
    **{"u": _UP, "d": _DOWN, "l": _LEFT, "r": _RIGHT},
    **{"n": _UP, "s": _DOWN, "w": _LEFT, "e": _RIGHT},
}
_WORDS = {
    **{"up": _UP, "down": _DOWN, "left": _LEFT, "right": _RIGHT},
    **{"north": _UP, "south": _DOWN, "west": _LEFT, "east": _RIGHT},
    **{"上": _UP, "下": _DOWN, "左": _LEFT, "右": _RIGHT},
    **{"北": _UP, "南": _DOWN, "西": _LEFT, "东": _RIGHT, "東": _RIGHT},
}
_ARROWS = {
    **dict.fromkeys("↑⬆⇑", _UP),
    **dict.fromkeys("↓⬇⇓", _DOWN),
    **dict.fromkeys("←⬅⇐", _LEFT),
    **dict.fromkeys("→➡⇒", _RIGHT),
}
_FILLERS = frozenset(
    re.findall(
        r"\w+",
        "a an the my is are path paths route move moves moving go step steps then and next first "
        "finally lastly from at start exit goal end answer solution direction directions "
        "sequence to 向 往 走 移 动 再 然 后 先",
    )
)
_RUN = re.compile(r"[udlr]+|[nswe]+")
_LATEX_ARROW = re.compile(
    r"\\(?:long)?(up|down|left|right)arrow\b|\\to\b|[-=]{1,3}>", re.IGNORECASE
)
_LATEX = re.compile(r"\\(?:boxed|text[a-z]*|math[a-z]+)\b")
_NUMBERING = re.compile(r"^[ \t]*\d{1,7}[.):][ \t]+|(?<=[ \t])\d{1,7}[.:](?=\s)", re.MULTILINE)
_PAIR = r"[(\[]\s{0,9}-?\d{1,7}\s{0,9},\s{0,9}-?\d{1,7}\s{0,9}[)\]]"
_TOKEN = re.compile(
    rf"(?P<pair>{_PAIR})|(?P<word>[a-z]+|[\u4e00-\u9fff])|(?P<arrow>[{''.join(_ARROWS)}])"
    r"|(?P<gap>[\s,;:.|/()\[\]{}<>\"'`*$&+\-\u2010-\u2015\u3001\u3002\ufe0f])|(?P<other>.)",
    re.DOTALL,
)
_HALF_WIDTH = {0xFEE0 + code: code for code in range(0x21, 0x7F)}
_INTEGER = re.compile(r"-?\d+")


class _BadMaze(ValueError):
    """A maze that cannot be read or solved: the row is at fault, not the model."""


@dataclass(frozen=True)
class Maze:
    """A grid, where one starts, where one may leave. Cells are (row, column), counted from 0."""

    rows: tuple[str, ...]
    walls: str
    start: Cell
    exits: frozenset[Cell]

    def is_free(self, cell: Cell) -> bool:
        """True for a cell of the grid that is no wall."""
        row, column = cell
        inside = 0 <= row < len(self.rows) and 0 <= column < len(self.rows[0])
        return inside and self.rows[row][column] not in self.walls


@dataclass(frozen=True)
class _Options:
    walls: str
    free: str
    exits: str
    coordinates: str
    origin: int

    def __post_init__(self) -> None:
        signs = self.walls + self.free + self.exits + _START
        if not (self.walls and self.exits) or len(set(signs)) != len(signs):
            what = f"walls, free and exits ({signs!r} with the start) must be different characters"
            raise UserError(Problem(f"reward.{_NAME}", what))
        if self.coordinates not in ("row_column", "x_y"):
            what = f"unknown order {self.coordinates!r}"
            raise UserError(Problem(f"reward.{_NAME}.coordinates", what, "known: row_column, x_y"))

    def cell(self, first: int, second: int) -> Cell:
        """Return the cell that two written numbers mean."""
        if self.coordinates == "x_y":
            first, second = second, first
        return first - self.origin, second - self.origin


def row_problems(
    rows: Sequence[Mapping[str, Any]],
    *,
    walls: str = "#",
    free: str = ". ",
    exits: str = "EG",
    coordinates: Literal["row_column", "x_y"] = "row_column",
    origin: int = 0,
    **options: Any,
) -> list[tuple[int, str]]:
    """Return (index, what is wrong) of the rows whose maze cannot be read or solved."""
    reading = _Options(walls, free, exits, coordinates, origin)
    problems = []
    for index, row in enumerate(rows):
        if row.get("maze") is None:
            continue
        try:
            _solve(_read_maze(row["maze"], reading))
        except _BadMaze as error:
            problems.append((index, str(error)))
    return problems


@checked_by(row_problems, looks_at="row")
def maze_path_reward(
    completions: Sequence[Any],
    maze: Sequence[Any] | None = None,
    prompts: Sequence[Any] | None = None,
    *,
    walls: str = "#",
    free: str = ". ",
    exits: str = "EG",
    coordinates: Literal["row_column", "x_y"] = "row_column",
    origin: int = 0,
    max_steps: int | None = None,
    prefilled: bool | Sequence[bool] | None = None,
    **columns: Any,
) -> list[float | None]:
    """Fewest steps possible / steps taken, in (0, 1], for a legal path to the exit; else 0.

    Column `maze`: the grid as text or as a list of rows (`#` wall, `.` or space free, `S` start,
    `E` or `G` exit), or a dict of `grid`, `start` and `goal`. The `<answer>` is moves (`RRDD`,
    `right, down`, arrows, `N`/`S`/`W`/`E`) or the cells in order, the start among them, as pairs
    of whole numbers: row and column counted from `origin`, or x and y (`coordinates`); `start`
    and `goal` are written the same way. Anything else in the answer makes it unreadable.

    The path ends where it first reaches an exit: going on gets 0, and so does a wall, a step off
    the grid, a jump, standing still, or more than `max_steps` (None: the cells of the grid).
    Raises UserError on a maze without start, exit or way between them, and on bad options.
    """
    options = _Options(walls, free, exits, coordinates, origin)
    if max_steps is not None and max_steps < 1:
        raise UserError(Problem(f"reward.{_NAME}.max_steps", f"{max_steps} is not at least 1"))
    mazes = column({"maze": maze}, "maze", len(completions), _NAME)
    opened = prefilled_rows(prefilled, prompts, len(completions))
    rewards: list[float | None] = []
    for index, completion in enumerate(completions):
        if mazes[index] is None:
            rewards.append(None)
            continue
        try:
            read = _read_maze(mazes[index], options)
            fewest = len(_solve(read))
        except _BadMaze as error:
            raise bad_row(columns, index, _NAME, str(error)) from error
        answer = final_answer(text_of(completion), opened[index])
        limit = max_steps or len(read.rows) * len(read.rows[0])
        steps = None if answer is None else _steps_taken(answer, read, options, limit)
        rewards.append(fewest / steps if steps else 0.0)
    return rewards


def shortest_path(
    maze: Any,
    *,
    walls: str = "#",
    free: str = ". ",
    exits: str = "EG",
    coordinates: Literal["row_column", "x_y"] = "row_column",
    origin: int = 0,
) -> str | None:
    """Return a shortest way out as moves (`RRDD`); None for a maze that `row_problems` names."""
    try:
        return _solve(_read_maze(maze, _Options(walls, free, exits, coordinates, origin)))
    except _BadMaze:
        return None


def _steps_taken(answer: str, maze: Maze, options: _Options, limit: int) -> int | None:
    """Return the number of steps of a legal path that ends at an exit; None for any other."""
    if len(answer) > _CHARS_PER_STEP * (limit + 10):
        return None
    path = _read_path(answer, options)
    if path is None:
        return None
    moves, cells = path
    if not moves:
        if not cells or cells[0] != maze.start:
            return None
        pairs = pairwise(cells)
        moves = [(after[0] - before[0], after[1] - before[1]) for before, after in pairs]
    if len(moves) > limit:
        return None
    here = maze.start
    for down, right in moves:
        if abs(down) + abs(right) != 1 or here in maze.exits:
            return None
        here = (here[0] + down, here[1] + right)
        if not maze.is_free(here):
            return None
    return len(moves) if here in maze.exits else None


def _read_path(answer: str, options: _Options) -> tuple[list[Cell], list[Cell]] | None:
    """Return (moves, []) or ([], cells) of an answer, or None where it says anything else."""
    text = _LATEX.sub("", _LATEX_ARROW.sub(_arrow, answer))
    text = _NUMBERING.sub(" ", text.translate(_HALF_WIDTH).lower())
    moves: list[Cell] = []
    arrows: list[Cell] = []
    cells: list[Cell] = []
    for match in _TOKEN.finditer(text):
        kind, token = match.lastgroup, match.group()
        if kind == "pair":
            first, second = map(int, _INTEGER.findall(token))
            cells.append(options.cell(first, second))
        elif kind == "arrow":
            arrows.append(_ARROWS[token])
        elif kind == "word":
            if token in _WORDS:
                moves.append(_WORDS[token])
            elif token in _FILLERS:
                continue
            elif _RUN.fullmatch(token):
                moves += map(_LETTERS.__getitem__, token)
            else:
                return None
        elif kind == "other":
            return None
    if not (moves or cells):
        return arrows, []
    # Beside words or cells an arrow to the right only joins them.
    if (moves and cells) or any(arrow != _RIGHT for arrow in arrows):
        return None
    return moves, cells


def _arrow(match: re.Match[str]) -> str:
    return {"up": "↑", "down": "↓", "left": "←"}.get((match[1] or "").lower(), "→")


def _read_maze(value: Any, options: _Options) -> Maze:
    given = value if isinstance(value, Mapping) else {"grid": value}
    rows = _rows_of(given.get("grid"))
    known = options.walls + options.free + options.exits + _START
    signs: dict[str, list[Cell]] = {}
    for row, line in enumerate(rows):
        for place, sign in enumerate(line):
            if sign in options.exits or sign == _START:
                signs.setdefault(sign, []).append((row, place))
            elif sign not in known:
                raise _BadMaze(f"unknown character {sign!r} in the maze; known: {known!r}")
    starts = signs.get(_START, [])
    exits = [cell for sign in options.exits for cell in signs.get(sign, [])]
    if given.get("start") is not None:
        starts = [_cell_of(given["start"], options)]
    if given.get("goal") is not None:
        exits = [_cell_of(given["goal"], options)]
    if len(starts) != 1:
        raise _BadMaze(f"the maze has {len(starts)} starts instead of one")
    if not exits:
        raise _BadMaze("the maze has no exit")
    maze = Maze(rows, options.walls, starts[0], frozenset(exits))
    for cell in (*starts, *exits):
        if not maze.is_free(cell):
            raise _BadMaze(f"the start or exit {cell} is a wall or off the grid")
    if starts[0] in maze.exits:
        raise _BadMaze("the maze starts at its exit")
    return maze


def _rows_of(grid: Any) -> tuple[str, ...]:
    lines = grid.replace("\r", "").strip("\n").split("\n") if isinstance(grid, str) else grid
    if isinstance(lines, Mapping) or not hasattr(lines, "__iter__"):
        raise _BadMaze(f"the maze is {grid!r}, neither text nor a list of rows")
    try:
        rows = tuple(line if isinstance(line, str) else "".join(line) for line in lines)
    except TypeError:
        raise _BadMaze("a row of the maze is neither text nor a list of characters") from None
    if not rows or not rows[0]:
        raise _BadMaze("the maze is empty")
    if len({len(row) for row in rows}) != 1:
        raise _BadMaze("the rows of the maze are of different lengths")
    if len(rows) * len(rows[0]) > _MAX_CELLS:
        raise _BadMaze(f"the maze has more than {_MAX_CELLS:,} cells")
    return rows


def _cell_of(value: Any, options: _Options) -> Cell:
    try:
        first, second = value
        return options.cell(int(first), int(second))
    except (TypeError, ValueError):
        raise _BadMaze(f"{value!r} is no pair of whole numbers") from None


@lru_cache(maxsize=64)  # the completions of a group share their maze
def _solve(maze: Maze) -> str:
    """Return the moves of a shortest path from the start to an exit, by breadth-first search."""
    came: dict[Cell, tuple[Cell, str]] = {}
    ahead = deque([maze.start])
    while ahead:
        here = ahead.popleft()
        if here in maze.exits:
            moves = []
            while here != maze.start:
                here, move = came[here]
                moves.append(move)
            return "".join(reversed(moves))
        for move, (down, right) in _MOVES.items():
            cell = (here[0] + down, here[1] + right)
            if cell not in came and cell != maze.start and maze.is_free(cell):
                came[cell] = (here, move)
                ahead.append(cell)
    raise _BadMaze("the maze has no way from the start to an exit")
