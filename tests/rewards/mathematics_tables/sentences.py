"""Sentences that state an answer, and sentences that only mention its number."""

# gold: right answers, wrong answers
TABLE: dict[str, tuple[list[str], list[str]]] = {
    "9": (
        [
            "Thus, Mia needs 9 boxes.", "So, they can make 9 bracelets.",
            "Peter ran 9 kilometers on Saturday.", "The smallest such integer is 9.",
            "The remainder is 9.", "The units digit is 9.", "gcd(18, 27) = 9", "\\gcd(18,27)=9",
            "The value of $x$ is $9$.", "The value of \\(x\\) is \\(9\\).", "3^2 = 9",
            "\\sqrt{81} = 9", "|x| = 9", "$n = \\boxed{9}$", "9 (the number of edges)", "9 edges",
            "There are $9$ such pairs.", "There are 9 possible values of n.", "x=9(cm)", "9cm",
            "9 厘米", "这个数是9。", "答案为 $9$", "综上，$a=9$", "Ответ: 9", "Answer:9",
            "⇒ x = 9", "∴ x = 9", "\\therefore x = 9", "Hence $x=9$.", "We conclude that x = 9.",
            "which gives x = 9", "Jane's brother is 9 years old.", "Each box contains 9 apples.",
            "It will take them 9 days to finish the job.",
            "Carl can buy 9 pencils with his money.", "The answer is 9 apples.",
            "She needed 9 cups of flour for the cakes.",
        ],
        [
            "9 or -9", "x = \\pm 9", "-9", "Mia needs 9 more boxes.",
            "Mia needs at most 9 boxes.", "So, they can make 9 or 10 bracelets.",
            "The smallest such integer exceeds 9.", "x \\neq 9", "\\sqrt{81}", "3^2",
            "3^2 = 6 = 9", "3 \\cdot 3", "The remainder is not 9.", "between 8 and 9", "x<9",
            "x \\le 9", "9 is not the answer", "9 isn't right", "9i", "9x", "x^9", "9, 10",
            "九或十", "不等于9", "9倍", "9人以上", "Answer: 9 or 10", "Option 9 of 12",
            "the ninth", "9th", "(9, 9)", "9^\\circ C or F", "9 to 10", "almost 9",
            "9 is a divisor of the answer", "The answer is less than 9.",
            "The answer is a multiple of 9.", "the answer is 9 less than 20",
            "the answer is 9 times 2", "20 - 11", "The answer is twice 9.",
            "The answer is the square of 9.", "I don't know, maybe 9?", "9???",
            "It used to be 9.", "Nine lives, one answer: 8", "They can't make 9 bracelets.",
            "He won't need 9 boxes.", "Unfortunately, none of the 9 works.", "9 might work.",
            "The sum of 9 and x", "the cube root of 9", "the first 9 primes", "9 plus something",
        ],
    ),
    "\\frac{3\\sqrt{2}}{4}": (
        [
            "\\frac{3}{4}\\sqrt{2}", "\\frac{3}{2\\sqrt{2}}", "3√2/4",
            "d = \\frac{|3|}{2\\sqrt{2}} = \\frac{3\\sqrt{2}}{4}",
            "The distance is $\\frac{3\\sqrt{2}}{4}$ units.",
            "\\frac{3\\sqrt{2}}{4} \\text{ (rationalized)}", "\\frac{3\\sqrt{2}}{4}\\,\\text{cm}",
            "0.75\\sqrt{2}",
        ],
        [
            "\\frac{3\\sqrt{2}}{2}", "1.06", "\\frac{3\\sqrt{4}}{2}",
            "\\frac{3\\sqrt{2}}{4} \\text{ or } \\frac{\\sqrt2}{4}", "\\approx 1.06",
            "-\\frac{3\\sqrt2}{4}",
        ],
    ),
    "(x+1)(x^2-x+1)": (
        [
            "x^3+1", "(x^2-x+1)(x+1)", "x^3 + 1 = (x+1)(x^2 - x + 1)", "(1+x)(1-x+x^2)",
        ],
        [
            "(x+1)(x^2+x+1)", "(x+1)^3", "x^3-1", "(x+1)(x^2-x+1)=0",
        ],
    ),
    "[0, 2\\pi)": (
        [
            "0 \\le x < 2\\pi", "0 ≤ θ < 2π", "\\theta \\in [0, 2\\pi)", "[0, 2π)",
            "2\\pi > x \\ge 0",
        ],
        [
            "(0, 2\\pi)", "[0, 2\\pi]", "[0, \\pi)", "0 < x \\le 2\\pi", "{0, 2π}",
        ],
    ),
    "a_n = 3 \\cdot 2^{n-1}": (
        [
            "3 \\cdot 2^{n-1}", "a_n = \\frac{3}{2} \\cdot 2^n", "a_{n} = 3 \\times 2^{n-1}",
            "a_n=3\\cdot2^{n-1}, n \\in \\mathbb{N}^*", "a_n = 3·2^(n-1)",
        ],
        [
            "a_n = 3 \\cdot 2^n", "a_n = 6^{n-1}", "3 \\cdot 2^{n-1} + 1",
            "S_n = 3 \\cdot 2^{n}-3", "a_n = 2 \\cdot 3^{n-1}",
        ],
    ),
    "y = C e^{2x}": (
        [
            "y = Ce^{2x}", "C e^{2x}", "y(x) = Ce^{2x}",
        ],
        [
            "y = e^{2x} + C", "y = Ce^{x}", "y = e^{2x}", "y = Ce^{-2x}",
        ],
    ),
    "\\text{increasing}": (
        [
            "increasing", "The function is increasing.", "an increasing function",
        ],
        [
            "decreasing", "not increasing", "strictly decreasing function",
            "increasing or decreasing",
        ],
    ),
    "(A) and (D)": (
        [
            "A, D", "A and D", "AD", "(A), (D)", "D and A",
        ],
        [
            "A", "A or D", "A, B, D", "B and D",
        ],
    ),
    "-1 \\pm 2i": (
        [
            "-1+2i, -1-2i", "x = -1 \\pm 2i", "-1 + 2i and -1 - 2i", "x=-1±2i",
            "\\{-1+2i,-1-2i\\}",
        ],
        [
            "-1+2i", "1 \\pm 2i", "-1 \\pm i", "\\pm 2i - 2", "-1 \\pm 2",
        ],
    ),
    "7 \\text{ hours } 30 \\text{ minutes}": (
        [
            "7 h 30 min", "7.5 hours", "450 minutes", "7 hours and 30 minutes",
            "7 hours 30 minutes",
        ],
        [
            "7.3 hours", "7 hours", "30 minutes", "7:30 AM or PM", "8 hours",
        ],
    ),
    "\\log_{10} 2 + 1": (
        [
            "1 + \\log 2", "1+\\lg 2", "\\log_{10} 20", "\\log 2 + 1",
        ],
        [
            "1.301", "\\ln 2 + 1", "\\log_{10} 3",
        ],
    ),
    "March 5": (
        [
            "March 5th", "5 March", "Mar 5", "It is March 5.", "on March 5",
        ],
        [
            "May 3", "March 6", "3/5 or 5/3", "April 5",
        ],
    ),
    "20\\%": (
        [
            "20%", "20 percent", "0.2", "The discount is 20%.", "1/5", "It decreased by 20%.",
            "a 20% increase", "20\\% \\text{ decrease}", "He saves 20% of his salary.",
        ],
        [
            "20", "0.02", "80%", "20% or 25%", "more than 20%", "2%", "20% of 50",
        ],
    ),
    "15": (
        [
            "Rosa has 15 dollars remaining.", "So 15 students passed.", "The trip took 15 days.",
            "Their combined age is 15.", "In the end, Kim had 15 toys.", "The answer: 15 km/h",
            "Bob's share is $15.", "The diameter is 15 inches.", "They can seat 15 guests.",
            "It weighs $15$ grams.", "$3 \\times 5 = 15$ apples", "Total: 3 * 5 = 15",
            "Therefore, $\\angle B = 15^\\circ$", "x = 15, as required.",
            "15, which completes the proof.", "The maximum value is 15", "the minimum is $15$",
            "最大值为15", "最小值是 15", "个数为15", "共有15种", "La valeur de x est 15",
            "Der Wert ist 15", "15 Stück", "15 euros",
        ],
        [
            "Rosa has 15 dollars less.", "So 15 students passed, but 3 failed.",
            "The trip took over 15 days.", "At 15 he left home.", "He paid 15% tax.",
            "The maximum value is below 15", "Both have 15 or more.", "The 15 toys were not his.",
            "A 15-day trip", "Page 15 has the answer.", "See problem 15 for the answer.",
            "By equation (15), it holds.", "The answer is given in step 15",
            "15 toys were lost; 5 remain", "She has 15 times more.", "Her 15th birthday",
            "He earns $15 more than Tom.", "It increased 15-fold.", "15 minus something",
            "from 15 to 20", "the number 15 is not prime", "It is 15 below zero.",
            "15 is the sum of 7 and 9.", "What is 15?", "15 without units of 20",
            "Two of the 15 marbles are red.", "最大值不超过15", "至多15", "15的倍数", "15以下",
            "第15个", "15左右", "etwa 15", "environ 15", "moins de 15", "mehr als 15",
            "plus de 15", "unos 15", "weniger als 15", "nicht 15", "pas 15", "casi 15",
            "höchstens 15", "mindestens 15", "au moins 15", "al menos 15",
            "por lo menos 15 euros",
        ],
    ),
    "\\frac{2}{5}": (
        [
            "He spent $\\frac{2}{5}$ of his money.", "2/5 of them",
            "\\frac{4}{10} = \\frac{2}{5}", "\\frac{2}{5} (or 40%)", "40\\%", "0.4",
            "P(\\text{red}) = \\frac{2}{5}", "the probability that it is red is 2/5",
        ],
        [
            "He spent more than 2/5 of his money.", "2/5 of 10",
            "He spent 2/5 of his money and saved 3/5.", "2.5", "\\frac{2}{5} or \\frac{3}{5}",
            "5/2", "not 2/5", "1 - 3/5", "2/5 (or 4%)",
        ],
    ),
    "x^2-1": (
        [
            "P(x) = x^2 - 1", "g(x) = (x-1)(x+1)", "q(x)=x^2-1",
        ],
        [
            "P(x) = x^2", "x(x) = x^2-1+1", "P(x)Q(x) = x^2 + 1", "P(1) = x^2", "n(x) > x^2-1",
        ],
    ),
    "3 \\times 4": (
        [
            "3 \\times 4", "12",
        ],
        [
            "13", "3 + 4", "34",
        ],
    ),
    "\\frac{\\pi}{6} + 2k\\pi \\text{ or } \\frac{5\\pi}{6} + 2k\\pi": (
        [
            "x = \\frac{\\pi}{6} + 2k\\pi \\text{ or } \\frac{5\\pi}{6} + 2k\\pi, k\\in\\mathbb{Z}",
            "\\frac{5\\pi}{6} + 2n\\pi, \\frac{\\pi}{6} + 2n\\pi",
            "x = (-1)^n \\frac{\\pi}{6} + n\\pi, n \\in \\mathbb{Z}",
        ],
        [
            "\\frac{\\pi}{6} + 2k\\pi", "\\pm\\frac{\\pi}{6} + 2k\\pi, k\\in\\mathbb{Z}",
            "\\frac{\\pi}{6}, \\frac{5\\pi}{6}",
            "\\frac{\\pi}{6} + k\\pi, \\frac{5\\pi}{6}+k\\pi, k\\in\\mathbb{Z}",
        ],
    ),
    "\\frac{1}{3}\\ln|3x+1| + C": (
        [
            "\\frac{\\ln|3x+1|}{3} + C", "\\frac13 \\ln |3x+1| + c", "\\frac{1}{3}\\ln|6x+2| + C",
        ],
        [
            "\\ln|3x+1| + C", "\\frac13\\ln|3x-1| + C", "3\\ln|3x+1|+C", "\\frac{1}{3}\\ln|3x+1|",
        ],
    ),
    "-\\cos x + \\sin x + C": (
        [
            "\\sin x - \\cos x + C", "C + \\sin x - \\cos x",
        ],
        [
            "\\cos x + \\sin x + C", "-\\cos x - \\sin x + C", "\\sin x - \\cos x",
        ],
    ),
    "(i) 4 (ii) -1": (
        [
            "(i) 4, (ii) -1", "(a) 4 (b) -1", "(i) 4\n(ii) -1", "4; -1", "(i) x=4 (ii) -1",
        ],
        [
            "(i) -1 (ii) 4", "4", "-1; 4", "(i) 4", "(i) 4 (ii) 1",
        ],
    ),
    "0<a<1": (
        [
            "a \\in (0,1)", "1 > a > 0", "(0,1)", "0 < a and a < 1",
        ],
        [
            "0 \\le a < 1", "a<1", "0<b<1", "0 < a or a < 1", "1<a<0",
        ],
    ),
    "odd": (
        [
            "odd function", "an odd number", "It is odd.",
        ],
        [
            "even", "odd and even", "odd man out", "not odd",
        ],
    ),
    "18": (
        [
            "She pays $18 for it.", "They share 18 cookies.",
        ],
        [
            "Take 18 from both sides.", "Use 18 coins.", "He lives in apartment 18.",
            "She took bus 18 home.", "He got 18 wrong.", "He scored 18 points less.",
            "It costs 18 cents or dollars.", "She met 18 on the way to 20.",
            "Tom takes number 18.", "the answer key has 18", "The answer contains 18",
            "He gives Tom 18 more.", "It takes less time than 18 minutes.",
            "Add 18 to both sides.", "Divide by 18.", "Multiply both sides by 18.",
            "We use formula 18.", "Take x to be 18 at the start", "Theorem 18 gives the result.",
            "Use lemma 18", "This uses 18 as the modulus.",
            "The correct option is the one that says 18?", "She sold 18 and kept the rest.",
            "gives 18 modulo 20", "It leaves 18 unsolved.", "18 = 2 * 8",
            "S = \\sum k = 17 \\text{ or } 18", "x = \\dots = 17, 18", "f(18) = 3", "p(18) = 0",
            "18(x)", "a(18) = 18x",
        ],
    ),
    "5": (
        [
            "5 (5.0)",
        ],
        [
            "5 (6)", "2 or 5", "5 (five or six)", "5 m or 5 s", "x = 5 or x = 5, 6",
        ],
    ),
    "\\{x \\mid x > 2\\}": (
        [
            "x>2",
        ],
        [
            "x \\ge 2", "x > 2, k \\in \\mathbb{Z}",
        ],
    ),
    "x^2": (
        [
            "x^2",
        ],
        [
            "x^2 + C", "x^2, x \\ne 0 \\text{ or } x = 3", "x^2 + 1",
        ],
    ),
}  # fmt: skip
