"""Denials, values with labels, factors in front of matrices, number words, steps."""

# gold: right answers, wrong answers
TABLE: dict[str, tuple[list[str], list[str]]] = {
    "30": (
        [
            "The sum equals 30.", "It is clear that the sum equals 30.",
            "The sum is therefore 30.", "It follows that the total is 30.",
            "和是30", "答案是30", "La somme est 30.", "Die Summe ist 30.",
            "La suma es 30.", "Die Antwort lautet 30.", "La réponse est 30.",
            "La respuesta es 30.", "La risposta è 30.", "Das Ergebnis ist 30.",
            "Es ergibt sich 30.", "Die Lösung lautet: 30.",
        ],
        [
            "It is impossible that the sum equals 30.",
            "The sum cannot equal 30.", "The sum never equals 30.",
            "It is false that the sum equals 30.",
            "It is wrong that the sum is 30.",
            "It is incorrect that the sum is 30.", "The sum fails to be 30.",
            "It is unlikely that the sum is 30.", "Neither sum is 30.",
            "The sum is anything but 30.", "The sum is other than 30.",
            "Instead of 30, the sum differs.", "Rather than 30",
            "All sums except 30", "without 30",
            "The claim that the sum is 30 is false.",
            "The sum refuses to be 30.", "Nobody says the sum is 30.",
            "It is doubtful that the sum is 30.",
            "It is untrue that the sum is 30.", "I deny that the sum is 30.",
            "The sum is 30, which is impossible.",
            "The sum is 30, which is wrong.", "和不可能是30", "和不是30", "答案并非30",
            "说和是30是错的", "答案错\uff0c是30", "30是错的", "和绝非30", "和无法等于30",
            "误以为和是30",
            "La somme n'est pas 30.", "Il est impossible que la somme est 30.",
            "Die Summe ist nicht 30.",
            "Es ist unmöglich, dass die Summe 30 ist.",
            "Es ist falsch, dass die Summe 30 ist.", "Keine Summe ist 30.",
            "Es ist unmöglich: die Summe ist 30", "Falsch ist 30",
            "La suma no es 30.", "Es imposible que la suma es 30.",
            "Es falso que la suma es 30.", "La respuesta nunca es 30.",
            "La somme n'est jamais 30.", "Es imposible: la suma es 30",
            "Impossible: 30", "Wrong answer: 30", "Incorrect: 30",
            "Falsch: 30", "It isn't so that the sum is 30.",
        ],
    ),
    "maximum 5, minimum -3": (
        [
            "maximum 5, minimum -3", "minimum -3, maximum 5",
            "maximum: 5, minimum: -3",
            "The maximum is 5 and the minimum is -3.", "max = 5, min = -3",
            "maximum $5$, minimum $-3$", "max 5; min -3",
            "Maximum: 5\nMinimum: -3", "minimum value -3 and maximum value 5",
            "最大值 5\uff0c最小值 -3", "最大值为5\uff0c最小值为-3",
        ],
        [
            "maximum 5, minimum 3", "maximum -3, minimum 5", "maximum 5",
            "minimum -3", "maximum 5, minimum -3, mean 1",
            "maximum 5, maximum -3", "max 5, min 3",
            "The maximum is 5 and the minimum is 3.",
            "maximum 5 or minimum -3", "maximum 5, minimum not -3",
            "最大值 5\uff0c最小值 3", "maximum 5, minimum -30",
            "maximum 5, minimum --3", "maximum 3, minimum -5",
            "maximum 5, average -3",
        ],
    ),
    "(a) 3 (b) 5": (
        [
            "(b) 5 (a) 3", "(a) 3 (b) 5", "a) 3, b) 5", "(b) 5, (a) 3",
            "(b) $5$ (a) $3$", "(a) 3; (b) 5", "**(b)** 5 **(a)** 3",
        ],
        [
            "(b) 3 (a) 5", "(a) 5 (b) 3", "(b) 5", "(b) 5 (b) 3",
            "(b) 5 (a) 3 (c) 1", "(a) 3 (c) 5", "(b) 5 (a) -3", "(1) 5 (2) 3",
        ],
    ),
    "first: 12, second: 7": (
        [
            "first: 12, second: 7", "second: 7, first: 12",
            "first 12, second 7", "The first is 12 and the second is 7.",
            "First = 12, Second = 7", "second is 7; first is 12",
        ],
        [
            "first: 7, second: 12", "first: 12, second: -7", "first: 12",
            "second: 12, first: 7", "first: 12, third: 7",
            "first 12 or second 7",
        ],
    ),
    "Alice: 12, Bob: 7": (
        [
            "Bob: 7, Alice: 12", "Alice 12, Bob 7",
            "Alice has 12 and Bob has 7.", "Alice = 12; Bob = 7",
            "Alice: 12\nBob: 7", "Alice: $12$, Bob: $7$",
        ],
        [
            "Alice: 7, Bob: 12", "Bob: 12, Alice: 7", "Alice: 12, Carol: 7",
            "Alice: 12", "Alice: 12, Bob: -7", "Alice: 12, Bob: 7, Carol: 3",
        ],
    ),
    "x = 2, y = -3": (
        [
            "y = -3, x = 2", "x = 2 and y = -3", "x is 2 and y is -3",
            "(2, -3)", "x: 2, y: -3",
        ],
        [
            "x = 2, y = 3", "x = -3, y = 2", "y = 2, x = -3",
            "x is 2 and y is 3", "x = 2", "x: -3, y: 2", "x = 2, z = -3",
        ],
    ),
    "5, -1": (
        [
            "The maximum is 5 and the minimum is -1.", "maximum 5, minimum -1",
            "最大值 $5$\uff0c最小值 $-1$", "max: 5, min: -1",
            "minimum -1, maximum 5",
            "The larger root is 5 and the smaller root is -1.",
        ],
        [
            "The maximum is 5 and the minimum is 1.", "maximum 5, maximum 5",
            "The maximum is 5 or the minimum is -1.",
            "maximum 5, minimum -1, mean 2", "The maximum is 5.",
            "The maximum is not 5 and the minimum is -1.",
            "最大值 $5$\uff0c最小值 $1$", "最大值不是 $5$\uff0c最小值 $-1$",
            "The maximum is about 5 and the minimum is -1.",
        ],
    ),
    "\\begin{pmatrix} \\frac12 & 1 \\\\ \\frac32 & 2 \\end{pmatrix}": (
        [
            "\\frac12\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}",
            "\\frac{1}{2}\\begin{bmatrix} 1 & 2 \\\\ 3 & 4 \\end{bmatrix}",
            "0.5\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}",
            "-\\frac12\\begin{pmatrix}-1&-2\\\\-3&-4\\end{pmatrix}",
            "A = \\frac12\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}",
            "\\frac14 \\cdot \\begin{pmatrix}2&4\\\\6&8\\end{pmatrix}",
        ],
        [
            "\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}",
            "2\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}",
            "\\frac12\\begin{pmatrix}1&2\\\\3&5\\end{pmatrix}",
            "-\\frac12\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}",
            "\\frac12\\begin{pmatrix}1&3\\\\2&4\\end{pmatrix}",
            "\\frac12\\begin{vmatrix}1&2\\\\3&4\\end{vmatrix}",
            "\\frac12\\begin{pmatrix}1&2&3&4\\end{pmatrix}",
        ],
    ),
    "\\frac{1}{5}\\begin{pmatrix} 3 & -1 \\\\ -1 & 2 \\end{pmatrix}": (
        [
            "\\begin{pmatrix} \\frac35 & -\\frac15 \\\\ -\\frac15 & \\frac25 \\end{pmatrix}",
            "\\frac15\\begin{bmatrix}3&-1\\\\-1&2\\end{bmatrix}",
            "\\begin{pmatrix} 0.6 & -0.2 \\\\ -0.2 & 0.4 \\end{pmatrix}",
        ],
        [
            "\\begin{pmatrix} 3 & -1 \\\\ -1 & 2 \\end{pmatrix}", "\\frac15",
            "5\\begin{pmatrix} 3 & -1 \\\\ -1 & 2 \\end{pmatrix}",
            "\\frac15\\begin{pmatrix}3&1\\\\1&2\\end{pmatrix}",
        ],
    ),
    "\\begin{pmatrix} \\frac{1}{3} \\\\ \\frac{2}{3} \\end{pmatrix}": (
        [
            "\\frac13\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\frac13(1, 2)",
            "\\frac{1}{3}\\begin{bmatrix}1\\\\2\\end{bmatrix}",
            "\\frac13\\langle 1, 2\\rangle",
        ],
        [
            "\\frac13\\begin{pmatrix}2\\\\1\\end{pmatrix}",
            "3\\begin{pmatrix}1\\\\2\\end{pmatrix}",
        ],
    ),
    "\\left(\\frac{2}{3}, -\\frac{1}{3}, \\frac{2}{3}\\right)": (
        [
            "\\frac13(2,-1,2)", "\\frac{1}{3}\\langle 2, -1, 2 \\rangle",
            "\\frac13\\begin{pmatrix}2\\\\-1\\\\2\\end{pmatrix}",
            "\\frac{1}{3}(2, -1, 2)",
        ],
        [
            "\\frac13(2,1,2)", "3(2,-1,2)", "(2,-1,2)", "\\frac13\\{2,-1,2\\}",
            "f(2,-1,2)",
        ],
    ),
    "1000": (
        [
            "a thousand", "one thousand", "A thousand", "a thousand dollars",
            "1 thousand",
        ],
        [
            "a hundred", "thousand and one", "a thousand and one", "thousands",
            "two thousand", "a thousandth", "a million",
            "less than a thousand",
        ],
    ),
    "100": (
        [
            "a hundred", "one hundred", "a hundred apples",
        ],
        [
            "hundreds", "a hundredth", "a hundred and one", "a thousand",
            "two hundred", "a hundred or so",
        ],
    ),
    "12": (
        [
            "a dozen", "one dozen", "a dozen eggs",
        ],
        [
            "dozens", "a baker's dozen", "half a dozen", "two dozen",
            "a dozen or so", "a dozen dozen",
        ],
    ),
    "1000000": (
        [
            "one million", "a million", "1 million", "a million dollars",
        ],
        [
            "millions", "a millionth", "two million", "a billion",
            "a thousand", "a million and one",
        ],
    ),
    "18": (
        [
            "16 - 3 - 4 = 9, and 9 × $2 = $18", "16 - 3 - 4 = 9, 9 * 2 = 18",
            "$16 - 3 - 4 = 9$, so $9 \\times 2 = 18$",
            "16 - 7 = 9; 9 × 2 = 18", "16 - 7 = 9\n9 × 2 = 18",
            "3 + 4 = 7, 16 - 7 = 9, 9 x 2 = 18",
            "3 + 4 = 7, then 16 - 7 = 9, and then 9 \\times 2 = 18",
        ],
        [
            "16 - 3 - 4 = 8, 9 * 2 = 18", "16 - 3 - 4 = 9, 9 * 2 = 19",
            "9, 18", "9 and 18", "16 - 3 - 4 = 9, 18",
            "9 * 2 = 18, 16 - 3 - 4 = 9", "9 * 2 = 18, 18 / 2 = 9",
            "x = 9, y = 18", "16 - 7 = 9 or 9 * 2 = 18", "16 - 7 = 9, 9 * 2",
            "2 + 2 = 5, 9*2 = 18", "9 = 9, 18 = 18", "x = 9, 9 * 2 = 18",
        ],
    ),
    "72": (
        [
            "$\\frac{48}{2} = 24$, $48 + 24 = 72$", "48/2 = 24, 48 + 24 = 72",
            "48 / 2 = 24; 24 + 48 = 72", "48 ÷ 2 = 24, so 48 + 24 = 72",
            "$48 \\div 2 = 24$ and $48 + 24 = 72$", "48/2=24\n48+24=72 clips",
            "There are 72 clips sold altogether in April and May.",
            "Natalia sold 72 clips in March and April.",
            "From June to August there were 72 days.",
            "In September, Sam sold 72 clips.",
            "There were 72 visitors in July.",
        ],
        [
            "24, 72", "24 and 72", "48/2 = 23, 48 + 24 = 72",
            "48/2 = 24, 48 + 24 = 71", "48 + 24 = 72, 48/2 = 24",
            "48/2 = 24, 72", "48 + 24 = 72, 48 + 25 = 73",
            "48/2 = 24 or 48 + 24 = 72", "24 = 24, 72 = 72",
            "48/2 = 25, 47 + 25 = 72", "There may be 72 clips.",
            "In May there were 72 more clips than in April.",
            "There are not 72 clips sold in May.",
        ],
    ),
}  # fmt: skip
