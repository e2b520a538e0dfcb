"""Labelled reasoning texts for the language-consistency reward: bounds, not exact values."""

import pytest

from r1pipe.rewards.language import language_consistency

PURE = [
    # English
    ("en", "Let me add the digits first: 24 + 119 = 143, so the carry is 1 and the sum is 143."),
    ("en", "We need x^2 + 3x = 5. By the quadratic formula, $x = \\frac{-3 \\pm \\sqrt{29}}{2}$."),
    ("en", "Wait, that is wrong. I forgot to carry the one."),
    (
        "en",
        "Suppose p is prime and p > 3. Then p is odd, hence p^2 - 1 is divisible by 8 and by 3.",
    ),
    ("en", "Train with GRPO in Python: the loss goes down after 200 steps, as we would expect."),
    ("en", "Okay, so AB + BC + CA = 24 and the triangle is isosceles. What is the height?"),
    (
        "en",
        "## Step 1\n- Find the slope.\n- Plug in the point (2, 3).\n## Step 2\n- Check the answer.",
    ),
    ("en", "Half of the apples are red."),
    ("en", "BY INDUCTION THE CLAIM HOLDS FOR ALL n AND THE PROOF IS COMPLETE."),
    (
        "en",
        "The function f(x) = sin x + cos x has its maximum at x = \\pi/4, where f(x) = sqrt(2).",
    ),
    # Chinese
    ("zh", "首先，我们把两个数相加：24 + 119 = 143，所以个位进一，最后的和是143。"),
    ("zh", "设三角形的三边为 AB、BC、CA，则 AB + BC + CA = 24，因此周长是24。"),
    ("zh", "等一下，这里好像算错了，我再检查一遍。"),
    ("zh", "由题意可知 $x^2 + 3x = 5$，利用求根公式得到 $x = \\frac{-3 \\pm \\sqrt{29}}{2}$。"),
    ("zh", "我們先計算這個數列的公差，然後代入通項公式，得到第十項的值。"),
    (
        "zh",
        "我们用 Python 写一个循环来验证这个结论，结果和前面用 GRPO 训练得到的答案一致，没有问题。",
    ),
    ("zh", "所以答案是七。"),
    ("zh", "| 步骤 | 结果 |\n| --- | --- |\n| 求导 | 2x |\n| 令导数为零 | x = 0 |\n"),
    ("zh", "1. 先求公因数\n2. 再约分\n3. 最后检验结果"),
    # Japanese
    ("ja", "まず、二つの数を足します。24 + 119 = 143 なので、答えは143です。"),
    ("ja", "三角形 ABC の面積は底辺×高さ÷2で求められるから、12×5÷2=30となる。"),
    (
        "ja",
        "方程式 $x^2 + 3x = 5$ を解くと、解の公式より $x = \\frac{-3 \\pm \\sqrt{29}}{2}$ を得る。",
    ),
    ("ja", "ちょっと待って、繰り上がりを忘れていました。もう一度計算し直します。"),
    ("ja", "与えられた条件から、等差数列の公差は3、初項は2であることが分かる。よって第10項は29。"),
    ("ja", "グラフの傾きが正なので、関数は単調増加である。"),
    ("ja", "確率は1/6です。"),
    ("ja", "証明完了。数学的帰納法により、任意の自然数 n について命題が成立する。"),
    # Korean
    ("ko", "먼저 두 수를 더하면 24 + 119 = 143이므로 답은 143입니다."),
    ("ko", "삼각형 ABC의 넓이는 밑변과 높이를 곱한 값의 절반이다. 따라서 30이 된다."),
    ("ko", "잠깐, 여기서 계산을 틀렸다. 다시 확인해 보자."),
    (
        "ko",
        "이차방정식 $x^2 + 3x = 5$를 근의 공식으로 풀면 $x = \\frac{-3 \\pm \\sqrt{29}}{2}$이다.",
    ),
    (
        "ko",
        "Python으로 반복문을 작성해서 결과를 확인하면 앞에서 구한 값과 정확히 일치한다는 "
        "것을 알 수 있다.",
    ),
    ("ko", "함수(函數) f(x)가 연속(連續)이므로 중간값 정리를 사용할 수 있다."),
    ("ko", "그래프의 기울기가 양수이다."),
    # French
    ("fr", "D'abord, on additionne les deux nombres : 24 + 119 = 143, donc la somme vaut 143."),
    (
        "fr",
        "Soit ABC un triangle rectangle en A. D'après le théorème de Pythagore, BC^2 = "
        "AB^2 + AC^2.",
    ),
    ("fr", "Attends, je me suis trompé : il faut reporter la retenue."),
    ("fr", "Le discriminant vaut $\\Delta = 29$, l'équation admet donc deux solutions réelles."),
    (
        "fr",
        "On suppose que n est pair, alors n = 2k pour un certain entier k, et n^2 est "
        "divisible par 4.",
    ),
    ("fr", "La moitie des eleves a repondu a la question, ce qui fait douze eleves en tout."),
    ("fr", "La réponse est donc sept."),
    # German
    ("de", "Zuerst addieren wir die beiden Zahlen: 24 + 119 = 143, also ist die Summe 143."),
    (
        "de",
        "Sei ABC ein rechtwinkliges Dreieck. Nach dem Satz des Pythagoras gilt c^2 = a^2 + b^2.",
    ),
    ("de", "Moment, da habe ich den Übertrag vergessen."),
    (
        "de",
        "Die Nullstellenberechnung der Polynomfunktion liefert mit der "
        "Mitternachtsformel zwei Lösungen.",
    ),
    (
        "de",
        "Wahrscheinlichkeitsrechnung: Die Gegenwahrscheinlichkeit beträgt 5/6, daher ist "
        "P(A) = 1/6.",
    ),
    ("de", "Angenommen, n ist gerade. Dann ist n = 2k, und n^2 = 4k^2 ist durch 4 teilbar."),
    ("de", "Die Antwort ist also sieben."),
    # Spanish
    ("es", "Primero sumamos los dos números: 24 + 119 = 143, así que la suma es 143."),
    (
        "es",
        "Sea ABC un triángulo rectángulo. Por el teorema de Pitágoras, el cuadrado de la "
        "hipotenusa es 25.",
    ),
    ("es", "Espera, me olvidé de llevar la unidad."),
    (
        "es",
        "Si despejamos x de la ecuación $2x + 3 = 11$, obtenemos x = 4, que cumple la condición.",
    ),
    ("es", "Un tren recorre 180 km en 3 horas, entonces su velocidad media es de 60 km/h."),
    ("es", "La respuesta es siete."),
    # Russian
    ("ru", "Сначала сложим два числа: 24 + 119 = 143, значит, сумма равна 143."),
    (
        "ru",
        "Пусть ABC — прямоугольный треугольник. По теореме Пифагора квадрат гипотенузы равен 25.",
    ),
    ("ru", "Подождите, я забыл перенести единицу в следующий разряд."),
    ("ru", "Из уравнения $x^2 + 3x = 5$ находим дискриминант $D = 29$, поэтому корней два."),
    ("ru", "Ответ: семь яблок."),
    (
        "ru",
        "Напишем на Python цикл, который проверяет все остатки по модулю 7, и убедимся, "
        "что их три.",
    ),
    # Arabic
    ("ar", "أولاً نجمع العددين: 24 + 119 = 143، إذن المجموع يساوي 143."),
    ("ar", "ليكن ABC مثلثًا قائم الزاوية. حسب نظرية فيثاغورس فإن مربع الوتر يساوي 25."),
    ("ar", "لحظة، لقد نسيت حمل الواحد إلى الخانة التالية."),
    ("ar", "بحل المعادلة $2x + 3 = 11$ نحصل على x = 4 وهو الجواب المطلوب."),
    ("ar", "الجواب هو سبعة."),
    # Hindi
    ("hi", "सबसे पहले हम दोनों संख्याओं को जोड़ते हैं: 24 + 119 = 143, इसलिए योग 143 है।"),
    ("hi", "मान लीजिए ABC एक समकोण त्रिभुज है। पाइथागोरस प्रमेय से कर्ण का वर्ग 25 होगा।"),
    ("hi", "रुकिए, मैं हासिल जोड़ना भूल गया।"),
    ("hi", "समीकरण $2x + 3 = 11$ को हल करने पर हमें x = 4 मिलता है।"),
    ("hi", "अतः उत्तर सात है।"),
    # Vietnamese
    ("vi", "Trước tiên, ta cộng hai số: 24 + 119 = 143, vậy tổng bằng 143."),
    (
        "vi",
        "Cho tam giác ABC vuông tại A. Theo định lý Pythagoras, bình phương cạnh huyền bằng 25.",
    ),
    ("vi", "Khoan đã, tôi quên nhớ một sang hàng chục."),
    ("vi", "Giải phương trình $2x + 3 = 11$ ta được x = 4, thỏa mãn điều kiện đề bài."),
    ("vi", "Đáp án là bảy."),
    # Thai
    ("th", "ขั้นแรกเราบวกเลขสองจำนวน 24 + 119 = 143 ดังนั้นผลรวมคือ 143"),
    ("th", "ให้ ABC เป็นสามเหลี่ยมมุมฉาก จากทฤษฎีบทพีทาโกรัส กำลังสองของด้านตรงข้ามมุมฉากเท่ากับ 25"),
    ("th", "เดี๋ยวก่อน ฉันลืมทดเลข"),
    ("th", "แก้สมการ $2x + 3 = 11$ จะได้ x = 4 ซึ่งเป็นคำตอบที่ถูกต้อง"),
    # Italian, Portuguese, Dutch and the look-alikes
    ("it", "Per prima cosa sommiamo i due numeri: 24 + 119 = 143, quindi la somma è 143."),
    ("it", "Sia ABC un triangolo rettangolo; per il teorema di Pitagora l'ipotenusa misura 5."),
    ("pt", "Primeiro somamos os dois números: 24 + 119 = 143, portanto a soma é 143."),
    ("pt", "Um trem percorre 180 km em 3 horas, então a sua velocidade média é de 60 km/h."),
    ("nl", "Eerst tellen we de twee getallen op: 24 + 119 = 143, dus de som is 143."),
    ("nl", "Stel dat n even is, dan is n = 2k en het kwadraat deelbaar door 4."),
    ("uk", "Спочатку додамо два числа: 24 + 119 = 143, отже, сума дорівнює 143."),
    ("bg", "Първо събираме двете числа: 24 + 119 = 143, следователно сумата е 143."),
    ("fa", "ابتدا دو عدد را با هم جمع می‌کنیم: 24 + 119 = 143، پس مجموع برابر 143 است."),
    ("ur", "سب سے پہلے ہم دونوں اعداد کو جمع کرتے ہیں، اس لیے مجموعہ 143 ہے۔"),
    ("mr", "प्रथम आपण दोन्ही संख्यांची बेरीज करू: 24 + 119 = 143, म्हणून बेरीज 143 आहे."),
    ("ne", "पहिले हामी दुई सङ्ख्या जोड्छौं, त्यसैले योगफल 143 हुन्छ।"),
]
TARGETS = ("en", "zh", "ja", "ko", "fr", "de", "es", "ru", "ar", "hi", "vi", "th", "it", "pt", "nl")

