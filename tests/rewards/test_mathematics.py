"""Properties of the equality of mathematical answers, over generated ones."""

from fractions import Fraction

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from r1pipe.rewards.mathematics import BadGold, decide, require_readable

INTEGERS = st.integers(-(10**12), 10**12)
RATIONALS = st.fractions(min_value=-(10**6), max_value=10**6, max_denominator=10**4)
NAMES = st.sampled_from("abcxyznk")
PIECES = (
    "1", "25", "0.5", "-", "+", "=", " ", "\n", "\x00", "\ud800", "\u200b", "进", "and", " or ",
    "é", "$", "\\boxed{", "}", "{", "\\frac", "^", "!", "%", "**", "`", "\\(", "\\[", ",", "x", "y",
    "(", ")", "[", "]", "|", "<", ">", "\\le", "\\cup", "\\infty",
    "\\begin{pmatrix}", "\\end{pmatrix}",
    "&",
    "\\\\", "\\text{", "cm", "½", "²", "√", "π", "_", "_2", ":", ";", "\\pm", "\\sqrt", "\\sin",
    "the answer is ", "(B)", "\\dots", "\\overline{3}", "三", "i", "e", "°", "€", "\\log_", "mod",
    "'",
    "\\left", "\\right", "9" * 70, "א", "\\mathbb{R}", "\\{", "\\}", "=>", "…", "／", "##", "????",
)  # fmt: skip
TEXTS = st.one_of(
    st.text(alphabet=st.characters(exclude_categories=()), max_size=200),
    st.lists(st.sampled_from(PIECES), max_size=30).map("".join),
)


def fraction(value: Fraction) -> str:
    return f"\\frac{{{value.numerator}}}{{{value.denominator}}}"


@st.composite
def polynomials(draw: st.DrawFn) -> str:
    """A sum of terms in one or two variables."""
    names = draw(st.lists(NAMES, min_size=1, max_size=2, unique=True))
    powers = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3, unique=True))
    terms = [f"{draw(st.integers(1, 9))}{draw(st.sampled_from(names))}^{{{p}}}" for p in powers]
    return "+".join([*terms, str(draw(st.integers(1, 99)))])


@st.composite
def readable(draw: st.DrawFn) -> str:
    """A gold answer of any of the usual kinds."""
    number = fraction(draw(RATIONALS))
    low, high = sorted(draw(st.tuples(INTEGERS, INTEGERS)))
    assume(low < high)
    return draw(
        st.sampled_from(
            [
                number, str(low), f"{low}%", f"{low} cm", f"({low}, {high}]", f"{{{low}, {high}}}",
                f"x = {low}", f"x > {low}", f"({low}, {number})", f"\\sqrt{{{abs(high) + 2}}}",
                f"{low}, {high}", f"\\pm {abs(high)}", f"{low} + {high}i",
                f"x = {low} or x = {high}",
                f"\\begin{{pmatrix}} {low} & {high} \\\\ {high} & {low} \\end{{pmatrix}}",
                f"{low}x + {high}y = 1", draw(polynomials()), "B", "no solution", "101_2",
            ]
        )
    )  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(readable())
def test_a_gold_answer_is_its_own_right_answer(gold: str) -> None:
    require_readable(gold)
    for answer in (
        gold,
        f"${gold}$",
        f"\\boxed{{{gold}}}",
        f"The answer is {gold}.",
        f"**{gold}**",
    ):
        assert decide(answer, gold), answer


@settings(max_examples=300, deadline=None)
@given(RATIONALS, st.integers(1, 50))
def test_spellings_of_a_rational_are_equal(value: Fraction, factor: int) -> None:
    spellings = [
        fraction(value),
        f"{value.numerator}/{value.denominator}",
        f"\\dfrac{{{value.numerator * factor}}}{{{value.denominator * factor}}}",
        f"\\frac{{{-value.numerator}}}{{{-value.denominator}}}",
        f"x = {value.numerator}/{value.denominator}",
    ]
    whole, rest = divmod(abs(value.numerator), value.denominator)
    sign = "-" if value < 0 else ""
    if whole and rest:
        spellings.append(f"{sign}{whole}\\frac{{{rest}}}{{{value.denominator}}}")
        spellings.append(f"{sign}{whole} {rest}/{value.denominator}")
    for answer in spellings:
        assert decide(answer, fraction(value)), answer


