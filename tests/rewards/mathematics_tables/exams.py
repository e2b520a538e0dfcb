"""Answers in the wording of school exams."""

# gold: right answers, wrong answers
TABLE: dict[str, tuple[list[str], list[str]]] = {
    "16": (
        [
            "Sam has 16 marbles left.", "Answer: He bought 16 packs of gum.",
            "Therefore, there are 16 students in the class who play chess.",
            "So the farmer has a total of 16 cows.", "They walked 16 miles in total.",
            "The bus carries 16 passengers.", "Tom spends $16 on lunch each week.",
            "Maria's total is 16.", "Each friend will receive 16 stickers.",
            "The store sold 16 books yesterday.", "It took her 16 minutes to get home.",
            "In total, they collected 16 shells.", "After paying, he has $16 left.", "8 + 8 = 16",
            "Lisa earns 8 * 2 = $16 per day.", "He makes $8 x 2 = $16", "小红买了16支铅笔。",
            "答：一共有16个学生。", "他还剩16元。", "Sie hat 16 Euro übrig.", "Elle a 16 billes.",
            "Tiene 16 manzanas.", "x = 16 \\text{ (since } x > 0)",
            "The final answer is: $\\boxed{16}$", "$$\\boxed{16}$$ is the number of students.",
            "m + n = 16", "m+n = 7+9 = 16", "\\text{Answer: } 16", "Therefore, $k=16$.",
        ],
        [
            "Sam has 16 fewer marbles.", "Sam has 16 marbles left or 17.",
            "Sam has 16 of 20 marbles.", "Sam had 16 marbles but lost some.",
            "Sam should have 16 marbles.", "Sam thinks he has 16 marbles.", "Only if Sam has 16.",
            "Suppose Sam has 16 marbles.", "Sam has 16 marbles, Tim has 12.",
            "In chapter 16 he stops.", "On day 16 he stops.", "She lives at number 16.",
            "They need 16 more marbles.", "The price rose 16 percent.", "He sold 16 dozen eggs.",
            "She is not 16.", "She is nearly 16.", "Who has 16 marbles?", "8 + 8",
            "He makes $8 x 2", "He makes $8 x 3 = $16", "小红买了16支或17支。",
            "小红比小明多16支", "他没有16元", "16以上", "Sie hat nicht 16 Euro.",
            "Sie hat etwa 16 Euro.", "Elle n'a pas 16 billes.", "No tiene 16 manzanas.",
            "m + n = 16 or 17", "k^2 = 16", "The answer to question 16 is unknown.",
            "There are 16 hundred people.", "His score doubled to 16 or so.",
            "Sam has 16 and a half marbles.", "The remaining 16 were rejected as wrong.",
        ],
    ),
    "\\frac{\\sqrt{3}}{2}": (
        [
            "\\frac{1}{2}\\sqrt{3}", "\\frac{3}{2\\sqrt{3}}", "√3/2",
            "\\sin 60^\\circ = \\frac{\\sqrt{3}}{2}", "\\sqrt{\\frac{3}{4}}",
            "\\frac{\\sqrt{3}}{2} \\approx 0.866", "\\dfrac{\\sqrt3}{2}\\text{ (exact)}",
            "the value is $\\frac{\\sqrt{3}}{2}$", "\\cos(\\pi/6) = \\frac{\\sqrt{3}}{2}",
            "\\cos A = \\frac{\\sqrt 3}{2}", "0.5\\sqrt{3}", "\\sqrt{3}/2 \\text{ units}",
        ],
        [
            "0.866", "\\sin 60^\\circ", "\\frac{\\sqrt{3}}{4}", "\\pm\\frac{\\sqrt3}{2}",
            "\\frac{\\sqrt{2}}{2}", "\\sqrt{3/2}", "\\frac{3}{2}", "\\frac{\\sqrt{3}}{2} = 0.87",
        ],
    ),
    "x = k\\pi \\text{ or } x = \\frac{\\pi}{4} + k\\pi, k \\in \\mathbb{Z}": (
        [
            "x = n\\pi, x = \\frac{\\pi}{4} + n\\pi, n\\in\\mathbb{Z}",
            "x = \\frac{\\pi}{4} + k\\pi \\text{ or } x = k\\pi, k \\in \\mathbb{Z}",
            "x = k\\pi \\text{ or } x = \\frac{5\\pi}{4} + k\\pi \\ (k\\in\\mathbb{Z})",
        ],
        [
            "x = k\\pi, k \\in \\mathbb{Z}",
            "x = 2k\\pi \\text{ or } x = \\frac{\\pi}{4} + k\\pi, k\\in\\mathbb{Z}",
            "x = k\\pi \\text{ or } x = -\\frac{\\pi}{4} + k\\pi, k\\in\\mathbb{Z}",
            "x=0, \\frac{\\pi}{4}",
        ],
    ),
    "\\left\\{x \\mid x = \\frac{\\pi}{3} + 2k\\pi, k \\in \\mathbb{Z}\\right\\}": (
        [
            "\\{x | x = 2k\\pi + \\frac{\\pi}{3}, k \\in Z\\}",
            "x = \\frac{\\pi}{3} + 2n\\pi, n \\in \\mathbb{Z}",
            "\\{x \\mid x = \\frac{\\pi}{3} + 2\\pi n, n \\in \\mathbb{Z}\\}", "x=2kπ+π/3(k∈Z)",
        ],
        [
            "\\{x | x = \\frac{\\pi}{3} + k\\pi, k \\in \\mathbb{Z}\\}", "\\{\\frac{\\pi}{3}\\}",
            "\\{x \\mid x = \\frac{\\pi}{6} + 2k\\pi, k \\in \\mathbb{Z}\\}",
            "x = \\pm\\frac{\\pi}{3} + 2k\\pi, k\\in\\mathbb{Z}",
        ],
    ),
    "\\left[k\\pi - \\frac{\\pi}{3}, k\\pi + \\frac{\\pi}{6}\\right], k \\in \\mathbb{Z}": (
        [
            "[k\\pi-\\frac{\\pi}{3}, k\\pi+\\frac{\\pi}{6}] (k \\in \\mathbb{Z})",
            "\\left[-\\frac{\\pi}{3}+k\\pi, \\frac{\\pi}{6}+k\\pi\\right], k\\in\\mathbb{Z}",
            "[kπ - π/3, kπ + π/6], k∈Z",
            "\\left[n\\pi - \\frac{\\pi}{3}, n\\pi + \\frac{\\pi}{6}\\right], n \\in \\mathbb{Z}",
        ],
        [
            "\\left[2k\\pi - \\frac{\\pi}{3}, 2k\\pi + \\frac{\\pi}{6}\\right], k \\in \\mathbb{Z}",
            "\\left(k\\pi - \\frac{\\pi}{3}, k\\pi + \\frac{\\pi}{6}\\right), k \\in \\mathbb{Z}",
            "[-\\frac{\\pi}{3}, \\frac{\\pi}{6}]",
            "[k\\pi-\\frac{\\pi}{6}, k\\pi+\\frac{\\pi}{3}], k\\in\\mathbb{Z}",
        ],
    ),
    "(1) 3; (2) 5": (
        [
            "(1) 3 (2) 5", "（1）3；（2）5", "(1) $3$; (2) $5$", "(i) 3 (ii) 5",
        ],
        [
            "(1) 5; (2) 3", "(1) 3", "(2) 3; (1) 5", "(1) 3; (2) 6",
        ],
    ),
    "(1) a=2; (2) (-\\infty, 3]": (
        [
            "(1) a = 2 (2) x \\le 3", "(1) $a=2$; (2) $(-\\infty,3]$",
        ],
        [
            "(1) a=3; (2) (-\\infty,3]", "(1) a=2; (2) (-\\infty,3)",
        ],
    ),
    "x^2 + x + C": (
        [
            "x + x^2 + C", "x(x+1) + C", "(x+\\frac12)^2 + C", "x^2+x+c", "y = x^2 + x + C",
            "x^2+x+\\text{constant}", "\\int (2x+1)\\,dx = x^2 + x + C",
        ],
        [
            "x^2 + C", "x^2+x", "2x+1+C", "x^2 + 2x + C", "x^2+x+C+x", "x^2+x+5",
        ],
    ),
    "even": (
        [
            "It is an even function.", "f(x) is even", "The function is even.",
        ],
        [
            "It is not an even function.", "odd function", "neither even nor odd", "uneven",
        ],
    ),
    "n(n+1)": (
        [
            "n^2+n", "S_n = n(n+1)", "S_n = n^2 + n", "S(n) = n(n+1)",
            "2 + 4 + \\cdots + 2n = n(n+1)", "\\sum_{k=1}^n 2k = n(n+1)", "f(n) = n^2+n",
        ],
        [
            "n(n-1)", "n^2+1", "S_n = n(n+1) = 0", "\\frac{n(n+1)}{2}", "2 + 4 + \\cdots + 2n",
            "\\sum_{k=1}^n 2k",
        ],
    ),
    "a > b > c": (
        [
            "c < b < a", "a>b>c", "$c<b<a$", "a > b and b > c",
        ],
        [
            "a > c > b", "c > b > a", "a \\ge b \\ge c", "a > b", "a > b = c",
        ],
    ),
    "e": (
        [
            "\\lim_{n\\to\\infty}(1+1/n)^n = e", "e", "e^1", "x = e", "e \\approx 2.718",
        ],
        [
            "2.718", "E", "1/e", "e^2",
        ],
    ),
    "-\\infty": (
        [
            "-∞", "negative infinity", "The limit is -\\infty.", "diverges to negative infinity",
        ],
        [
            "\\infty", "\\pm\\infty", "DNE",
        ],
    ),
    "\\frac{n!}{k!(n-k)!}": (
        [
            "\\binom{n}{k}", "\\frac{n!}{(n-k)!k!}",
        ],
        [
            "\\frac{n!}{k!}", "\\binom{n}{k+1}",
        ],
    ),
    "1:2:3": (
        [
            "1 : 2 : 3", "2:4:6", "a:b:c = 1:2:3",
        ],
        [
            "3:2:1", "1:2", "1:3:2",
        ],
    ),
    "\\text{rectangle}": (
        [
            "a rectangle", "It's a rectangle.", "Rectangle", "The quadrilateral is a rectangle.",
        ],
        [
            "square", "not a rectangle", "rectangle or square", "parallelogram",
        ],
    ),
    "10011_2": (
        [
            "10011_{2}", "(10011)_2", "10011_{\\text{two}}", "10011 (base 2)", "10011 in base 2",
            "1\\,0011_2", "0b10011",
        ],
        [
            "10011", "19", "10011_3", "10010_2",
        ],
    ),
    "90 \\text{ square feet}": (
        [
            "90 ft^2", "90 sq ft", "90", "90\\text{ ft}^2", "The area is 90 square feet.",
            "90 square feet",
        ],
        [
            "90 feet", "90 square meters", "90 cubic feet", "900 ft^2",
        ],
    ),
    "\\left(-\\frac{1}{2}, \\frac{3}{4}\\right)": (
        [
            "(-1/2, 3/4)", "(-0.5, 0.75)", "x=-1/2, y=3/4", "(-\\tfrac12,\\tfrac34)",
            "\\left(-\\dfrac{1}{2}, \\dfrac{3}{4}\\right)",
        ],
        [
            "(1/2, 3/4)", "(3/4, -1/2)", "[-1/2, 3/4]", "(-1/2, 3/4]",
        ],
    ),
}  # fmt: skip
