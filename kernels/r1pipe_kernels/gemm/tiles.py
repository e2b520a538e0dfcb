"""Which tile a product runs with on Hopper, and how its rows of tiles end together."""

from dataclasses import dataclass
from functools import cache
from math import ceil

from .table import TABLES, Class

STRIP = 64
BK = 128
SHARED_BYTES = 232448  # what one CTA of sm_90 may use


@dataclass(frozen=True)
class Tile:
    """`strips` x 64 rows by `columns`, `stages` deep; `group` rows of tiles are walked together."""

    strips: int
    columns: int
    stages: int
    group: int = 8

    @property
    def registers(self) -> int:
        """Registers a thread of the second and third warpgroup gets; the first gets the rest."""
        return 160 if self.strips == 3 else 240

    def shared_bytes(self, vector: bool, out_bytes: int) -> int:
        """Shared memory: stages of codes and scales, and the rows on their way out."""
        stage = self.strips * STRIP * (BK + 4) + self.columns * (BK + 4 * vector) + 16
        return self.stages * stage + self.strips * STRIP * self.columns * out_bytes + 1024


@dataclass(frozen=True)
class Rows:
    """Rows of tiles: `tall` ones of all strips, then `short` ones of one strip fewer."""

    tall: int
    short: int


# Time of a tile of that many strips, in strips: fewer warpgroups hide less of each other's
# promotion. Two from the rates of 128- and 192-row tiles on an H200 (1005 and 1074 TFLOP/s),
# rounded up; one is an estimate.
COST = {3: 3.0, 2: 2.3, 1: 1.6}


@cache
def split_rows(rows: int, columns: int, tile: Tile, processors: int) -> Rows:
    """Tall and short rows of tiles that end the last wave soonest.

    A matrix rarely has a multiple of `processors` tiles; the CTAs that get one tile fewer take
    two lower ones. Tries each number of tall rows near the largest and simulates the schedule.
    """
    strips, num_n = ceil(rows / STRIP), ceil(columns / tile.columns)
    if tile.strips < 3:
        return Rows(ceil(strips / tile.strips), 0)
    choices = [Rows(ceil(strips / 3), 0)]
    for tall in range(strips // 3, max(-1, strips // 3 - 12), -1):
        choices.append(Rows(tall, ceil((strips - 3 * tall) / 2)))
    return min(choices, key=lambda choice: _last(choice, num_n, processors))


def _last(rows: Rows, num_n: int, processors: int) -> float:
    """When the last CTA ends, in strips; mirrors `tile_at` of the kernel."""
    tall, extra = divmod(rows.tall * num_n, processors)
    short, idle = rows.short * num_n, processors - extra
    early = min(short, 2 * idle)
    late = short - early
    # CTA `extra` is the first of those one tall tile behind and takes the most short ones.
    behind = tall * COST[3] + ceil(early / idle) * COST[2]
    ahead = (tall + 1) * COST[3] if extra else 0.0
    each = ceil(late / processors)
    reaches_behind = late > (each - 1) * processors + extra if late else False
    behind += (each if reaches_behind else max(each - 1, 0)) * COST[2]
    return max(behind, ahead + each * COST[2] if extra else 0.0)


DEEP = 2048
"""Inputs from which the epilogue of a tile stops to show beside its products."""


def shape_class(m: int, n: int, k: int, vector: bool, processors: int) -> Class:
    """The row of `table.TABLES` that a product of m x n x k belongs to."""
    rows = {1: "one", 2: "two"}.get(ceil(m / STRIP), "many")
    columns = "few" if ceil(n / 128) < processors else "many"
    return rows, columns, "deep" if k >= DEEP else "shallow", vector


@cache
def choose_tile(m: int, n: int, k: int, vector: bool, processors: int) -> Tile:
    """The tile for a product of m x n x k; `vector` when B has one scale a row.

    Measured where there is a table for a card of so many processors, else `analytic`.
    """
    measured = TABLES.get(processors, {})
    entry = measured.get(shape_class(m, n, k, vector, processors))
    return Tile(*entry) if entry else analytic(m, n, processors)


def analytic(m: int, n: int, processors: int) -> Tile:
    """Few rows: narrow columns while whole ones would leave processors without a tile, and stages
    for the rest of shared memory. Otherwise three strips."""
    strips = ceil(m / STRIP)
    narrow = ceil(n / 128) < processors
    if strips == 1:
        return Tile(1, 64, 10) if narrow else Tile(1, 128, 7)
    if strips == 2:
        return Tile(2, 64, 8) if narrow else Tile(2, 128, 5)
    return Tile(3, 128, 4)


def candidates(m: int, vector: bool, out_bytes: int) -> list[Tile]:
    """Tiles worth measuring for m rows: every height and width, as deep as fits and one less."""
    found = []
    for strips in range(1, min(ceil(m / STRIP), 3) + 1):
        for columns in (64, 128):
            fits = [
                stages
                for stages in range(2, 13)
                if Tile(strips, columns, stages).shared_bytes(vector, out_bytes) <= SHARED_BYTES
            ]
            for stages in fits[-2:]:
                for group in (8,) if strips < 3 else (4, 8, 16):
                    found.append(Tile(strips, columns, stages, group))
    return found
