"""Answers as people phrase them: sentences, remarks, function names, families, orders."""

# gold: right answers, wrong answers
TABLE: dict[str, tuple[list[str], list[str]]] = {
    "isosceles": (
        [
            "isosceles triangle", "an isosceles triangle", "It is an isosceles triangle.",
            "The triangle is isosceles.", "Isosceles",
        ],
        [
            "equilateral triangle", "triangle", "not isosceles", "scalene triangle",
            "isosceles right triangle", "isosceles trapezoid or kite",
        ],
    ),
    "equilateral triangle": (
        [
            "an equilateral triangle",
        ],
        [
            "triangle", "isosceles triangle",
        ],
    ),
    "parabola": (
        [
            "a parabola", "The curve is a parabola.",
        ],
        [
            "hyperbola", "not a parabola", "parabola or ellipse",
        ],
    ),
    "even": (
        [
            "even function", "an even function", "The function is even.", "f is even",
        ],
        [
            "odd", "odd function", "neither", "even and odd", "function",
        ],
    ),
    "linear": (
        [
            "linear function", "linear equation",
        ],
        [
            "nonlinear function", "bilinear", "function",
        ],
    ),
    "obtuse": (
        [
            "obtuse angle", "an obtuse triangle",
        ],
        [
            "acute angle", "angle",
        ],
    ),
    "parallel": (
        [
            "parallel lines", "The lines are parallel.",
        ],
        [
            "perpendicular", "not parallel", "lines", "neither parallel nor perpendicular",
        ],
    ),
    "x^3+6x^2-2": (
        [
            "p(x) = x^3+6x^2-2", "P(x)=x^3+6x^2-2", "q(x) = x^3 + 6x^2 - 2", "y = x^3+6x^2-2",
            "f'(x) = x^3+6x^2-2", "$p(x) = x^3+6x^2-2$", "F(x) = 6x^2 - 2 + x^3",
            "p(x)=x^3+6x^2-2.",
        ],
        [
            "p(x) = x^3+6x^2+2", "p(2) = x^3+6x^2-2+1", "x^3+6x^2=2", "x = x^3+6x^2-2",
            "p(x) + 2 = x^3+6x^2-2", "2p(x) = x^3+6x^2-2", "p(x) = x^3 + 6x^2 - 2 = 0",
        ],
    ),
    "2n+1": (
        [
            "a_n = 2n+1", "a_{n} = 2n + 1", "T(n) = 2n+1", "S_n = 2n+1", "f(n)=1+2n",
            "a(n) = 2n+1", "T_n = 2n + 1", "b_n = 2n+1",
        ],
        [
            "a_n = 2n-1", "a_{n+1} = 2n", "2a_n = 2n+1", "S_n/2 = 2n+1",
        ],
    ),
    "\\frac{x-1}{2}": (
        [
            "f^{-1}(x) = \\frac{x-1}{2}", "y = \\frac{x-1}{2}", "h(x)=(x-1)/2",
            "f^{-1}(x) = \\frac{1}{2}x - \\frac{1}{2}", "g^{-1}(x)=\\frac{x-1}{2}",
            "f⁻¹(x) = (x-1)/2",
        ],
        [
            "f^{-1}(x) = \\frac{x+1}{2}", "f^{-1}(x) = \\frac{2}{x-1}", "2f(x) = \\frac{x-1}{2}",
        ],
    ),
    "2143_5": (
        [
            "2\\,143_5", "2143_{5}", "2{,}143_5", "2143 base 5", "2143_{\\text{five}}",
            "(2143)_5", "2\\;143_5", "2,143_5", "2 143_5", "2143_{(5)}",
        ],
        [
            "2\\,144_5", "2\\,143_6", "2\\,143", "2, 143_5", "2+143_5", "143_5",
        ],
    ),
    "5050": (
        [
            "S = 1+2+\\dots+100 = 5050", "1+2+\\cdots+100=5050", "1 + 2 + 3 + ... + 100 = 5050",
            "S = \\sum_{k=1}^{100} k = 5050",
            "\\sum_{k=1}^{100} k = \\frac{100\\cdot 101}{2} = 5050",
            "S_{100} = \\frac{100 \\cdot 101}{2} = 5050", "S=1+2+…+100=50·101=5050",
        ],
        [
            "S = 1+2+\\dots+100 = 5051", "1+2+\\dots+100 = 5051 = 5050",
            "1+2+\\dots+100 = 5050 = 5051", "1+2+\\dots+100", "S = 5051 = 1+2+\\dots+100 = 5050",
            "1+2+\\dots+100 = 50 \\cdot 100 = 5050", "\\dots = 5050 or 5051",
            "1+2+\\dots+100 = 5050 \\text{ or } 5051", "5050 = \\dots = 5051",
        ],
    ),
    "\\frac{7}{12}": (
        [
            "There are $\\frac{7}{12}$ of the cake left.", "\\frac{7}{12} of the cake is left",
            "So $\\frac{7}{12}$ of the tank is full.", "7/12 of the students like math.",
            "The probability is $\\frac{7}{12}$.", "He ate 7/12 of the pizza.",
        ],
        [
            "There are not $\\frac{7}{12}$ of the cake left.",
            "There are about 7/12 of the cake left.",
            "\\frac{5}{12} of the cake is left, not \\frac{7}{12}", "7/12 of 24",
            "less than 7/12 of the cake", "There are $\\frac{7}{12}$ or $\\frac{5}{12}$ left",
            "7/12 more than the cake",
        ],
    ),
    "18": (
        [
            "So Janet makes $18 every day at the market.", "She has 18 eggs left.",
            "The total cost is $18.", "Therefore, the train travels 18 miles per hour",
            "It takes him 18 hours to finish.", "答案是 18", "因此共有18个苹果",
            "所以小明还剩18元", "La réponse est 18.", "Janet makes \\$18 every day.",
            "Die Antwort ist 18.", "La respuesta es 18", "Josh made a profit of $18.",
            "Thus, James sprints a total of 18 meters a week.", "So she sold 18 clips in May.",
            "Kylar needs to pay $18 for the glasses.", "小明一共有18本书。", "所以一共需要18天。",
            "Il reste 18 pommes.", "Es sind 18 Äpfel.", "Hence there are 18 such integers.",
            "Ella needs to save for 18 weeks.", "Each child gets 18 candies.",
            "John's age is 18.", "the number of ways is 18",
        ],
        [
            "She does not have 18 eggs left.", "Does she have 18 eggs?", "She has 18 or 19 eggs.",
            "maybe she has 18 eggs", "She has about 18 eggs.", "She has at least 18 eggs.",
            "She has between 18 and 20", "She has 18 more than Tom.",
            "She has 18 fewer eggs than Tom.", "If she has 18 eggs, she wins.",
            "see equation (18)", "step 18", "problem 18", "As shown in step 18", "3 of the 18",
            "She ate 3 of the 18 eggs.", "the correct answer, as given", "She has 9+9 eggs left.",
            "She has 2 times 9 eggs", "It is 18 times larger.", "She has twice 18 eggs.",
            "She had 18 eggs and now 12 remain.", "不是18", "可能是18", "大约18个苹果",
            "至少18个", "Nobody has 18 eggs.", "It would take 18 hours if it were raining.",
            "Question 18 asks for the total.", "The total is 18 percent of it.",
            "She has 18% of the eggs.", "18的两倍", "比小明多18本书", "第18题",
            "She has half of 18 eggs.", "She needs 18 dozen eggs.", "the sum is a multiple of 18",
            "The answer has 18 digits.", "It is divisible by 18.",
            "the answer is smaller than 18",
        ],
    ),
    "\\frac{3}{8}": (
        [
            "\\frac{3}{8}\\ \\text{(simplified)}", "\\frac{3}{8} (in simplest form)",
            "3/8 (exact)", "\\frac{3}{8} \\text{ in simplest form}", "3/8 in lowest terms",
            "\\frac{3}{8}\\text{ (reduced)}", "\\frac{3}{8} (by symmetry)",
            "3/8 (simplified fraction)",
        ],
        [
            "\\frac{3}{8} (approx.)", "3/8 (rounded)", "3/8 (or 1/2)", "3/8 (approximately)",
            "3/8 (estimated)", "3/8 (not simplified?)", "3/8 (incorrect)", "3/8 (wrong)",
        ],
    ),
    "7": (
        [
            "7 (in cm)", "7 (by AM-GM)", "7 (units)", "7\\text{ (units)}",
            "7\\ \\text{(square units)}", "7 (exact)", "7 (using Vieta)", "7 [by AM-GM]",
        ],
        [
            "7 (approx)", "7 (at least)", "7 (false)", "7 (I think 8)", "7 (mod 10)", "7 (not)",
            "7 (or so)", "7 (minimum, maximum 9)",
        ],
    ),
    "4.58": (
        [
            "4.58 to 2 decimal places", "4.58 (to two decimal places)", "4.58 (2 d.p.)",
            "4.58 (3 s.f.)", "≈ 4.58 (rounded to the nearest hundredth)",
            "4.58 (to the nearest hundredth)", "4.58 (3 significant figures)",
        ],
        [
            "4.6 to 1 decimal place", "4.59 (2 d.p.)", "4.58 or 4.59",
            "4.580001 to 2 decimal places",
        ],
    ),
    "\\frac{\\pi}{6}+k\\pi": (
        [
            "x = \\frac{\\pi}{6} + k\\pi, k \\in \\mathbb{Z}", "\\frac{\\pi}{6}+n\\pi",
            "x=\\frac{\\pi}{6}+n\\pi, n\\in\\mathbb{Z}", "x = π/6 + πk, where k is an integer",
            "x = \\frac{\\pi}{6} + n\\pi \\text{ for integer } n",
            "\\frac{\\pi}{6} + k\\pi \\quad (k \\in \\mathbb{Z})",
            "x=k\\pi+\\frac{\\pi}{6}(k\\in Z)",
            "\\frac{\\pi}{6}+m\\pi \\text{ where } m \\text{ is any integer}",
            "\\{x | x = \\frac{\\pi}{6}+k\\pi, k\\in\\mathbb{Z}\\}",
            "x = \\pi/6 - k\\pi, k\\in\\mathbb{Z}", "\\frac{7\\pi}{6}+k\\pi, k \\in \\mathbb{Z}",
        ],
        [
            "x = \\frac{\\pi}{6} + 2k\\pi, k \\in \\mathbb{Z}",
            "x=\\frac{\\pi}{3}+k\\pi, k\\in\\mathbb{Z}", "\\frac{\\pi}{6}",
            "x=-\\frac{\\pi}{6}+k\\pi, k\\in\\mathbb{Z}",
            "\\frac{\\pi}{6}+k\\pi, k\\in\\mathbb{N}", "\\frac{\\pi}{6}+k",
            "x=\\frac{\\pi}{6}+k\\pi, k\\in\\mathbb{R}", "x = \\frac{\\pi}{6} + k\\pi, k = 0",
            "\\frac{\\pi}{6}+k\\frac{\\pi}{2}",
        ],
    ),
    "x = \\frac{\\pi}{4} + 2k\\pi, k \\in \\mathbb{Z}": (
        [
            "\\frac{\\pi}{4}+2k\\pi", "x = \\frac{\\pi}{4} + 2\\pi n, n \\in \\mathbb{Z}",
            "x = 2\\pi k + \\pi/4 (k is an integer)", "\\frac{\\pi}{4} + 2\\pi k",
        ],
        [
            "\\frac{\\pi}{4}+k\\pi", "\\frac{\\pi}{4}",
            "x = \\frac{\\pi}{4}+2k, k\\in\\mathbb{Z}",
        ],
    ),
    "a<c<b": (
        [
            "b > c > a", "a < c < b", "b>c>a", "$b > c > a$", "a<c and c<b", "a \\lt c \\lt b",
        ],
        [
            "a<b<c", "b>a>c", "a\\le c\\le b", "b<c<a", "c<a<b", "a>c>b", "a<c", "c<b",
        ],
    ),
    "a \\le b \\le c": (
        [
            "c \\ge b \\ge a", "c ≥ b ≥ a",
        ],
        [
            "a<b<c", "c \\le b \\le a", "c \\ge a \\ge b", "c > b \\ge a",
        ],
    ),
    "\\sqrt{2} < 1.5 < \\frac{8}{5}": (
        [
            "8/5 > 1.5 > \\sqrt{2}", "\\frac{8}{5} > \\frac32 > \\sqrt2",
        ],
        [
            "1.5 < \\sqrt{2} < 8/5", "\\sqrt{2} < \\frac{8}{5} < 1.5",
        ],
    ),
}  # fmt: skip
