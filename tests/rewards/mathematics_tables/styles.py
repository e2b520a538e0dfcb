"""Answers in the styles of reasoning models: numbers, units, points, sets, curves."""

# gold: right answers, wrong answers
TABLE: dict[str, tuple[list[str], list[str]]] = {
    "204": (
        [
            "**204**", "The final answer is $\\boxed{204}$.",
            "Therefore, the walk takes Aya 204 minutes.", "$t = 204$ minutes",
            "\\boxed{204\\text{ minutes}}", "204 ✅", "Final Answer: 204",
            "**Final Answer**\n\n\\boxed{204}", "204 QED", "204 $\\blacksquare$", "204 ∎",
            "204 \\quad \\square", "Thus the answer is `204`.", "`204`", "= 204",
            "n = 200 + 4 = 204",
        ],
        [
            "204 hours or minutes", "2:04", "20.4", "204 = 205", "Not 204", "204/2", "204!",
            "204^2", "204 \\cdot 1", "Therefore, it takes more than 204 minutes.",
            "204 \\text{ or } 240", "200+4", "(204, 1)",
        ],
    ),
    "025": (
        [
            "25", "025", "\\boxed{025}", "The answer is 025.",
        ],
        [
            "0.25", "250",
        ],
    ),
    "\\frac{14}{3}": (
        [
            "4\\frac{2}{3}", "4 2/3", "14/3", "\\dfrac{14}{3}", "4 \\tfrac23",
            "$\\frac{14}{3}$ (or $4\\frac{2}{3}$)", "\\frac{14}{3} = 4\\frac{2}{3}",
            "\\frac{14}{3} \\approx 4.67", "4\\frac{2}{3} \\text{ hours}",
            "x = \\frac{14}{3} \\approx 4.667", "28/6", "4.\\overline{6}", "4.666\\ldots",
        ],
        [
            "4.67", "\\approx 4.67", "4\\cdot\\frac{2}{3}", "42/3", "\\frac{3}{14}", "14 \\div 3",
            "4.6", "\\frac{14}{3} = 4.67", "-\\frac{14}{3}",
        ],
    ),
    "-\\frac{5}{2}": (
        [
            "-5/2", "\\frac{-5}{2}", "-2.5", "-2\\frac{1}{2}", "x=-\\dfrac52", "\\frac{5}{-2}",
            "-\\frac{5}{2} \\text{ or } -2.5", "−5⁄2", "negative five halves",
        ],
        [
            "5/2", "-2/5", "-2\\frac{1}{4}", "|-5/2|", "2.5 or -2.5", "--5/2",
        ],
    ),
    "0.75": (
        [
            "75%", "\\frac{3}{4}", ".75", "0.750", "0,75", "3/4 = 0.75", "75 percent",
            "three quarters", "three-fourths", "The probability is 0.75 (75%).",
        ],
        [
            "75", "0.7", "7.5", "4/3", "0.75%", "0.749999",
        ],
    ),
    "12\\%": (
        [
            "12%", "0.12", "12 percent", "\\frac{3}{25}", "12 \\%", "12\\%",
            "The increase is 12%.", "12 per cent",
        ],
        [
            "12", "1.2", "112%", "0.12%", "12 percentage points or 13",
        ],
    ),
    "\\$1,250": (
        [
            "1250", "$1250", "\\$1{,}250.00", "1,250 dollars", "USD 1250", "1250 USD",
            "$1,250.00", "The total cost is \\$1,250.", "She will pay $1,250 in total.",
            "\\text{\\$}1250",
        ],
        [
            "€1250", "1250 cents", "$1.25", "$12.50", "$1,205", "more than $1,250", "£1,250",
        ],
    ),
    "36 \\text{ cm}^2": (
        [
            "36", "36 cm²", "36 \\text{ square centimeters}", "36\\,\\mathrm{cm}^2", "36 cm^2",
            "The area is 36 square centimeters.", "Area = 36 cm^2", "0.0036 m^2", "36 sq cm",
            "36 \\operatorname{cm}^{2}",
        ],
        [
            "36 cm", "36 cm^3", "36 m^2", "6^2 cm^2", "36 square inches", "3600 mm",
        ],
    ),
    "60 \\text{ km/h}": (
        [
            "60 km/h", "60 kilometers per hour", "60", "60 km per hour",
            "60\\ \\mathrm{km\\cdot h^{-1}}", "60 kmh", "The train travels at 60 km/h.",
            "The speed is 60 kilometers per hour.",
        ],
        [
            "60 m/s", "60 mph", "60 km", "60 h/km", "1 km/h", "60 km/min",
        ],
    ),
    "3:45 \\text{ PM}": (
        [
            "3:45 PM", "3:45 p.m.", "15:45", "3:45pm", "at 3:45 PM",
        ],
        [
            "3:45", "3:45 AM", "4:45 PM", "3.45",
        ],
    ),
    "45^\\circ": (
        [
            "45°", "45 degrees", "\\angle A = 45^\\circ", "\\frac{\\pi}{4}", "45",
            "\\frac{\\pi}{4} \\text{ radians}", "\\theta = 45^{\\circ}",
            "45^\\circ \\text{ or } \\frac{\\pi}{4}", "∠ABC = 45°", "The angle measures 45°.",
        ],
        [
            "45 radians", "135^\\circ", "\\frac{\\pi}{3}", "45'", "45°C", "45^\\circ, 135^\\circ",
            "\\pi/4°",
        ],
    ),
    "(3, -4)": (
        [
            "$(3,-4)$", "x = 3, y = -4", "(x, y) = (3, -4)", "P(3,-4)", "P = (3, -4)",
            "x=3 and y=-4", "\\left(3, -4\\right)", "the point $(3,-4)$",
            "The vertex is (3, -4).", "\\{(3,-4)\\}",
            "\\begin{cases} x = 3 \\\\ y = -4 \\end{cases}", "The coordinates are (3, -4).",
            "center (3,-4)",
        ],
        [
            "(-4, 3)", "(3, 4)", "3, -4, 0", "x=-4, y=3", "[3, -4)", "\\{3,-4\\}",
            "(3,-4), (1,2)", "3-4",
        ],
    ),
    "\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}": (
        [
            "\\begin{bmatrix}1&2\\\\3&4\\end{bmatrix}", "[[1,2],[3,4]]",
            "A = \\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}",
            "\\left[\\begin{array}{cc}1&2\\\\3&4\\end{array}\\right]",
            "A^{-1}=\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}",
            "\\left(\\begin{matrix}1 & 2\\\\ 3 & 4\\end{matrix}\\right)",
        ],
        [
            "\\begin{pmatrix} 1 & 3 \\\\ 2 & 4 \\end{pmatrix}",
            "\\begin{vmatrix}1&2\\\\3&4\\end{vmatrix}", "(1,2,3,4)",
            "\\begin{pmatrix}1&2&3&4\\end{pmatrix}", "-2",
        ],
    ),
    "\\begin{pmatrix} 2 \\\\ -1 \\\\ 5 \\end{pmatrix}": (
        [
            "(2,-1,5)", "\\langle 2,-1,5\\rangle", "[2, -1, 5]^T", "(2, -1, 5)^T",
            "2\\mathbf{i} - \\mathbf{j} + 5\\mathbf{k}",
            "\\begin{bmatrix}2\\\\-1\\\\5\\end{bmatrix}", "\\vec v = (2,-1,5)",
            "2\\hat{i} - \\hat{j} + 5\\hat{k}",
        ],
        [
            "(2,1,5)", "2i - j + 4k", "\\{2,-1,5\\}", "(-1,2,5)",
        ],
    ),
    "(-\\infty, -1) \\cup (3, \\infty)": (
        [
            "x<-1 or x>3", "x < -1 \\text{ or } x > 3", "(-∞,-1)∪(3,∞)",
            "\\{x \\mid x < -1 \\text{ or } x > 3\\}", "x \\in (-\\infty,-1)\\cup(3,+\\infty)",
            "(3,\\infty)\\cup(-\\infty,-1)", "]-\\infty;-1[ \\cup ]3;+\\infty[",
            "\\mathbb{R} \\setminus [-1,3]", "{x | x<-1 或 x>3}", "x>3或x<-1",
        ],
        [
            "x<-1 and x>3", "[-1,3]", "(-1,3)", "x \\le -1 or x \\ge 3", "-1>x>3",
            "(-\\infty,-1] \\cup [3,\\infty)",
        ],
    ),
    "y = 2x - 3": (
        [
            "2x - y - 3 = 0", "y=2x-3", "2x - y = 3", "f(x) = 2x-3", "y + 3 = 2x",
            "y - 1 = 2(x - 2)", "The equation of the line is $y = 2x - 3$.", "2x-3",
        ],
        [
            "y = 2x + 3", "y = -2x - 3", "x = 2y - 3", "2x - 3 = 0", "y \\ge 2x-3",
        ],
    ),
    "(x-1)^2 + (y+2)^2 = 9": (
        [
            "x^2+y^2-2x+4y-4=0", "(x-1)^2+(y+2)^2=3^2", "(y+2)^2 + (x-1)^2 = 9",
            "(x - 1)² + (y + 2)² = 9",
        ],
        [
            "(x+1)^2+(y-2)^2=9", "(x-1)^2+(y+2)^2=3", "(x-1)^2+(y+2)^2", "(x-1)^2+(y+2)^2 < 9",
        ],
    ),
    "\\frac{x^2}{16} + \\frac{y^2}{9} = 1": (
        [
            "9x^2+16y^2=144", "x^2/16 + y^2/9 = 1", "\\frac{x^2}{4^2}+\\frac{y^2}{3^2}=1",
        ],
        [
            "\\frac{x^2}{9} + \\frac{y^2}{16} = 1", "\\frac{x^2}{16} - \\frac{y^2}{9} = 1",
            "\\frac{x}{4}+\\frac{y}{3}=1",
        ],
    ),
    "2\\sqrt{3}-1": (
        [
            "-1+2\\sqrt{3}", "\\sqrt{12}-1", "2√3 - 1", "2*sqrt(3) - 1",
            "2\\sqrt{3} - 1 \\approx 2.46", "x = 2\\sqrt3-1",
        ],
        [
            "2.46", "1-2\\sqrt3", "2\\sqrt{2}", "2\\sqrt{3-1}", "\\sqrt{3}-1", "2\\sqrt{3}\\pm 1",
        ],
    ),
    "\\sqrt{5+2\\sqrt{6}}": (
        [
            "\\sqrt{2}+\\sqrt{3}", "√3+√2",
        ],
        [
            "\\sqrt{5}+2\\sqrt{6}", "\\sqrt{3}-\\sqrt{2}", "3.146",
        ],
    ),
    "1 + i\\sqrt{3}": (
        [
            "1+\\sqrt{3}i", "2e^{i\\pi/3}", "z = 1+\\sqrt3 i",
        ],
        [
            "1-i\\sqrt3", "\\sqrt{3}+i", "2e^{i\\pi/6}", "2", "1+3i",
        ],
    ),
    "2^{10}": (
        [
            "1024", "2^{10} = 1024", "2^10",
        ],
        [
            "1025", "20", "2^{11}", "10^2",
        ],
    ),
    "\\log_2 3": (
        [
            "\\frac{\\ln 3}{\\ln 2}", "\\log_{2}{3}", "\\log_2(3)", "\\frac{\\log 3}{\\log 2}",
            "x = \\log_2 3 \\approx 1.585",
        ],
        [
            "1.585", "\\log_3 2", "\\log 6", "\\log_2 4",
        ],
    ),
    "no solution": (
        [
            "\\text{No solution}", "There is no solution.", "∅", "\\emptyset",
            "No real solutions.", "无解", "The system has no solution.", "no solutions",
            "The equation has no solution",
        ],
        [
            "one solution", "0", "infinitely many solutions", "there is a solution",
        ],
    ),
    "\\infty": (
        [
            "+\\infty", "infinity", "The limit is ∞.", "\\lim_{x\\to 0} f(x) = \\infty",
            "diverges to infinity", "∞",
        ],
        [
            "-\\infty", "0", "does not exist", "\\pm\\infty",
        ],
    ),
    "5 \\pmod{7}": (
        [
            "x \\equiv 5 \\pmod 7", "12 \\pmod 7", "x = 7k+5", "5 mod 7",
        ],
        [
            "4 \\pmod 7", "5 \\pmod 8", "7 \\pmod 5",
        ],
    ),
    "\\text{(C)}": (
        [
            "C", "(C)", "C) 12", "\\textbf{(C)}\\ 12", "The answer is (C).", "Option C", "**C**",
            "\\boxed{C}", "C: 12",
        ],
        [
            "B", "D", "(C) or (D)", "not C",
        ],
    ),
}  # fmt: skip