@settings(max_examples=300, deadline=None)
@given(INTEGERS, st.integers(0, 6))
def test_spellings_of_a_decimal_are_equal(digits: int, places: int) -> None:
    value = Fraction(digits, 10**places)
    whole, rest = divmod(abs(digits), 10**places)
    sign = "-" if digits < 0 else ""
    tail = f".{rest:0{places}d}" if places else ""
    gold = f"{sign}{whole}{tail}"
    for answer in (
        gold,
        f"{sign}{whole:,}{tail}",
        f"{sign}{whole:,}{tail}".replace(",", "{,}"),
        f"{sign}{whole:,}{tail}".replace(",", " "),
        f"{sign}{whole:,}{tail}".replace(",", "\\,"),
        f"{sign}{whole:,}{tail}".replace(",", "\u2009"),
        f"{digits}e-{places}",
        f"{digits} \\times 10^{{-{places}}}",
        f"{sign.replace('-', '−')}{whole}{tail}",
        f"{digits}/{10**places}",
    ):
        assert decide(answer, gold), answer
    assert decide(gold, fraction(value))


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 999), st.integers(0, 999), st.integers(1, 6))
def test_repeating_decimals_are_exact(period: int, fixed: int, width: int) -> None:
    digits = str(period).zfill(width)[:width] if len(str(period)) <= width else str(period)
    value = Fraction(fixed) + Fraction(int(digits), 10 ** len(digits) - 1)
    for answer in (
        f"{fixed}.\\overline{{{digits}}}",
        f"{fixed}.({digits})",
        f"{fixed}.{digits * 3}...",
    ):
        assert decide(answer, fraction(value)), answer
    assert not decide(f"{fixed}.{digits * 3}", fraction(value))


@settings(max_examples=300, deadline=None)
@given(st.text("0123456789", min_size=1, max_size=30), st.data())
def test_another_digit_or_sign_is_another_number(digits: str, data: st.DataObject) -> None:
    gold = digits.lstrip("0") or "0"
    place = data.draw(st.integers(0, len(gold) - 1))
    digit = data.draw(st.sampled_from("0123456789"))
    assume(digit != gold[place])
    changed = gold[:place] + digit + gold[place + 1 :]
    wrong = [changed, f"x = {changed}", f"{changed} cm", f"{gold}%" if gold != "0" else changed]
    if gold != "0":
        wrong += [
            f"-{gold}",
            f"{gold}0",
            f"\\pm {gold}",
            f"{gold}.5",
            f"{gold}!" if int(gold) > 2 else changed,
        ]
    for answer in (*wrong, f"{gold} or {changed}", f"{gold}, {changed}", f"{gold} = {changed}"):
        assert not decide(answer, gold), answer


@settings(max_examples=200, deadline=None)
@given(st.lists(INTEGERS, min_size=2, max_size=6, unique=True), st.randoms())
def test_sets_have_no_order_and_tuples_have(items: list[int], random) -> None:
    shuffled = items[:]
    random.shuffle(shuffled)
    inside, other = ", ".join(map(str, items)), ", ".join(map(str, shuffled))
    assert decide(f"{{{other}}}", f"\\{{{inside}\\}}")
    assert decide(other, f"\\{{{inside}\\}}")
    assert decide(f"\\{{{other}, {items[0]}\\}}", f"\\{{{inside}\\}}")
    assert decide(f"({other})", f"({inside})") == (items == shuffled)
    assert not decide(f"({inside})", f"\\{{{inside}\\}}")
    assert not decide(f"\\{{{inside}, {max(items) + 1}\\}}", f"\\{{{inside}\\}}")
    assert not decide(", ".join(map(str, items[1:])), f"\\{{{inside}\\}}")


@settings(max_examples=200, deadline=None)
@given(st.tuples(INTEGERS, INTEGERS), st.sampled_from("(["), st.sampled_from(")]"))
def test_the_ends_of_an_interval_matter(ends: tuple[int, int], opening: str, closing: str) -> None:
    low, high = sorted(ends)
    assume(low < high)
    gold = f"{opening}{low}, {high}{closing}"
    left, right = "<" if opening == "(" else "\\le ", "<" if closing == ")" else "\\le "
    assert decide(f"{low} {left} x {right} {high}", gold)
    for other in "([":
        for end in ")]":
            assert decide(f"{other}{low}, {high}{end}", gold) == (
                (other, end) == (opening, closing)
            )


