"""Absolute values, finite sets, integer families, statements, functions, factorials."""

# gold: right answers, wrong answers
TABLE: dict[str, tuple[list[str], list[str]]] = {
    "(-3, 3)": (
        [
            "$|x| < 3$", "|x| < 3", "3 > |x|", "|x|<3", "\\left|x\\right| < 3",
            "\\{x \\mid |x| < 3\\}", "-3 < x < 3",
        ],
        [
            "|x| \\le 3", "|x| > 3", "|x| < 4", "|x| = 3", "|x - 1| < 3",
            "|x| < -3", "|2x| < 6 + 1",
        ],
    ),
    "[-1, 5]": (
        [
            "-1 \\le x \\le 5", "x \\in [-1, 5]", "5 \\ge x \\ge -1",
        ],
        [
            "|x-2| < 3", "|x+2| \\le 3", "|x - 2| \\ge 3", "|x-3| \\le 2",
            "|x - 2| \\le 3", "|2x - 4| \\le 6", "|x| \\le 5",
        ],
    ),
    "(-\\infty, -2) \\cup (2, \\infty)": (
        [
            "|x| > 2", "2 < |x|", "x < -2 or x > 2", "\\{x : |x| > 2\\}",
        ],
        [
            "|x| \\ge 2", "|x| < 2", "|x| > -2", "|x| > 3", "|x| \\ne 2",
        ],
    ),
    "|x - 1| < 2": (
        [
            "(-1, 3)", "-1 < x < 3", "|x-1|<2", "x \\in (-1, 3)",
        ],
        [
            "[-1, 3]", "(-3, 1)", "|x+1| < 2", "-1 \\le x < 3",
        ],
    ),
    "\\{x \\mid x = 2k, 1\\le k\\le 4, k\\in\\mathbb{Z}\\}": (
        [
            "{2, 4, 6, 8}", "\\{2,4,6,8\\}", "\\{8, 6, 4, 2\\}",
            "\\{2k \\mid 1 \\le k \\le 4, k \\in \\mathbb{Z}\\}",
        ],
        [
            "{2, 4, 6}", "{1, 2, 3, 4}", "{2, 4, 6, 8, 10}", "[2, 8]",
            "{0, 2, 4, 6, 8}", "(2,4,6,8)",
        ],
    ),
    "\\{1, 2, 3\\}": (
        [
            "\\{x \\in \\mathbb{Z} \\mid 1 \\le x \\le 3\\}",
            "\\{n \\in \\mathbb{Z} : 0 < n < 4\\}",
            "\\{x \\in \\mathbb{N} \\mid 0 < x < 4\\}",
        ],
        [
            "\\{x \\in \\mathbb{Z} \\mid 1 \\le x \\le 4\\}",
            "\\{x \\mid 1 \\le x \\le 3\\}",
            "\\{x \\in \\mathbb{R} \\mid 1 \\le x \\le 3\\}",
            "\\{x \\in \\mathbb{Z} \\mid x \\ge 1\\}",
            "\\{x \\in \\mathbb{N} \\mid x < 4\\}", "1 \\le x \\le 3",
        ],
    ),
    "x = 3+7t, t\\in\\mathbb{Z}": (
        [
            "$x = 7k+3$, $k$ an integer", "x = 7k + 3, k ∈ ℤ",
            "x = 7n + 3, n an integer", "x = 7k + 3 for any integer k",
            "x = 7k - 4, k \\in \\mathbb{Z}", "x \\equiv 3 \\pmod 7",
            "x = 3 - 7t, t \\in \\mathbb{Z}",
            "$x = 7k+3$ where $k$ is an integer", "x = 7k + 3",
        ],
        [
            "x = 7k+4, k an integer", "x = 14k + 3, k an integer",
            "x = 7k + 3, k a positive integer",
            "x = 3k + 7, k \\in \\mathbb{Z}", "x = 3",
            "x = 7k+3, k \\in \\mathbb{N}", "x = 7k + 3, k \\in \\mathbb{R}",
            "x = 7k + 3, k an even integer", "x = 7k + 3, k = 1",
        ],
    ),
    "\\frac16": (
        [
            "$\\frac16$, i.e. 1 out of 6", "1/6, that is 1 out of 6",
            "1/6, i.e. \\frac{2}{12}", "1 out of 6",
            "\\frac{2}{12} = \\frac16", "1/6 (that is, 2/12)", "1 in 6",
            "1/6 or equivalently 2/12", "\\frac{1}{6} = \\frac{2}{12}",
        ],
        [
            "1/6, i.e. 0.1667", "1/6 (0.1667)", "1/6, i.e. 1 out of 5",
            "1 out of 5", "1/6 or 1/5", "1/6, that is 0.17", "6 out of 1",
            "1/6, i.e. 6", "1/6 = 0.1667", "1 out of 6 or 7",
        ],
    ),
    "9:05 \\text{ a.m.}": (
        [
            "The train arrives at 9:05 AM.", "It arrives at 9:05 a.m.",
            "The train left at 9:05 AM.", "The meeting ends at 9:05 AM.",
            "It is 9:05 AM.", "9:05 AM",
        ],
        [
            "The train arrives at 9:05 PM.", "The train arrives at 9:50 AM.",
            "The train does not arrive at 9:05 AM.",
            "The train arrives before 9:05 AM.",
            "The train arrives at 9:05 AM or 9:50 AM.",
            "The train arrives between 8:00 AM and 9:05 AM.",
            "The train might arrive at 9:05 AM.",
            "The train arrives after 9:05 AM.",
            "The train never arrives at 9:05 AM.",
            "Does the train arrive at 9:05 AM?",
            "The train arrives 5 minutes past 9:05 AM.",
        ],
    ),
    "\\text{Tuesday}": (
        [
            "It falls on a Tuesday.", "It is Tuesday.", "The day is Tuesday.",
            "It falls on Tuesday.", "The party will be on Tuesday.",
            "It was a Tuesday.",
        ],
        [
            "It falls on a Wednesday.", "It does not fall on a Tuesday.",
            "It falls on a Tuesday or Wednesday.",
            "It is the day after Tuesday.", "It is not Tuesday.",
            "It falls before Tuesday.", "It is either Monday or Tuesday.",
            "Is it Tuesday?", "It is two days after Tuesday.",
            "It might be Tuesday.", "It never falls on a Tuesday.",
            "Tuesday is wrong.",
        ],
    ),
    "\\text{March}": (
        [
            "It is March.", "The month is March.", "It happened in March.",
            "It falls in March.",
        ],
        [
            "It is May.", "It is not March.", "It is March or April.",
            "It is the month after March.", "It is before March.",
        ],
    ),
    "\\text{Alice}": (
        [
            "Alice is the tallest.", "Alice", "Alice won.",
            "Alice is the oldest.", "Alice has the most.",
            "Alice finished first.", "It is Alice.",
        ],
        [
            "Bob is the tallest.", "Alice is not the tallest.",
            "Alice or Bob is the tallest.", "Alice is shorter than Bob.",
            "Alice lost to Bob.", "Bob is taller than Alice.", "Not Alice.",
            "Alice and Bob are the tallest.",
            "Alice's brother is the tallest.", "Is Alice the tallest?",
            "Alice never wins.", "Alice might be the tallest.",
            "Alice is the second tallest, Bob is first.",
            "Alice is incorrect.", "Alice is wrong.", "Everyone except Alice",
            "Alice isn't the tallest.", "Alice is the tallest, but Bob won.",
            "If Alice is the tallest",
        ],
    ),
    "f(x)=0, f(x)=x": (
        [
            "$f(x)=x$ or $f(x) \\equiv 0$", "f(x) = 0 or f(x) = x",
            "f(x) \\equiv 0, f(x) = x", "f(x)=x and f(x)=0",
            "$f(x) = x$, $f(x) = 0$", "f(x) = 0 and f(x) = x for all x",
        ],
        [
            "f(x) = x", "f(x) = 0", "f(x) = x or f(x) = 1",
            "f(x) = x or f(x) = -x", "f(x) \\equiv 1 or f(x) = x",
            "f(x) = 0, f(x) = x, f(x) = 2x", "f(x) = 0 or g(x) = 2x",
            "f(x) \\not\\equiv 0 or f(x) = x",
        ],
    ),
    "f(n)=n+1": (
        [
            "$f(n)=n+1$ for all $n$", "f(n) = n + 1 for every n",
            "f(n) = n + 1 for all integers n",
            "f(n)=n+1 for all n \\in \\mathbb{N}",
            "f(n) = n+1 \\text{ for all } n",
            "f(n) = n+1 for all positive integers n",
            "f(n) = n+1 \\quad \\forall n",
        ],
        [
            "f(n) = n + 2 for all n", "f(n) = n + 1 for some n",
            "f(n) = n+1 for no n", "f(n) = n + 1 for all n except 3",
            "f(n) = n + 1 for n > 3", "f(n) = n+1 for all even n",
            "f(n) = n+1 for almost all n", "f(n) = n - 1 for all n",
        ],
    ),
    "\\frac{n(n-1)}{2}": (
        [
            "$\\frac{n!}{(n-2)!\\,2!}$", "\\frac{n!}{2!(n-2)!}",
            "\\binom{n}{2}", "\\frac{n!}{2(n-2)!}", "\\frac{n^2-n}{2}",
            "\\binom{n}{n-2}", "\\frac12 n(n-1)",
        ],
        [
            "\\frac{n!}{(n-2)!}", "\\frac{n!}{(n-1)!2!}", "\\binom{n}{3}",
            "\\frac{n!}{(n-3)!3!}", "\\binom{n+1}{2}", "\\frac{n!}{(n-2)! 3!}",
            "\\binom{n}{1}",
        ],
    ),
    "\\binom{n}{3}": (
        [
            "\\frac{n(n-1)(n-2)}{6}", "\\frac{n!}{3!(n-3)!}",
            "\\binom{n}{n-3}",
        ],
        [
            "\\binom{n}{2}", "\\frac{n!}{(n-3)!}", "\\frac{n(n-1)(n-2)}{3}",
            "\\binom{n-1}{3}",
        ],
    ),
    "113": (
        [
            "So the value of $m+n$ is **113**.",
            "The value of $m + n$ is 113.", "Thus $m+n$ is **113**.",
            "The value of \\(a+b+c\\) is 113.", "The sum is **113**.",
            "So, **the answer is 113**.",
        ],
        [
            "The value of $m+n$ is not **113**.",
            "The value of $m+n$ is **114**.", "The value of $m-113$ is 0.",
            "The value of $m+n$ is **113** or **114**.",
            "The value of $m+n$ is less than **113**.",
            "The value of $m+113$ is **12**.",
            "The value of $m+n$ is about **113**.",
        ],
    ),
    "0": (
        [
            "The sequence converges to 0.", "The sequence tends to 0.",
            "The limit equals 0.", "It converges to 0.",
            "The sum amounts to 0.", "The limit comes to 0.",
        ],
        [
            "The sequence does not converge to 0.",
            "The sequence never converges to 0.",
            "The sequence converges to 1.", "The sequence diverges from 0.",
            "It starts at 0.", "It seldom converges to 0.",
            "It fails to converge to 0.",
        ],
    ),
    "B": (
        [
            "(B)", "B.", "The answer is B.", "(B) 12 cm",
        ],
        [
            "It is impossible that the answer is B.",
            "It is false that the answer is B.", "(B) is wrong",
            "(B) is not the answer", "(B) is impossible", "B is incorrect",
            "The answer is never B.", "答案不是B", "答案不可能是B",
        ],
    ),
    "increasing": (
        [
            "The function is increasing.", "increasing", "It is increasing.",
        ],
        [
            "It is false that the function is increasing.",
            "The function is never increasing.",
            "It is impossible that it is increasing.",
            "It is wrong: increasing",
            "The function is anything but increasing.",
            "The function is hardly increasing.",
        ],
    ),
    "AB = 5, BC = 7": (
        [
            "BC = 7, AB = 5", "AB = 5 and BC = 7", "AB = 5; BC = 7",
        ],
        [
            "AB = 7, BC = 5", "AB = 5", "AB = 5, BC = 8", "AB = 5, AC = 7",
            "AB = -5, BC = 7", "AB = 5 or BC = 7",
        ],
    ),
    "width 5 cm, length 8 cm": (
        [
            "length 8 cm, width 5 cm",
            "The width is 5 cm and the length is 8 cm.",
            "width: 50 mm, length: 80 mm", "length: 8, width: 5",
        ],
        [
            "width 8 cm, length 5 cm", "width 5 m, length 8 m", "width 5 cm",
            "5 cm, 80 cm", "width 5 cm, height 8 cm",
            "width 5 cm, length about 8 cm",
        ],
    ),
    "45": (
        [
            "The bill amounts to $45.", "It works out to 45.",
            "The total comes to 45 dollars.", "45 dollars remain.",
            "The book costs $45.", "The bag weighs 45 kg.",
            "She needs 45 cups.", "He has 45 marbles.", "She earns $45.",
            "He pays $45.", "It takes 45 minutes.",
            "The car travels 45 miles.", "Das Auto kostet 45 Euro.",
            "Le total est de 45 euros.",
        ],
        [
            "The bill almost amounts to 45.", "It works out to 45 more.",
            "She needs 45 more cups.", "He pays 45 less.",
            "It takes at least 45 minutes.", "It scarcely costs 45.",
            "He hardly has 45.", "She lacks 45.", "He is 45 short.",
            "The answer lies above 45.",
        ],
    ),
}  # fmt: skip
