"""Compares what two answers were read into; the gold one says what kind of thing it is."""

from __future__ import annotations

from collections.abc import Sequence

from r1pipe.rewards.mathematics.builders import listed
from r1pipe.rewards.mathematics.equations import (
    assignment,
    ends_of_chain,
    is_name,
    same_congruence,
    same_equation,
    same_order,
    same_ratio,
)
from r1pipe.rewards.mathematics.nodes import Node, Unreadable, names_in, walk
from r1pipe.rewards.mathematics.realsets import RealSet, real_set
from r1pipe.rewards.mathematics.scalars import same_scalar
from r1pipe.rewards.mathematics.shapes import (
    MAX_ITEMS,
    alike_brackets,
    assignments_of,
    carried_into,
    components,
    conditions_of,
    flat_operands,
    has_choice_of_signs,
    in_order_of_names,
    is_set_of_one,
    mixed_number,
    rows_of,
    signs_chosen,
    solutions_of,
    stem,
    values_of,
    with_signs_chosen,
)

_SETS = frozenset(["union", "inter", "minus", "set", "builder"])
_HALF_OPEN = frozenset(["(]", "[)", "][", "]]", "[["])


def same(answer: Node, gold: Node) -> bool:
    """True where `answer` is what `gold` states."""
    if answer == gold:
        return True
    try:
        return _same(answer, gold)
    except Unreadable:
        return False


def same_answer(answer: Node, gold: Node) -> bool:
    """True where a whole answer is what `gold` states; a set of one is its element here."""
    answer, gold = (_plain(solutions_of(node)) for node in (answer, gold))
    if _asks_again(answer) and not any(one.op == "abs" for one in walk(gold)):
        return False
    if {gold.op, answer.op} & {"seq", "matrix"} or answer.op == gold.op == "add":
        answer, gold = components(answer) or answer, components(gold) or gold
    if same(answer, gold):
        return True
    if answer.op == "list" and gold.op not in ("list", "rel", "seq"):
        # An expression and what it is not defined for: `1/(x - 2), x ≠ 2`.
        value, *conditions = answer.args
        if (
            "or" not in answer.value
            and value.op not in ("rel", "list")
            and all(one.op == "rel" and one.value == ("!=",) for one in conditions)
            and all(names_in(one.args[0]) == names_in(value) for one in conditions)
            and names_in(value)
        ):
            return same(value, gold)
    if answer.op == "list":
        mixed = mixed_number(answer)
        return mixed is not None and same(mixed, gold)
    if gold.op == "rel" and gold.value == ("=",) and is_set_of_one(gold.args[1]):
        gold = gold.args[1]
    if is_set_of_one(gold) and not has_choice_of_signs(gold) and not is_set_of_one(answer):
        return same(answer, gold.args[0])
    if answer.op == "rel" and len(ends := ends_of_chain(answer)) == 1:
        answer = ends[0]
    if not is_set_of_one(answer) or gold.op == "set":
        return False
    return (gold.op != "seq" or answer.args[0].op == "seq") and same(answer.args[0], gold)


def _asks_again(node: Node) -> bool:
    """True for `|x - 1| < 3`, the question itself; `|x| < 3` says where x lies."""
    return any(
        one.op == "rel"
        and not {"=", "in"} & set(one.value)
        and any(arg.op == "abs" and arg.args[0].op != "sym" for arg in one.args)
        for one in walk(node)
    )


def _plain(node: Node) -> Node:
    """Return a tree with factors inside matrices, finite sets listed, and f(x) ≡ 0 as f(x) = 0."""
    if node.op == "list":
        return Node("list", tuple(map(_plain, node.args)), node.value)
    if node.op == "rel" and node.value == ("==",) and node.args[0].op == "apply":
        node = Node("rel", node.args, ("=",))
    return listed(carried_into(node))


def _same(answer: Node, gold: Node) -> bool:
    if gold.op == "congruence" or (
        gold.op == "list" and any(item.op == "congruence" for item in gold.args)
    ):
        return same_congruence(answer, gold)
    if gold.op == "piecewise" and answer.op != "rel":
        return answer.op == gold.op and same_items(answer.args, gold.args)
    if gold.op == "piece":
        return answer.op == gold.op and all(map(same, answer.args, gold.args))
    if gold.op == "rel":
        return _same_relation(answer, gold)
    if gold.op == "list":
        return _same_list(answer, gold)
    if gold.op != "seq" and has_choice_of_signs(gold):
        return _same_list(answer, Node("list", tuple(signs_chosen(gold)), ("or",)))
    if gold.op in _SETS or (gold.op == "seq" and gold.value in _HALF_OPEN):
        return _same_set(answer, gold)
    if gold.op == "seq":
        return _same_seq(answer, gold)
    if answer.op == "rel":
        return any(same(end, gold) for end in ends_of_chain(answer, for_number=True))
    if gold.op == "matrix":
        return _same_matrix(answer, gold)
    if gold.op == "ratio":
        return same_ratio(answer, gold)
    if answer.op == "ratio" and gold.op == "div" and len(answer.args) == 2:
        return same_ratio(gold, answer)
    if gold.op == "word" and gold.value == "otherwise":
        return answer == gold
    if gold.op == "word" or answer.op in ("word", "list", "seq", "matrix", "ratio", *_SETS):
        return False
    if gold.op == "func" and gold.value == "det":
        return False
    return same_scalar(answer, gold)