@settings(max_examples=150, deadline=None)
@given(polynomials(), st.integers(2, 9))
def test_a_polynomial_equals_its_rearrangements_only(gold: str, factor: int) -> None:
    backwards = "+".join(reversed(gold.split("+")))
    assert decide(backwards, gold)
    assert decide(f"\\frac{{{factor}({gold})}}{{{factor}}}", gold)
    assert decide(f"y_0 = {gold}", gold)
    for wrong in (f"{gold}+1", f"-({gold})", f"{factor}({gold})", f"{gold}+t", f"{gold}=0"):
        assert not decide(wrong, gold), wrong
    assert decide(f"{factor}({gold}) = {factor}q", f"{gold} = q")


@settings(max_examples=200, deadline=None)
@given(readable(), readable())
def test_the_verdict_on_plain_values_is_symmetric(one: str, other: str) -> None:
    if all(set(text) <= set("0123456789-/.\\frac{}") for text in (one, other)):
        assert decide(one, other) == decide(other, one)


@settings(max_examples=1000, deadline=None)
@given(
    TEXTS,
    st.sampled_from(
        ["25", "\\frac{1}{2}", "(1,2]", "{1,2}", "x^2+1", "B", "Monday", "5 cm", "x=5"]
    ),
)
@example("(" * 3000, "25")
@example("{" * 3000, "25")
@example("-" * 3000, "25")
@example("\\frac" * 600, "25")
@example("x^" * 900 + "2", "x^2+1")
@example("!" * 2000, "25")
@example("1" * 2000, "25")
@example("\\sqrt{" * 400 + "5" + "}" * 400, "25")
@example("9^{9^{9^{9}}}", "x^2+1")
@example("99999999!", "\\sqrt{2}")
@example("2^{99999999}", "2^{100}")
@example("10^{10^{10}}", "10^{30}+1")
@example("e^{e^{e^{e^{99}}}}", "e^2")
@example("\\binom{99999999}{5000}", "2^{100}")
@example("\\boxed{" * 300, "25")
@example("$" * 2000, "25")
@example("1," * 900, "{1,2}")
def test_what_a_model_writes_never_raises(text: str, gold: str) -> None:
    assert decide(text, gold) in (True, False)


@settings(max_examples=500, deadline=None)
@given(TEXTS)
def test_a_gold_answer_is_readable_or_bad_and_nothing_else(text: str) -> None:
    try:
        require_readable(text)
    except BadGold:
        with pytest.raises(BadGold):
            decide("5", text)
        return
    assert decide(text, text)


@pytest.mark.parametrize(
    "gold",
    [
        "", " ", "$", "$$", "\\(\\)", "\\boxed{}", "?", "???", ".", "\\frac{1}{", "\\frac{1}",
        "{1", "1}", "\\foo{3}", "3 +", "= ", "\\sqrt", "(1, 2", "x^", "\\left( 1",
        "\\begin{pmatrix} 1", "**", "-", "\\", "1 +* 2", "\x00", "\\boxed{\\boxed{}}", "5 =",
        "\\text{}", "[1, 2", "2 ^ ^ 3", "\\frac{}{}", "$\\boxed{ }$",
        "\\begin{foo} 1 \\end{foo}", "\\frac{1}{0", "\\notacommand", "\u200b", "—", "…", "()",
        "( )", "[]",
    ],
)  # fmt: skip
def test_gold_that_cannot_be_read(gold: str) -> None:
    with pytest.raises(BadGold):
        require_readable(gold)


@pytest.mark.parametrize(
    "gold",
    [
        "42", "no", "Paris", "没有", "the red one", "O'Brien", "{}", "∅", "\\text{Monday}", "x",
        "-\\infty", "\\int_0^1 x dx", "\\sum_{k=1}^n k", "p \\Rightarrow q", "Alice and Bob",
        "3 apples and 4 pears", "H2O", "C_6H_{12}O_6", "carbon-14", "AB \\perp CD", "25r3",
        "\\boxed{42}", "It rains.", "Room 5", "\\angle ABC", "New York, Paris", "\\vec{AB}",
        "1000000",
    ],
)  # fmt: skip
def test_gold_that_can_be_read(gold: str) -> None:
    require_readable(gold)
    assert decide(gold, gold)