CODE = "```python\ndef add(a, b):\n    # keep the carry\n    return a + b\nprint(add(24, 119))\n```"
LATEX = "$$\\begin{aligned} a &= b + c \\\\ &= \\frac{d}{e} \\end{aligned}$$ " * 20

BETWEEN = [
    # Half and half, by sentence.
    (
        "en",
        "First we add the two numbers and carry the one. "
        "然后我们检查一下个位和十位上的数字对不对。",
        0.35,
        0.65,
    ),
    (
        "zh",
        "First we add the two numbers and carry the one. "
        "然后我们检查一下个位和十位上的数字对不对。",
        0.35,
        0.65,
    ),
    (
        "fr",
        "On additionne d'abord les deux nombres entiers. Then we check whether the result is even.",
        0.35,
        0.65,
    ),
    (
        "en",
        "On additionne d'abord les deux nombres entiers. Then we check whether the result is even.",
        0.35,
        0.65,
    ),
    (
        "de",
        "Zuerst addieren wir die beiden Zahlen, dann then we divide the whole sum by three again.",
        0.3,
        0.65,
    ),
    ("es", "Primero sumamos los dos números dados. Then we multiply the sum by three.", 0.35, 0.65),
    (
        "vi",
        "Đầu tiên ta cộng hai số này lại với nhau. Then we take half of the result again.",
        0.35,
        0.65,
    ),
    ("ru", "Сначала сложим эти два числа вместе. Then we divide by three.", 0.35, 0.65),
    ("ko", "먼저 두 수를 더하고 그 결과를 확인한다. Then we divide the sum by three.", 0.35, 0.65),
    ("ja", "まず二つの数を足してから確認します。 Then we divide the sum by three.", 0.35, 0.65),
    (
        "ja",
        "まず二つの数を足してから確認します。然后我们把这个结果除以三，再检查一遍。",
        0.35,
        0.65,
    ),
    (
        "zh",
        "まず二つの数を足してから確認します。然后我们把这个结果除以三，再检查一遍。",
        0.35,
        0.65,
    ),
    ("th", "ขั้นแรกเราบวกเลขสองจำนวนเข้าด้วยกัน Then we divide the sum by three.", 0.35, 0.65),
    ("ar", "أولاً نجمع هذين العددين معا ثم نتحقق. Then we divide the sum by three.", 0.35, 0.65),
    ("hi", "पहले हम इन दोनों संख्याओं को जोड़ते हैं। Then we divide the whole sum by three.", 0.35, 0.65),
    ("ru", "Сначала сложим эти два числа вместе. Потім поділимо отриману суму на три.", 0.35, 0.65),
    (
        "es",
        "Primero sumamos los dos números dados. Depois verificamos se o resultado está certo.",
        0.3,
        0.7,
    ),
    # Switching by word.
    ("zh", "我们 therefore 得到 the answer 是 seven 因为 both sides 相等", 0.3, 0.7),
    (
        "de",
        "Wir müssen the sum berechnen and then das Ergebnis with three multiplizieren.",
        0.3,
        0.75,
    ),
    ("ko", "먼저 we add the numbers 그리고 then divide 한다", 0.2, 0.6),
    ("hi", "हम पहले sum calculate करते हैं फिर three से divide करते हैं", 0.5, 0.8),
    # Prose behind code or mathematics is still prose.
    (
        "en",
        "So the answer is seven. ```\n首先我们把两个数字相加，然后再检查一遍结果\n```",
        0.1,
        0.6,
    ),
    (
        "zh",
        "所以答案是七。```\nfirst we add the two numbers and then we check the result again\n```",
        0.05,
        0.45,
    ),
    ("en", "We get $\\text{首先我们把两个数字相加然后检查}$ so it is seven.", 0.2, 0.65),
    ("zh", "得到 `first we add the two numbers and then check` 七。", 0.0, 0.45),
]