# Relations.


def _same_relation(answer: Node, gold: Node) -> bool:
    if gold.value == ("in",):
        return _same_membership(answer, gold)
    if set(gold.value) == {"="}:
        return _same_equality(answer, gold)
    wanted = real_set(gold)
    if wanted is not None:
        given = real_set(answer)
        return given is not None and given == wanted
    if len(gold.args) == 2:
        return same_equation(answer, gold)
    return same_order(answer, gold)


def _same_membership(answer: Node, gold: Node) -> bool:
    if answer.op == "rel" and answer.value == ("in",):
        return same(answer.args[0], gold.args[0]) and same(answer.args[1], gold.args[1])
    if answer.op == "rel" and real_set(answer) is not None:
        return real_set(answer) == real_set(gold)
    return same(answer, gold.args[1])


def _same_equality(answer: Node, gold: Node) -> bool:
    wanted = assignment(gold)
    if len(gold.args) > 2:
        return any(same(answer, end) for end in ends_of_chain(gold))
    if wanted is None:
        return same_equation(answer, gold)
    name, value = wanted
    if answer.op != "rel":
        return same(answer, value)
    given = assignment(answer)
    if given is not None:
        if same_name(given[0], name):
            return same(given[1], value)
        # `f(x) = 2x + 1` and `y = 2x + 1` name the same expression.
        both_results = _is_result(name) and _is_result(given[0]) and bool(names_in(value))
        if both_results and same(given[1], value):
            return True
    elif len(answer.args) > 2:
        first = answer.args[0]
        return same_name(first, name) and any(same(end, value) for end in ends_of_chain(answer))
    return bool(names_in(value)) and name.op == "sym" and same_equation(answer, gold)


def _is_result(name: Node) -> bool:
    return name.op == "apply" or (name.op == "sym" and name.value == "y")


def same_name(one: Node, other: Node) -> bool:
    """True for the same name of a result."""
    return one == other or (
        one.op == other.op == "word" and one.value.lower() == other.value.lower()
    )


# Lists and sets.


def _same_list(answer: Node, gold: Node) -> bool:
    wanted = assignments_of(gold) if gold.op == "list" else None
    if wanted is not None and len(wanted) > 1 and len({stem(name) for name in wanted}) > 1:
        return _same_assignments(answer, wanted)
    values = values_of(gold)
    if values is None:
        wanted_set = real_set(gold)
        if wanted_set is not None:
            return real_set(answer) == wanted_set
        return _same_system(answer, gold)
    return _same_values(answer, values)


def _same_values(answer: Node, values: list[Node]) -> bool:
    """Compare with the values of a bare list, in any order."""
    if answer.op == "rel" and len(ends := ends_of_chain(answer)) == 1:
        answer = ends[0]
    if answer.op == "seq" and answer.value == "()" and has_choice_of_signs(answer):
        answer = Node("list", tuple(signs_chosen(answer)), ("or",))
    if answer.op == "seq":
        if answer.value == "{}":
            return same_items(with_signs_chosen(answer.args), values)
        if answer.value in ("()", "[]") and len(values) > 2 and len(answer.args) == len(values):
            return all(map(same, answer.args, values))
        return False
    if answer.op == "set" and answer.value == "empty":
        return False
    given = values_of(answer)
    return given is not None and len(given) == len(values) and same_items(given, values)


def same_items(given: Sequence[Node], wanted: Sequence[Node], repeats: bool = True) -> bool:
    """True where each item has its partner; without `repeats` equal items count once."""
    if max(len(given), len(wanted)) > MAX_ITEMS:
        return False
    if not repeats:
        return all(any(same(one, other) for other in wanted) for one in given) and all(
            any(same(one, other) for one in given) for other in wanted
        )
    left = list(wanted)
    for one in given:
        place = next((index for index, other in enumerate(left) if same(one, other)), None)
        if place is None:
            return False
        del left[place]
    return not left


def _same_assignments(answer: Node, wanted: dict[Node, Node]) -> bool:
    given = assignments_of(answer)
    if given is not None:
        return given.keys() == wanted.keys() and all(
            same(given[name], value) for name, value in wanted.items()
        )
    if answer.op == "seq" and answer.value == "()" and len(answer.args) == len(wanted):
        return all(map(same, answer.args, wanted.values()))
    return False


