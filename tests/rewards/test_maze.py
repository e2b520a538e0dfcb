"""The maze reward: legal moves to the exit, and the shorter the better."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1pipe.errors import UserError
from r1pipe.rewards.maze import maze_path_reward, row_problems, shortest_path

MAZE = """
#####
#S..#
#.#.#
#..E#
#####
"""
OPEN = "S..\n...\n..E"


def score(answer: str, maze=MAZE, **options) -> float | None:
    completion = f"<think>look</think><answer>{answer}</answer>"
    return maze_path_reward([completion], [maze], **options)[0]


@pytest.mark.parametrize(
    "answer",
    [
        "RRDD",
        "ddrr",
        " R R D D ",
        "R,R,D,D",
        "R-R-D-D",
        "right, right, down, down",
        "Right Right Down Down",
        "→→↓↓",
        "➡️ ➡️ ⬇️ ⬇️",
        "R -> R -> D -> D",
        "R → R → D → D",
        "['R', 'R', 'D', 'D']",
        '["right","right","down","down"]',
        "EESS",
        "East, East, South, South",
        "1. Right\n2. Right\n3. Down\n4. Down",
        "1) right\n2) right\n3) down\n4) down",
        "Step 1: move right. Step 2: move right. Step 3: go down. Step 4: go down.",
        "The path is **RRDD**.",
        "ＲＲＤＤ",
        "向右，向右，向下，向下",
        "\\boxed{RRDD}",
        "$\\rightarrow \\rightarrow \\downarrow \\downarrow$",
        "[(1,1),(1,2),(1,3),(2,3),(3,3)]",
        "[[1, 1], [1, 2], [1, 3], [2, 3], [3, 3]]",
        "(1, 1) -> (1, 2) -> (1, 3) -> (2, 3) -> (3, 3)",
        "1. (1, 1)\n2. (1, 2)\n3. (1, 3)\n4. (2, 3)\n5. (3, 3)",
    ],
)
def test_a_shortest_path_earns_everything_however_it_is_written(answer: str) -> None:
    assert score(answer) == 1.0


def test_longer_paths_earn_less() -> None:
    assert score("RLRRDD") == pytest.approx(4 / 6)
    assert score("RLRLRRDD") == pytest.approx(4 / 8)
    assert score("RRDD", OPEN) == score("DRDR", OPEN) == 1.0
    assert score("DUDURRDD", OPEN) == pytest.approx(4 / 8)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "RRD",  # stops short
        "RRDDUD",  # leaves and comes back
        "RRDDR",  # goes on through the wall behind the exit
        "RDRD",  # through a wall
        "UUUU",
        "DDDD",
        "RRDD or DDRR",
        "I think RRDD",
        "not RRDD",
        "2R2D",
        "→→↓↓ RRDD",
        "[(1,1),(1,3),(3,3)]",  # jumps
        "[(1,1),(3,3)]",
        "[(3,3)]",
        "[(1,2),(1,3),(2,3),(3,3)]",  # does not begin at the start
        "[(1,1),(1,1),(1,2),(1,3),(2,3),(3,3)]",  # stands still
        "[(1,1),(2,2),(3,3)]",  # through a corner
        "[(1,1),(0,1),(-1,1)]",
        "RR(2,3)(3,3)",
        "RL" * 40 + "RRDD",  # more steps than the maze has cells
        "UDLR",
        MAZE,
        "５",
    ],
)
def test_anything_but_a_legal_path_earns_nothing(answer: str) -> None:
    assert score(answer) == 0.0


def test_going_off_the_grid_does_not_wrap_around() -> None:
    # Python reads row -1 as the last one.
    assert score("U", "S\n.\nE") == 0.0
    assert score("L", "S.E") == 0.0
    assert score("[(0,0),(-1,0)]", "S\n.\nE") == 0.0


def test_steps_may_be_capped() -> None:
    assert score("RLRRDD", max_steps=5) == 0.0
    assert score("RRDD", max_steps=4) == 1.0
    with pytest.raises(UserError, match="max_steps"):
        score("RRDD", max_steps=0)


def test_mazes_come_as_text_rows_or_dicts() -> None:
    assert score("RR", ["S.E"]) == score("RR", [["S", " ", "G"]]) == 1.0
    assert score("RR", {"grid": "...", "start": [0, 0], "goal": (0, 2)}) == 1.0
    assert score("RR", {"grid": "S.E", "start": None, "goal": None}) == 1.0
    assert score("LL", {"grid": "S.E", "start": [0, 2], "goal": [0, 0]}) == 1.0
    assert score("RR", "S.E\r\n###\r\n") == 1.0
    assert score("DD", "S1\n01\nE1", walls="1", free="0") == 1.0


def test_coordinates_may_be_counted_another_way() -> None:
    down_first = "[(1,1),(1,2),(1,3),(2,3),(3,3)]"
    assert score(down_first, "####\n#S##\n#.##\n#..E\n", coordinates="x_y") == 1.0
    assert score("[(2,2),(2,3),(2,4),(3,4),(4,4)]", origin=1) == 1.0
    goal = {"grid": "...\n...", "start": [1, 1], "goal": [3, 1]}
    assert score("RR", goal, coordinates="x_y", origin=1) == 1.0
    assert score("RR", goal | {"start": [1, 2]}, coordinates="x_y", origin=1) == 0.0


def test_only_the_answer_counts() -> None:
    mazes = [MAZE] * 5
    texts = [
        "<think>RRDD</think>",
        "<think><answer>RRDD</answer>",
        "RRDD",
        "<think>a</think><answer>RRDD</answer><answer>UU</answer>",
        "a</think><answer>RRDD</answer>",
    ]
    assert maze_path_reward(texts, mazes) == [0.0, 0.0, 0.0, 0.0, 1.0]
    inside = maze_path_reward(["<answer>RRDD</answer>"], [MAZE], prompts=["maze <think>"])
    assert inside == [0.0]


def test_rows_without_a_maze_are_left_out() -> None:
    assert maze_path_reward(["x", "x"], [None, MAZE]) == [None, 0.0]
    with pytest.raises(UserError, match="no column `maze`"):
        maze_path_reward(["x"])


BAD = {
    "": "empty",
    "S..": "no exit",
    "..E": "0 starts",
    "S#E": "no way",
    "SSE": "2 starts",
    "S.\nE": "different lengths",
    "S?E": "unknown character",
}


@pytest.mark.parametrize(("maze", "what"), BAD.items())
def test_a_maze_nobody_can_solve_is_an_error_that_names_the_row(maze: str, what: str) -> None:
    with pytest.raises(UserError, match=f"row `m7`.*{what}"):
        score("R", maze, id=["m7"])
    assert [index for index, said in row_problems([{"maze": maze}]) if what in said] == [0]
    assert shortest_path(maze) is None


@pytest.mark.parametrize(
    "maze",
    [
        3,
        ["S", 3],
        {"grid": None},
        {"grid": "S.E", "goal": [0, 9]},
        {"grid": "S.E", "goal": "x"},
        {"grid": "S.E", "goal": [0, 0]},
        {"grid": "S#E", "goal": [0, 1]},
        [],
        {},
    ],
)
def test_what_is_no_maze_is_an_error_too(maze) -> None:
    with pytest.raises(UserError):
        score("R", maze)
    assert len(row_problems([{"maze": OPEN}, {"maze": maze}, {"maze": None}])) == 1


def test_options_that_make_no_sense_are_errors() -> None:
    for options in ({"walls": ""}, {"exits": "S"}, {"walls": "#."}, {"coordinates": "polar"}):
        with pytest.raises(UserError):
            score("R", **options)


GRIDS = st.integers(1, 6).flatmap(
    lambda width: st.lists(
        st.text(alphabet="#..", min_size=width, max_size=width), min_size=1, max_size=6
    )
)


@settings(max_examples=200, deadline=None)
@given(GRIDS, st.data())
def test_the_shortest_path_earns_everything(grid: list[str], data) -> None:
    free = [(r, c) for r, row in enumerate(grid) for c, sign in enumerate(row) if sign == "."]
    if len(free) < 2:
        return
    start, goal = data.draw(st.permutations(free))[:2]
    maze = {"grid": grid, "start": list(start), "goal": list(goal)}
    path = shortest_path(maze)
    if path is None:
        assert row_problems([{"maze": maze}])
    else:
        assert score(path, maze) == 1.0
        assert score(path[:-1], maze) == 0.0


PIECES = ["R", "D", "(1,1)", "(1,2)", "→", "right ", "<answer>", "</answer>", "\x00", "\ud800", "9"]


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.text(alphabet=st.characters(exclude_categories=()), max_size=100),
        st.lists(st.sampled_from(PIECES), max_size=12).map("".join),
    )
)
def test_any_text_gets_a_reward_in_range(text: str) -> None:
    for completion in (text, f"<answer>{text}</answer>", [{"role": "assistant", "content": text}]):
        (value,) = maze_path_reward([completion], [MAZE])
        assert value is not None and 0.0 <= value <= 1.0


@pytest.mark.parametrize("piece", ["R", "(0,0)", "→", "1. ", "\x00", "e\u0301\u0316", "-", "\\to"])
def test_a_megabyte_is_only_long(piece: str) -> None:
    answer = piece * (1_000_000 // len(piece))
    assert score(answer) == 0.0
    assert score(answer, ["S" + "." * 30_000 + "E"]) == 0.0