HIGH = [
    ("en", f"The function adds two numbers.\n{CODE}\nIt prints the sum, so we are done."),
    ("zh", f"这个函数把两个数相加。\n{CODE}\n它输出两数之和，所以我们完成了。"),
    ("zh", f"化简可得 {LATEX} 所以结论成立。"),
    ("ru", f"Упростим выражение: {LATEX} что и требовалось доказать."),
    ("zh", "在 $\\triangle ABC$ 中，由余弦定理 c^2 = a^2 + b^2 - 2ab cos C，解得 c = 7 cm。"),
    ("fr", "Voir https://en.wikipedia.org/wiki/Law_of_cosines pour la démonstration complète."),
    ("zh", "根据 Cauchy 不等式，左边不小于右边，当且仅当两个向量共线时取等号。"),
    ("ru", "По неравенству Cauchy левая часть не меньше правой, что и нужно было доказать."),
    ("en", "The ans\u200bwer is se\u200bven, and we ha\u200bve checked it."),
    ("en", "Ｗｅ　ａｄｄ　ｔｈｅ　ｔｗｏ　ｎｕｍｂｅｒｓ."),
    ("en", "We add the numbers 🎉🎉 and get seven 😀."),
    ("es", "Primero sumamos 🎉 los dos números y obtenemos siete 😀."),
    (
        "en",
        "We solve: \\frac{a}{b} = \\sqrt{c}, sin x = 0, log n, gcd(a, b) = 1, so it is 25 km/h.",
    ),
    ("en", "seven"),
    ("fa", "مجموع دو عدد را حساب می\u200cکنیم و سپس جواب را بررسی می\u200cکنیم."),
    ("vi", "Truoc tien ta cong hai so nay lai voi nhau, sau do ta chia ket qua cho ba."),
]