def _same_system(answer: Node, gold: Node) -> bool:
    """Compare several equations, in any order."""
    if answer.op != "list" or (set(answer.value) != set(gold.value) and "or" in (
        *answer.value, *gold.value
    )):  # fmt: skip
        return False
    return same_items(answer.args, gold.args)


def _same_set(answer: Node, gold: Node) -> bool:
    if answer.op == "rel" and answer.value == ("=",) and is_name(answer.args[0]):
        answer = answer.args[1]
    wanted = real_set(gold)
    if wanted is not None:
        given = real_set(answer)
        if given is None and not wanted.pieces:
            return answer.op == "set" and answer.value == "empty"
        return given is not None and RealSet(given.pieces) == RealSet(wanted.pieces)
    if gold.op == "builder":
        return _same_builder(answer, gold)
    if gold.op == "seq":
        return _same_in_order(answer, gold)
    if answer.op != gold.op or answer.value != gold.value:
        if answer.op == "rel" and answer.value == ("in",):
            return same(answer.args[1], gold)
        return False
    if gold.op in ("union", "inter"):
        return same_items(flat_operands(answer), flat_operands(gold), repeats=False)
    return bool(gold.args) and all(map(same, answer.args, gold.args))


def _same_builder(answer: Node, gold: Node) -> bool:
    if answer.op != "builder":
        return False
    given, wanted = conditions_of(answer), conditions_of(gold)
    return same(given[0], wanted[0]) and same_items(given[1], wanted[1], repeats=False)


# Tuples, intervals and matrices.


def _same_seq(answer: Node, gold: Node) -> bool:
    if gold.value == "{}":
        return _same_finite(answer, gold)
    if answer.op == "rel":
        ends = ends_of_chain(answer)
        if ends and ends[0].op in ("seq", "matrix"):
            return any(same(end, gold) for end in ends)
        given = assignments_of(answer)
        if given is not None and len(given) > 1:
            return _list_for_tuple(answer, gold)
        if given is None and gold.value in ("()", "[]"):
            wanted = real_set(gold)
            return wanted is not None and real_set(answer) == wanted
        return False
    if answer.op == "mul" and len(answer.args) == 2 and answer.args[1].op == "seq":
        # The name of a point: A(1, 2).
        return is_name(answer) and _same_in_order(answer.args[1], gold)
    if answer.op in _SETS:
        wanted = real_set(gold)
        return wanted is not None and real_set(answer) == wanted
    if answer.op == "list":
        return _list_for_tuple(answer, gold)
    return _same_in_order(answer, gold)


def _list_for_tuple(answer: Node, gold: Node) -> bool:
    """Read `x = 1, y = 2` as a point, `x > 1 and x < 2` as an interval, `1, 2, 3` as a tuple."""
    given = assignments_of(answer)
    if given is not None and gold.value == "()":
        return len(given) == len(gold.args) and all(map(same, in_order_of_names(given), gold.args))
    wanted = real_set(gold)
    if wanted is not None and (found := real_set(answer)) is not None:
        return found == wanted
    if len(gold.args) < 3 or len(answer.args) != len(gold.args) or "or" in answer.value:
        return False
    return all(map(same, answer.args, gold.args))


def _same_in_order(answer: Node, gold: Node) -> bool:
    if answer.op == "matrix":
        rows, columns = len(answer.args) // answer.value, answer.value
        if 1 not in (rows, columns) or gold.value not in ("()", "<>"):
            return rows_of(gold) is not None and _same_matrix(answer, gold)
    elif answer.op != "seq" or not alike_brackets(answer, gold):
        return False
    return len(answer.args) == len(gold.args) and all(map(same, answer.args, gold.args))


def _same_finite(answer: Node, gold: Node) -> bool:
    wanted = with_signs_chosen(gold.args)
    if answer.op == "rel":
        ends = ends_of_chain(answer)
        if len(ends) == 1:
            answer = ends[0]
    if answer.op == "seq" and answer.value == "{}":
        return same_items(with_signs_chosen(answer.args), wanted, repeats=False)
    if answer.op in ("seq", "matrix"):
        return False
    if answer.op in _SETS:
        given = real_set(answer)
        return given is not None and bool(given.pieces) and given == real_set(gold)
    if answer.op != "list" and not has_choice_of_signs(answer):
        return False
    given_values = values_of(answer)
    return given_values is not None and same_items(given_values, wanted, repeats=False)


def _same_matrix(answer: Node, gold: Node) -> bool:
    wanted, given = rows_of(gold), rows_of(answer)
    if wanted is None:
        return False
    if given is None:
        flat = [item for row in wanted for item in row]
        one_line = len(wanted) == 1 or len(wanted[0]) == 1
        is_vector = answer.op == "seq" and answer.value in ("()", "<>")
        given = [(item,) for item in answer.args] if is_vector and one_line else None
        wanted = [(item,) for item in flat]
    if given is None or [len(row) for row in given] != [len(row) for row in wanted]:
        return False
    return all(all(map(same, *rows)) for rows in zip(given, wanted, strict=True))
