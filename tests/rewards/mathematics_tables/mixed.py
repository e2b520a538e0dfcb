"""One or two answers each of many kinds, right beside almost right."""

# gold: right answers, wrong answers
TABLE: dict[str, tuple[list[str], list[str]]] = {
    "\\{2,4\\}": (
        ["A \\cap B = \\{2, 4\\}", "A ∪ B = {2,4}", "A \\setminus B = \\{4,2\\}"],
        ["A \\cap B", "A \\cap B = \\{2, 5\\}", "A \\cap B = A"],
    ),
    "①, ③": (["①③", "①、③", "③ ①"], ["①②③", "①", "13", "①②"]),
    "13": ([], ["①③"]),
    "$12": (
        [
            "8 + 4 = 12, so the answer is $12",
        ],
        [],
    ),
    "(-3,3)": (
        [],
        [
            "|x|<3 or x=5", "|x| < 3, x \\ne 0",
        ],
    ),
    "(2, 4)": (
        [],
        [
            "2(1, 2) + 1",
        ],
    ),
    "(2,4)": (
        [],
        [
            "f(2,4)",
        ],
    ),
    "(C) is not continuous": (
        [],
        [
            "(C) is continuous",
        ],
    ),
    "(a) 2 (b) 3 (c) 4": (
        [
            "(c) 4 (a) 2 (b) 3",
        ],
        [],
    ),
    "0": (
        [
            "The probability of an impossible event is 0.",
        ],
        [],
    ),
    "1": (
        [],
        [
            "a hundred",
        ],
    ),
    "1.5, 2.5": (
        [
            "max 2.5, min 1.5",
        ],
        [],
    ),
    "1/6": (
        [],
        [
            "6 in 1", "1 out of 6 times 2",
        ],
    ),
    "10": (
        [],
        [
            "\\binom{5}{2}",
        ],
    ),
    "100": (
        [],
        [
            "a hundred percent",
        ],
    ),
    "1000": (
        [],
        [
            "about a thousand", "several thousand",
        ],
    ),
    "12": (
        [
            "A dozen",
        ],
        [
            "9 out of 12", "\\frac{4!}{2!}",
        ],
    ),
    "120": (
        [
            "There are 120 students altogether.",
        ],
        [],
    ),
    "20": (
        [],
        [
            "Il est faux que la réponse est 20.", "Es ist nie 20.",
            "The answer, wrongly, is 20.",
        ],
    ),
    "24": (
        [
            "2 \\times 3 = 6, 6 \\times 4 = 24", "The answer is 24!",
        ],
        [
            "2 \\times 3 = 6, 6 \\times 4 = 24 or 25",
            "6 \\times 4 = 24, 24 = 24", "2 + 2 = 4, 4 + 4 = 8, 24",
            "20 + 4 = 24, 24 + 1 = 25", "3 * 8 = 24, 5 * 5 = 24", "4!",
            "4! 1!",
        ],
    ),
    "25": (
        [
            "A resposta é 25.", "Il risultato è 25.", "La solución es 25.",
            "La réponse est donc 25.", "El resultado es 25.",
            "Das macht 25 Euro.",
        ],
        [],
    ),
    "2x": (
        [],
        [
            "f(x)=2x for some x",
        ],
    ),
    "3": (
        [],
        [
            "最大值 $5$\uff0c最小值 $3$",
        ],
    ),
    "3/4": (
        [
            "3 out of 4",
        ],
        [],
    ),
    "30": (
        [],
        [
            "It cannot be said that the sum is 30.", "Neither is the sum 30.",
            "The sum is without doubt not 30.",
            "Il n'est pas possible que la somme est 30.",
            "No es posible que la suma es 30.",
            "Es ist nicht möglich, dass die Summe 30 ist.",
            "La suma jamás es 30.", "和并不等于30", "不对\uff0c是30",
            "It is not the case that the sum equals 30.",
            "The sum can never be 30.", "It's a mistake to say the sum is 30.",
            "It is a myth that the sum is 30.",
            "It is absurd that the sum equals 30.",
            "It is nonsense that the sum equals 30.",
            "It is impossible for the sum to be 30.",
            "It would be an error that the sum is 30.",
            "It is possible that the sum equals 30.",
            "It is conceivable that the sum equals 30.",
            "It is improbable that the sum is 30.",
            "It is not clear that the sum equals 30.",
            "It is unclear whether the sum is 30.",
            "It contradicts the fact that the sum is 30.",
            "I disagree that the sum is 30.", "I reject that the sum is 30.",
            "It is plausible that the sum is 30.", "他说和是30",
        ],
    ),
    "44": (
        [
            "错排数为 44",
        ],
        [],
    ),
    "4:30 pm": (
        [
            "He wakes at 4:30 pm",
        ],
        [
            "He wakes at 4:30 am", "He never wakes at 4:30 pm",
        ],
    ),
    "5": (
        [],
        [
            "|x| < 5", "The maximum is 5 and the minimum is 3.",
        ],
    ),
    "5, 3": (
        [
            "Alice has 5 and Bob has 3",
        ],
        [
            "Alice has 5 or Bob has 3", "Alice has 5 and Bob has 4",
            "Alice has 5 more and Bob has 3", "difference 5, sum not 3",
        ],
    ),
    "6": (
        [],
        [
            "3!",
        ],
    ),
    "7, -2": (
        [
            "Maximum: 7; Minimum: -2",
        ],
        [],
    ),
    "9": (
        [],
        [
            "9 out of 12",
        ],
    ),
    "9:05 a.m.": (
        [],
        [
            "The train is due by 9:05 AM.",
            "The 8:00 AM train arrives at 9:05 PM.",
        ],
    ),
    "Alice": (
        [],
        [
            "Alice has no chance.", "Alice is behind.",
        ],
    ),
    "Bob": (
        [
            "Bob is the winner.",
        ],
        [
            "Bob is a liar.", "Bob is behind Alice.", "Bob did nothing.",
            "Bob did not win.", "Bob is out.", "Bob has two fewer.",
        ],
    ),
    "C": (
        [],
        [
            "It is not C.", "C is wrong.",
        ],
    ),
    "March": (
        [],
        [
            "He left after March.", "It was not in March.",
        ],
    ),
    "May": (
        [],
        [
            "It may be May.",
        ],
    ),
    "Monday": (
        [
            "The day was a Monday.",
        ],
        [
            "It is Monday or Tuesday.", "Monday is not it",
            "It is two days before a Monday.", "Yesterday was Monday.",
            "Tomorrow is Monday.",
        ],
    ),
    "The mean is 4 and the median is 3": (
        [
            "median: 3, mean: 4",
        ],
        [],
    ),
    "\\begin{pmatrix}-1&0\\\\0&-1\\end{pmatrix}": (
        [
            "-\\begin{pmatrix}1&0\\\\0&1\\end{pmatrix}",
        ],
        [],
    ),
    "\\begin{pmatrix}2\\\\4\\end{pmatrix}": (
        [
            "2\\begin{pmatrix}1\\\\2\\end{pmatrix}",
        ],
        [],
    ),
    "\\frac{1}{3}": (
        [
            "\\frac{2}{6}, i.e. 1 out of 3",
        ],
        [],
    ),
    "\\frac{n(n-1)}{2}": (
        [],
        [
            "\\frac{5!}{3!2!}",
        ],
    ),
    "\\{0,1,2\\}": (
        [
            "\\{x \\in \\mathbb{Z} : 0 \\le x < 3\\}",
        ],
        [
            "\\{x \\in \\mathbb{R} : 0 \\le x < 3\\}",
        ],
    ),
    "a+b": (
        [],
        [
            "\\frac{n!}{n!}",
        ],
    ),
    "f(x) = 2x": (
        [
            "f(x) = 2x for all real x", "$f(x) = 2x$ for all real numbers $x$",
        ],
        [],
    ),
    "f(x)=2x": (
        [],
        [
            "f(x) = 2x for all x > 0", "f(x) = 3x for all x",
        ],
    ),
    "mean 4, median 3": (
        [
            "median 3, mean 4",
        ],
        [
            "mean 3, median 4", "mean 4, mode 3",
        ],
    ),
    "n(n-1)(n-2)": (
        [
            "\\frac{n!}{(n-3)!}",
        ],
        [],
    ),
    "x = 1, y = 2": (
        [
            "y: 2, x: 1",
        ],
        [],
    ),
    "x = 5k + 2": (
        [],
        [
            "x = 5k - 3, k an integer",
        ],
    ),
    "x = 5k + 2, k \\in \\mathbb{Z}": (
        [
            "x = 5n - 3, n \\in \\mathbb{Z}",
        ],
        [
            "x = 5k + 3, k an integer",
        ],
    ),
    "yes": (
        [
            "Yes, it is impossible to lose.",
        ],
        [
            "No, it is impossible.",
        ],
    ),
}  # fmt: skip