LOW = [
    ("en", ""),
    ("en", "24 + 119 = 143, x^2 = 5, \\frac{1}{2}, AB + BC = CA"),
    ("en", CODE),
    ("zh", "wo men xian ba liang ge shu jia qi lai, ran hou zai jian cha yi bian jie guo"),
    ("en", "wo men xian ba liang ge shu jia qi lai, ran hou zai jian cha yi bian jie guo"),
    ("vi", "wo men xian ba liang ge shu jia qi lai, ran hou zai jian cha yi bian jie guo"),
    ("en", "wǒmen xiān bǎ liǎng gè shù jiā qǐlái, ránhòu zài jiǎnchá yí biàn jiéguǒ"),
    ("ru", "Snachala slozhim dva chisla, potom razdelim summu na tri i proverim otvet."),
    ("en", "Snachala slozhim dva chisla, potom razdelim summu na tri i proverim otvet."),
    ("ar", "el awel ha negma3 el ra2ameen w ba3den ne2sem 3ala talata 3ashan negeeb el natega"),
    ("en", "el awel ha negma3 el ra2ameen w ba3den ne2sem 3ala talata 3ashan negeeb el natega"),
    ("hi", "sabse pehle hum dono sankhyaon ko jodte hain, phir teen se bhaag dete hain"),
    ("ru", "Тhe аnswеr is sеvеn bесаusе wе аddеd thе twо numbеrs аnd divіdеd by thrее."),
    (
        "en",
        "der the die of das and Wir to berechnen in zuerst is die that Summe for beider the Zahlen",
    ),
    ("en", "the the the the the the the the 首先我们把两个数字相加然后再检查一遍结果"),
    ("zh", "Ｗｅ　ａｄｄ　ｔｈｅ　ｔｗｏ　ｎｕｍｂｅｒｓ."),
    ("en", "Προσθέτουμε πρώτα τους δύο αριθμούς και μετά διαιρούμε."),
    ("en", "Először összeadjuk a két számot, majd elosztjuk hárommal."),
    ("en", "the " * 400),
    ("zh", "的" * 400),
]


