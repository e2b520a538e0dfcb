"""Answers of calculus, algebra and counting in the styles of reasoning models."""

# gold: right answers, wrong answers
TABLE: dict[str, tuple[list[str], list[str]]] = {
    "\\frac{x^3}{3} + C": (
        [
            "\\frac{1}{3}x^3 + C", "x^3/3 + c", "\\int x^2 dx = \\frac{x^3}{3} + C",
            "\\frac{x^3}{3}+K", "\\frac{x^{3}}{3}+C, C \\in \\mathbb{R}", "\\frac{x^3+3C}{3}",
            "F(x) = \\frac{x^3}{3} + C",
            "\\frac{x^3}{3} + C \\text{ where } C \\text{ is a constant}", "C + \\frac{x^3}{3}",
        ],
        [
            "\\frac{x^3}{3}", "x^3 + C", "\\frac{x^2}{3}+C", "\\frac{x^3}{3} - x + C",
            "\\frac{x^3}{3}+Cx", "x^2",
        ],
    ),
    "\\ln|x+1| + C": (
        [
            "\\ln |x+1| + C", "\\ln\\left|x+1\\right| + C", "C + \\ln|1+x|",
        ],
        [
            "\\ln|x| + C", "\\ln|x-1| + C", "\\frac{1}{x+1} + C",
        ],
    ),
    "2x\\cos x - x^2\\sin x": (
        [
            "-x^2 \\sin x + 2x \\cos x", "x(2\\cos x - x\\sin x)",
            "f'(x) = 2x\\cos x - x^2 \\sin x", "\\frac{dy}{dx} = 2x\\cos x - x^2\\sin x",
            "y' = 2x \\cos(x) - x^2 \\sin(x)",
            "\\frac{d}{dx}(x^2 \\cos x) = 2x\\cos x - x^2\\sin x", "2x\\cos{x}-x^{2}\\sin{x}",
        ],
        [
            "2x\\cos x + x^2\\sin x", "-2x\\sin x", "2x \\cos x", "x^2\\cos x",
        ],
    ),
    "(x+2)(x-3)": (
        [
            "(x-3)(x+2)", "x^2 - x - 6 = (x+2)(x-3)", "\\left(x + 2\\right)\\left(x - 3\\right)",
            "(x+2) \\cdot (x-3)", "(x + 2)(x - 3)", "f(x)=(x+2)(x-3)",
        ],
        [
            "(x-2)(x+3)", "(x+2)(x-3) = 0", "x = -2, 3", "(x+2)(x+3)", "-2, 3",
        ],
    ),
    "\\frac{x+1}{x-2}": (
        [
            "\\frac{-(x+1)}{2-x}", "(x+1)/(x-2)", "1+\\frac{3}{x-2}",
            "\\dfrac{x+1}{x-2}, x \\neq 2", "\\frac{x+1}{x-2}\\ (x\\ne 2)",
            "\\frac{x+1}{x-2} \\text{ for } x \\neq 2",
        ],
        [
            "\\frac{x-2}{x+1}", "x+1/x-2", "\\frac{x+1}{x+2}", "\\frac{x+1}{x-2} = 0",
        ],
    ),
    "-2 < x \\leq 5": (
        [
            "(-2, 5]", "-2<x<=5", "5 \\ge x > -2", "x \\in (-2, 5]", "{x | -2 < x ≤ 5}",
            "x > -2 and x \\le 5", "-2 \\lt x \\leqslant 5", "\\{x\\mid -2<x\\leq 5\\}",
            "\\left(-2,5\\right]", "the interval (-2, 5]",
        ],
        [
            "[-2, 5)", "-2 \\le x \\le 5", "-2 < x < 5", "x > -2 or x \\le 5", "-2 < y \\le 5",
            "(-2,5)", "2<x\\le5",
        ],
    ),
    "\\{-3, 0, 3\\}": (
        [
            "-3, 0, 3", "x = -3, 0, 3", "x = 0, \\pm 3", "{0, 3, -3}", "x=-3, x=0, x=3",
            "x \\in \\{-3,0,3\\}", "0 and ±3", "x = 0 \\text{ or } x = \\pm 3",
            "The solutions are $-3$, $0$, and $3$.", "x_1=-3, x_2=0, x_3=3",
        ],
        [
            "\\pm 3", "-3 < x < 3", "3, 0", "(-3, 3)", "-3, 0, 3, 6", "x = 0, 3", "\\{3\\}",
        ],
    ),
    "x=2, y=-1": (
        [
            "(2,-1)", "y=-1, x=2", "x = 2 and y = -1", "\\begin{cases}x=2\\\\y=-1\\end{cases}",
            "(x,y)=(2,-1)", "x=2\\\\y=-1", "\\begin{aligned} x &= 2 \\\\ y &= -1 \\end{aligned}",
            "x = 2; y = -1",
        ],
        [
            "x=-1, y=2", "(-1,2)", "2, -1, 0", "x=2", "x=2, y=1",
        ],
    ),
    "3:4": (
        [
            "3 : 4", "3/4", "\\frac{3}{4}", "6:8", "3 to 4", "The ratio is 3:4.", "3∶4",
            "3 \\colon 4", "9 : 12",
        ],
        [
            "4:3", "3:5", "7", "3, 4", "4/3", "3-4",
        ],
    ),
    "yes": (
        [
            "Yes", "Yes.", "**Yes**", "\\text{Yes}", "Yes, it is.", "The answer is yes.", "YES",
        ],
        [
            "No", "maybe", "yes or no", "not yes", "No, yes",
        ],
    ),
    "\\text{False}": (
        [
            "False", "false.", "The statement is false.", "**False**", "It is false.",
        ],
        [
            "True", "not false", "true or false", "unknown",
        ],
    ),
    "DNE": (
        [
            "does not exist", "The limit does not exist.", "\\text{DNE}", "Does not exist",
            "the limit doesn't exist",
        ],
        [
            "0", "\\infty", "exists", "1",
        ],
    ),
    "1.2 \\times 10^{-5}": (
        [
            "1.2e-5", "0.000012", "1.2 × 10^-5", "1.2 \\cdot 10^{-5}", "1.2*10^(-5)",
            "12 \\times 10^{-6}", "1.2 x 10^-5", "1.2 × 10⁻⁵",
        ],
        [
            "1.2 \\times 10^{5}", "-1.2 \\times 10^5", "1.2^{-5}", "12 \\times 10^{-5}",
            "1.2 - 10^5",
        ],
    ),
    "0.\\overline{27}": (
        [
            "\\frac{3}{11}", "0.272727...", "0.(27)", "3/11", "0.\\overline{2727}",
            "0.27\\overline{27}",
        ],
        [
            "0.27", "0.2\\overline{7}", "27", "\\frac{27}{100}",
        ],
    ),
    "\\frac{1}{2}": (
        [
            "0.5", "50%", "1/2", "\\frac12", "½", "one half", "a half",
            "\\cos 60^\\circ = \\frac12", "P = 1/2", "P(A) = \\frac{1}{2}", "P(X=1)=\\frac12",
            "2^{-1} = \\frac12", "\\frac{1}{2} \\text{ or } 50\\%", "probability = 1/2",
            "Wahrscheinlichkeit: 1/2",
        ],
        [
            "50", "2", "\\sin 30^\\circ", "2^{-1}", "1:3", "0.5 or 0.6", "1/2 or 1/3",
            "half of the cake or less",
        ],
    ),
    "\\frac{\\pi}{3}": (
        [
            "60^\\circ", "π/3", "\\frac{1}{3}\\pi", "\\pi/3 \\text{ rad}",
            "\\arccos(1/2) = \\frac{\\pi}{3}", "x=\\frac\\pi3", "\\frac{\\pi}{3}\\approx 1.047",
        ],
        [
            "1.047", "\\arccos\\frac12", "\\frac{3}{\\pi}", "60", "\\frac{2\\pi}{3}", "\\pi 3",
        ],
    ),
    "120": (
        [
            "5! = 120", "\\binom{10}{3} = 120",
            "5! = 5 \\times 4 \\times 3 \\times 2 \\times 1 = 120",
            "\\binom{10}{3}=\\frac{10!}{3!7!}=120", "C_{10}^3 = 120", "{}_{10}C_3 = 120",
            "\\text{lcm}(24, 40) = 120", "There are 120 ways.", "共有120种不同的方法", "120种",
            "C(10,3)=120", "P(5,5) = 120", "A_5^5=120",
            "There are a total of 120 different arrangements.",
            "The number of arrangements is $5! = 120$.", "Es gibt 120 Möglichkeiten.",
            "Il y a 120 façons.", "Hay 120 formas.",
        ],
        [
            "5!", "\\binom{10}{3}", "5! = 119", "120!", "\\text{lcm}(24,40)", "5! = 125 = 120",
            "There are at most 120 ways.", "120 or 720", "Es gibt nicht 120 Möglichkeiten.",
            "超过120种", "There are fewer than 120 ways.", "6!/6", "Are there 120 ways?",
            "10 \\cdot 12", "There are 120 times as many.", "There are ten times 120 ways.",
        ],
    ),
    "(a) 3 (b) 5": (
        [
            "(a) 3, (b) 5", "(a) 3\n(b) 5", "a) 3 b) 5", "(a) $3$ (b) $5$", "**(a)** 3 **(b)** 5",
        ],
        [
            "(a) 5 (b) 3", "(a) 3", "3", "8", "(a) 3 (b) 6",
        ],
    ),
    "f(x) = \\begin{cases} x & x \\ge 0 \\\\ -x & x < 0 \\end{cases}": (
        [
            "\\begin{cases} x & x \\ge 0 \\\\ -x & x < 0 \\end{cases}",
            "f(x)=\\begin{cases}x,&x\\geq0\\\\-x,&x<0\\end{cases}",
            "\\begin{cases} x & \\text{if } x \\ge 0 \\\\ -x & \\text{if } x < 0 \\end{cases}",
        ],
        [
            "\\begin{cases} -x & x \\ge 0 \\\\ x & x < 0 \\end{cases}",
            "\\begin{cases} x & x > 0 \\\\ -x & x < 0 \\end{cases}", "x", "-x",
        ],
    ),
    "Tuesday": (
        [
            "Tuesday", "It is Tuesday.", "on Tuesday", "The day is Tuesday.", "tuesday",
        ],
        [
            "Thursday", "Tuesday or Wednesday", "not Tuesday", "Monday",
        ],
    ),
    "Evelyn": (
        [
            "Evelyn", "\\text{Evelyn}", "The answer is Evelyn.", "Evelyn.",
        ],
        [
            "Briana", "Evelyn or Briana", "not Evelyn", "Angela has less than Evelyn",
        ],
    ),
    "2, 3, 5, 7": (
        [
            "2,3,5,7", "7, 5, 3, 2", "2, 3, 5 and 7", "\\{2,3,5,7\\}",
            "The primes are 2, 3, 5, and 7.",
        ],
        [
            "2,3,5", "2,3,5,7,9", "2357", "2, 3, 5, 8",
        ],
    ),
    "x + 2y - 3z = 4": (
        [
            "x+2y-3z-4=0", "2x+4y-6z=8", "-x-2y+3z=-4", "x + 2y - 3z = 4", "3z = x+2y-4",
        ],
        [
            "x+2y+3z=4", "x+2y-3z=0", "x-2y-3z=4", "x+2y-3z",
        ],
    ),
    "-\\frac{1}{x^2}": (
        [
            "-x^{-2}", "\\frac{-1}{x^2}", "y'=-\\frac{1}{x^2}", "-1/x^2", "-\\frac1{x^2}",
        ],
        [
            "\\frac{1}{x^2}", "-\\frac{1}{x}", "-\\frac{2}{x^3}", "\\frac{-1}{x}^2 + 1",
        ],
    ),
}  # fmt: skip
