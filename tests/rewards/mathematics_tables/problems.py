"""Answers to word problems, with what sounds like one but is none."""

# gold: right answers, wrong answers
TABLE: dict[str, tuple[list[str], list[str]]] = {
    "24": (
        [
            "The perimeter of the square is 24 cm.", "We need 24 tiles to cover the floor.",
            "Hence, the number of trees is 24.", "The school bought 24 new computers.",
            "John weighs 24 kilograms.", "Anna reads 24 pages every night.",
            "It costs $24 to fill the tank.", "The tank holds 24 gallons of water.",
            "He will be 24 years old.", "She worked 24 hours this week.",
            "There were 24 people on the bus.", "Mark spent a total of $24 on books.", "4! = 24",
            "4 \\times 6 = 24 \\text{ cm}^2", "The product is $4 \\cdot 6 = 24$.",
            "So the answer is 24!", "因此，答案为24。", "所以，x的值是24。", "答案：24个",
            "共需24天", "La somme est égale à 24.", "Der Flächeninhalt beträgt 24 cm².",
            "El resultado es 24.", "L'aire vaut 24 cm².", "Le train met 24 minutes.",
            "Answer: 24.", "The area of triangle $ABC$ is $24$.", "\\text{Area} = 24",
            "[ABC] = 24", "|AB| = 24", "AB^2 = 24", "n=24 works", "f(5) = 24",
            "S_{\\triangle ABC} = 24",
        ],
        [
            "The perimeter of the square is not 24 cm.", "We need 24 tiles more.",
            "It costs less than $24.", "He will be 24 or 25 years old.",
            "There were 24 people on bus 7.", "Each of the 3 boys has 24 cards.",
            "She worked 24/7.", "24/7", "24 = 25", "a = 24 and b = 25", "4 \\times 6",
            "4 \\times 6 = 25", "4 \\times 7 = 24", "The product is $4 \\cdot 6 = 25$.",
            "因此，答案不为24。", "答案大于24", "答案小于24", "大约24天",
            "La somme n'est pas égale à 24.", "Der Flächeninhalt beträgt etwa 24 cm².",
            "El resultado no es 24.", "24 ist falsch", "n = 24 does not work",
            "24 works for half of them", "f(24) = 5", "x^2 = 24", "AB = 24 or AB = 12",
            "answer: 24 (wrong)", "24 \\pm 1", "24 < x", "[24, 25]", "24 km or 24 miles",
            "the 24th term", "24, because 25 is wrong? 25", "Let x = 24.",
            "Assume the answer is 24.", "Without 24 there is no answer",
            "The gold answer is as given.", "whatever the key says",
            "same as the reference answer", "\\boxed{24} or \\boxed{42}", "Is 24 the answer? No.",
            "It cannot be 24.", "24 is too large.", "It should be 24 but I get 25.",
            "He makes 24 less than her.", "Row 24 is empty.", "She lives on 24 Main Street.",
            "He was born on the 24", "She would have 24 left.", "x > 24", "24 and counting",
            "One of 24", "24 apples and 3 pears",
        ],
    ),
    "\\frac{5}{6}": (
        [
            "$\\frac{5}{6}$ of an hour", "5/6 hour", "\\frac{5}{6} \\text{ hours}",
            "He walked 5/6 of a mile.", "\\frac{1}{2} + \\frac{1}{3} = \\frac{5}{6}",
            "\\frac{1}{2} + \\frac{1}{3} = \\frac{3}{6}+\\frac{2}{6} = \\frac{5}{6}",
            "She has eaten \\frac{5}{6} of the cake.", "1 - \\frac16 = \\frac56",
            "P = \\frac{5}{6} \\approx 0.833", "The fraction is 5/6.",
            "$\\dfrac{10}{12} = \\dfrac{5}{6}$", "5⁄6", "five sixths",
        ],
        [
            "\\frac{1}{2} + \\frac{1}{3}", "1 - \\frac16", "6/5", "\\frac{5}{6} of 12",
            "\\frac{1}{2} + \\frac{1}{3} = \\frac{2}{5} = \\frac{5}{6}", "0.83",
            "nearly 5/6 of the cake", "She has not eaten 5/6 of the cake.",
            "5/6 less than before", "\\frac56 \\text{ or } \\frac16", "5:7", "5 6", "5/6 of 6/5",
        ],
    ),
    "30^\\circ + 360^\\circ k, k \\in \\mathbb{Z}": (
        [
            "30^\\circ + 360^\\circ n, n\\in\\mathbb{Z}", "30° + k·360°, k∈Z",
            "\\{x | x = 30^\\circ + k \\cdot 360^\\circ, k\\in\\mathbb{Z}\\}",
            "390^\\circ + 360^\\circ k, k\\in\\mathbb{Z}",
        ],
        [
            "30^\\circ + 180^\\circ k, k\\in\\mathbb{Z}", "30^\\circ",
            "60^\\circ + 360^\\circ k, k\\in\\mathbb{Z}",
            "30^\\circ k + 360^\\circ, k\\in\\mathbb{Z}",
        ],
    ),
    "x = 3k + 1, k \\in \\mathbb{Z}": (
        [
            "x \\equiv 1 \\pmod 3", "x = 3n+1, n \\in \\mathbb{Z}",
            "x = 3k - 2, k\\in\\mathbb{Z}", "3m+1 \\text{ where } m \\text{ is an integer}",
        ],
        [
            "x = 3k+2, k\\in\\mathbb{Z}", "x = 6k+1, k\\in\\mathbb{Z}", "x=1",
            "x = k+3, k \\in \\mathbb{Z}", "x = 3k+1, k\\in\\mathbb{N}",
        ],
    ),
    "n\\pi": (
        [
            "\\pi n", "n \\cdot \\pi",
        ],
        [
            "k\\pi", "m\\pi", "2n\\pi", "\\pi", "(n+1)\\pi",
        ],
    ),
    "2\\pi r": (
        [
            "C = 2\\pi r", "2 r \\pi", "2πr",
        ],
        [
            "2\\pi k", "\\pi r^2", "2\\pi",
        ],
    ),
    "A + C": (
        [
            "C + A",
        ],
        [
            "A + K", "A + c", "A + B", "A + C + 1",
        ],
    ),
    "x + C": (
        [
            "x+K", "x + 1 + C", "x + C",
        ],
        [
            "x", "2x + C", "Cx", "x + Cx",
        ],
    ),
    "x+2": (
        [
            "x+2, x \\neq 2", "2+x", "x + 2 \\ (x \\neq 2)", "f(x) = x+2",
        ],
        [
            "x-2", "x+2 or x-2", "x + 2 > 0", "x+2=0", "x+2, x+3", "x = 2",
        ],
    ),
    "f(x)=\\begin{cases} 1 & x>0 \\\\ 0 & \\text{otherwise} \\end{cases}": (
        [
            "\\begin{cases} 1 & \\text{if } x>0 \\\\ 0 & \\text{otherwise} \\end{cases}",
            "f(x) = \\begin{cases} 1, & x > 0 \\\\ 0, & \\text{otherwise} \\end{cases}",
            "\\begin{cases} 1 & 0 < x \\\\ 0 & \\text{else} \\end{cases}",
        ],
        [
            "\\begin{cases} 0 & x>0 \\\\ 1 & \\text{otherwise} \\end{cases}",
            "\\begin{cases} 1 & x\\ge0 \\\\ 0 & \\text{otherwise} \\end{cases}",
            "\\begin{cases} 1 & x>0 \\end{cases}", "1",
        ],
    ),
    "2\\mathbf{i} + 3\\mathbf{j}": (
        [
            "(2,3)", "2\\vec{i}+3\\vec{j}", "\\langle 2, 3 \\rangle", "3j + 2i",
            "\\begin{pmatrix}2\\\\3\\end{pmatrix}",
        ],
        [
            "(3,2)", "2+3", "3i+2j", "(2,3,1)", "2i - 3j",
        ],
    ),
    "2e^{i\\pi/6}": (
        [
            "\\sqrt{3}+i", "2(\\cos 30^\\circ + i\\sin 30^\\circ)",
            "2\\left(\\cos \\frac{\\pi}{6} + i \\sin\\frac{\\pi}{6}\\right)",
            "2\\operatorname{cis}(\\pi/6)", "2 \\text{cis} 30^\\circ",
            "2\\,\\mathrm{cis}\\,\\frac{\\pi}{6}",
        ],
        [
            "2e^{i\\pi/3}", "2(\\cos 30^\\circ - i \\sin 30^\\circ)", "2", "1+\\sqrt3 i",
        ],
    ),
    "7.25": (
        [
            "7.25 (to 2 decimal places)", "$7.25", "7\\frac14",
            "7.25 (rounded to the nearest cent)", "The average is 7.25.", "29/4", "≈7.25",
        ],
        [
            "7.3 (to 1 decimal place)", "7.2 (rounded)", "7.26", "7,251", "7.25 or 7.26", "725",
        ],
    ),
    "right": (
        [
            "right triangle", "a right triangle", "It is a right triangle.",
        ],
        [
            "left", "not right", "acute triangle", "right or acute", "right hand",
        ],
    ),
    "prime": (
        [
            "a prime number", "It is a prime number.",
        ],
        [
            "composite number", "not a prime number", "prime factor", "relatively prime",
            "prime or composite",
        ],
    ),
    "10^{-3} < x < 1": (
        [
            "1 > x > 10^{-3}", "(10^{-3}, 1)", "0.001 < x < 1",
        ],
        [
            "10^{-3} \\le x < 1", "1 < x < 10^3", "x<1",
        ],
    ),
    "x<y<z": (
        [
            "z>y>x", "x<y and y<z",
        ],
        [
            "x<z<y", "x<y and x<z", "x<y", "x<y or y<z",
        ],
    ),
    "\\sum_{k=1}^{n} k^2": (
        [
            "\\sum_{k=1}^{n} k^2",
        ],
        [
            "\\sum_{k=1}^{n} k", "n^2",
        ],
    ),
    "55": (
        [
            "1+2+\\ldots+10 = 55", "\\sum_{i=1}^{10} i = 55", "S_{10} = \\frac{10(1+10)}{2} = 55",
            "1+2+...+10 = \\frac{10\\cdot11}{2} = 55",
            "\\sum_{i=1}^{10} i = \\frac{10 \\cdot 11}{2} = 5 \\cdot 11 = 55",
            "\\int_0^{10} (x + 0.5) dx = 55",
            "\\begin{aligned} S &= 1+2+\\dots+10 \\\\ &= 55 \\end{aligned}",
            "\\begin{align*} x &= 5 \\cdot 11 \\\\ &= 55 \\end{align*}",
        ],
        [
            "\\sum_{i=1}^{10} i", "\\sum_{i=1}^{10} i = 56", "\\sum i = 56 = \\sum j = 55",
            "S = \\frac{10\\cdot 12}{2} = \\dots = 55", "\\sum_{i=1}^{10} i \\ne 55",
            "\\sum_{i=1}^{10} i = 55 = 56", "\\sum a_i \\ge 55", "\\sum = 55 or 54",
        ],
    ),
}  # fmt: skip
