r"""Decides whether a mathematical answer is the gold answer, as a careful teacher would mark it.

An answer is cleaned (`spelling`), stripped of the phrases around it (`phrases`), cut into tokens
(`tokens`) and read into a tree (`grammar`); the tree is compared with that of the gold answer by
the kind of thing the gold answer is (`comparing`). Numbers are exact fractions. Nothing is
evaluated as code, and no computer algebra is needed: expressions are compared in exact arithmetic
or with 100 digits at several points (`evaluation`). The rules, each with its reason:

**One answer.** `42 or 43`, `42, 43`, `not 42`, two different boxes: wrong, since a guesser must
not win. A true chain that ends or starts with the gold value (`2+3=5`) is right: it shows work and
then answers. A false one (`2+2=5=4`) is wrong, since it holds any value one likes.

**Sentences.** A statement with one value in it (`She has 18 eggs left`) gives that value with its
noun. Where a word may change what the number says (not, about, more, if, half, step 18, a second
number, a question) nothing is read. Remarks on the form (`simplified`, `by AM-GM`, `in cm`) add
nothing, `to 2 decimal places` suits a decimal gold alone. The same value in two spellings (`5/2 or
2.5`) is one answer.

**Denied.** Where a word denies what is said (impossible, false, never, instead of, falsch, jamais,
imposible, 不可能, 错), nothing is read, unless it stands before a conclusion or in the gold itself.

**Steps.** `16 - 7 = 9, 9 * 2 = 18` answers 18: each step is true and the next ones use its result.

**Statements.** A sentence that states one time, weekday, month or name (`Alice is the tallest`)
answers a gold of that kind.

**Labels.** In `maximum 5, minimum -3` the value of every label must agree, in any order. For a bare
list the labels do not matter.

**Carried out.** `24+119`, `12*13`, `2^{10}`, `5!`, `\sqrt{144}`, `\gcd(…)`, `\sin 30^\circ` are
questions, not answers, where the gold is a plain number. p/q (also unreduced), mixed numbers,
a·10^n, signs and percent are ways to write a number, so they are answers. Where the gold is
symbolic any equal expression is right, except one that leaves a function of numbers to be
evaluated (`\sin 60^\circ` for `\frac{\sqrt3}{2}`), which restates the question.

**Exact.** Decimals are exact fractions and never compared within a tolerance: 0.333 is not 1/3,
3.14 is not π, 1e-20 is not 0. Repeating decimals (`0.\overline{3}`, `0.(3)`, `0.333…`) are exact,
and dots after digits without a visible period cannot be read. `√2 ≈ 1.41` counts as √2.

**Rounded golds.** A gold decimal may itself be rounded, so `≈ 4.58` and `about 4.58` are right for
4.58; for whole numbers, fractions and symbols such words hedge.

**Percent.** 50 % is 0.5, so both are right for each other; a bare 50 is neither of them.

**Units.** A unit that one side alone has is taken from the question, so it is not needed and does
no harm; with units on both sides the quantities must be the same, converted exactly (500 cm is 5
m, 5 kg is not 5 g, € is not $, cm is not cm²). °C and °F are never the same. 45° is π/4, and a
gold in degrees takes the bare number too. A plain noun counts as a unit (`12 apples` is not `12
pears`).

**Sets and lists.** Sets have no order and no repeats. A bare list, `1 and 2`, `x=1 or x=2`, `±2`
are lists of values: no order, but repeats count (prime factors). Tuples, vectors and matrices have
order. (1,2) is neither {1,2} nor `1, 2`, which could be two solutions; with three items no such
doubt is left. A set of one is its element, since both name the one solution.
A factor in front of a matrix or a vector belongs to each entry.

**Intervals.** Ends matter; ]1,2[ is (1,2); unions, inequalities solved for their variable and set
builders are equal where they describe the same set. `2x > 4` for x > 2 is the question again.
`|x| < 3` is (-3, 3), but `|x - 1| < 3` is again a question. A set builder over finitely many whole
numbers is the set of its elements.
Whether `(1,2)` is a point or an interval, the gold alone cannot say, so it takes both readings.

**Families.** `a + k\pi` with k any integer is a set: the letter of the index, a shift of it, and
how a union is divided do not matter. Without `k \in \mathbb{Z}` on either side it may be a formula,
so only the letter may differ. Antiderivatives with `+ C` are equal up to a constant. Functions by
cases pair each value with its condition, and `(a) 3 (b) 5` has order, by its marks
where they stand.

**Names.** `x = 5`, `f(2) = 5`, `AB = 5`, `the area is 5` answer 5; where the gold names its value
the name must agree if it is given at all, but `y =` and `f(x) =` both introduce an expression.

**Equations** are equal up to a constant factor, systems in any order, congruences by their
residues. `a < b < c` is `c > b > a`. A member of a chain that has no value here (`1 + \dots + 9`, a
sum, an integral) says nothing, and the others decide.

**Letters.** The case of a mathematical symbol matters (a is not A), that of a choice letter does
not, and neither does that of a word. Words are compared whole, without articles and punctuation;
letters are never multiplied out and sorted (`listen` is not `silent`). A gold letter A to J, or
one in brackets, is a choice, and a choice with its text (`(B) 12 cm`) answers either. Several
letters (`A, C`) are a set.

**Bases, times, ratios.** A gold in a base wants that base; a plain gold takes any base. A time
that says its half of the day wants it said. Ratios are equal where proportional, 3:4 is 3/4.

**Unreadable** answers are wrong. Unreadable gold (unbalanced braces, unknown commands, nothing but
delimiters) raises BadGold, since the row is at fault; plain words are a readable gold.
"""

from r1pipe.rewards.mathematics.deciding import decide, require_readable
from r1pipe.rewards.mathematics.nodes import BadGold

__all__ = ["BadGold", "decide", "require_readable"]