@pytest.mark.parametrize(("language", "text"), PURE)
def test_a_text_in_one_language_is_consistent(language: str, text: str) -> None:
    assert language_consistency(text, language) >= 0.9


@pytest.mark.parametrize(("language", "text"), PURE)
def test_a_text_in_another_language_is_not(language: str, text: str) -> None:
    wrong = {target: language_consistency(text, target) for target in TARGETS if target != language}
    assert {target: value for target, value in wrong.items() if value > 0.1} == {}


@pytest.mark.parametrize(("language", "text", "low", "high"), BETWEEN)
def test_a_mixed_text_gets_its_share(language: str, text: str, low: float, high: float) -> None:
    assert low <= language_consistency(text, language) <= high


@pytest.mark.parametrize(("language", "text"), HIGH)
def test_what_is_no_word_costs_nothing(language: str, text: str) -> None:
    assert language_consistency(text, language) >= 0.9


@pytest.mark.parametrize(("language", "text"), LOW)
def test_disguises_earn_little(language: str, text: str) -> None:
    assert language_consistency(text, language) <= 0.35 if "首先" in text else True
    if "首先" not in text and "berechnen" not in text:
        assert language_consistency(text, language) <= 0.1
    if "berechnen" in text:
        assert language_consistency(text, language) <= 0.35
