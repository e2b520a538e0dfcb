"""Look-alike languages, short thoughts, and notation: labelled by bounds."""

import pytest

from r1pipe.rewards.language import language_consistency

NEIGHBOURS = [
    (
        "vi",
        "De giai bai toan nay, truoc het ta goi so tao la x, sau do lap phuong trinh va giai ra.",
        0.85,
        1,
    ),
    (
        "vi",
        "Tong cua hai so bang 20, hieu cua chung bang 4. Vay so lon la 12, so be la 8.",
        0.85,
        1,
    ),
    (
        "fr",
        "Premierement, calculons la derivee de la fonction puis etudions son signe sur "
        "l'intervalle.",
        0.9,
        1,
    ),
    ("de", "Zunaechst loesen wir die Gleichung und pruefen anschliessend das Ergebnis.", 0.9, 1),
    (
        "pt",
        "Primeiro calculamos a area do triangulo e depois multiplicamos por tres, portanto a "
        "resposta e doze.",
        0.9,
        1,
    ),
    (
        "es",
        "Primero calculamos el area del triangulo y despues multiplicamos por tres; la "
        "ecuacion tiene solucion unica.",
        0.9,
        1,
    ),
    (
        "pt",
        "Suponha que cada caixa tem doze ovos; então cinco caixas têm sessenta ovos no total.",
        0.9,
        1,
    ),
    (
        "es",
        "Suponha que cada caixa tem doze ovos; então cinco caixas têm sessenta ovos no total.",
        0,
        0.1,
    ),
    (
        "es",
        "Supongamos que cada caja tiene doce huevos; entonces cinco cajas tienen sesenta "
        "huevos en total.",
        0.9,
        1,
    ),
    (
        "pt",
        "Supongamos que cada caja tiene doce huevos; entonces cinco cajas tienen sesenta "
        "huevos en total.",
        0,
        0.1,
    ),
    (
        "it",
        "Supponiamo che ogni scatola contenga dodici uova; allora cinque scatole contengono "
        "sessanta uova.",
        0.9,
        1,
    ),
    (
        "es",
        "Supponiamo che ogni scatola contenga dodici uova; allora cinque scatole contengono "
        "sessanta uova.",
        0,
        0.1,
    ),
    ("hi", "एका पेटीत बारा अंडी आहेत, तर पाच पेट्यांमध्ये एकूण साठ अंडी असतील.", 0, 0.1),
    ("mr", "एका पेटीत बारा अंडी आहेत, तर पाच पेट्यांमध्ये एकूण साठ अंडी असतील.", 0.9, 1),
    ("mr", "एक डिब्बे में बारह अंडे हैं, तो पाँच डिब्बों में कुल साठ अंडे होंगे।", 0, 0.1),
    ("hi", "एक डिब्बे में बारह अंडे हैं, तो पाँच डिब्बों में कुल साठ अंडे होंगे।", 0.9, 1),
    ("hi", "क्षेत्रफल ज्ञात करने हेतु लम्बाई एवं चौड़ाई का गुणनफल निकालें", 0.9, 1),
    ("hi", "मान लो राधा प्रतिदिन तीन किताबें पढ़ती है", 0.9, 1),
    ("ru", "У каждой коробки двенадцать яиц, значит пять коробок содержат шестьдесят яиц.", 0.9, 1),
    ("uk", "У каждой коробки двенадцать яиц, значит пять коробок содержат шестьдесят яиц.", 0, 0.1),
    ("ru", "У кожній коробці дванадцять яєць, отже п'ять коробок містять шістдесят яєць.", 0, 0.1),
    (
        "ru",
        "Във всяка кутия има дванадесет яйца, значи пет кутии съдържат шестдесет яйца.",
        0,
        0.15,
    ),
    ("ru", "У свакој кутији има дванаест јаја, дакле пет кутија садржи шездесет јаја.", 0, 0.15),
    ("ar", "در هر جعبه دوازده تخم مرغ هست، پس پنج جعبه شصت تخم مرغ دارد.", 0, 0.1),
    ("fa", "در هر جعبه دوازده تخم مرغ هست، پس پنج جعبه شصت تخم مرغ دارد.", 0.9, 1),
    ("ar", "ہر ڈبے میں بارہ انڈے ہیں، اس لیے پانچ ڈبوں میں ساٹھ انڈے ہوں گے۔", 0, 0.1),
    ("ar", "في كل صندوق اثنتا عشرة بيضة، فتحتوي خمسة صناديق على ستين بيضة.", 0.9, 1),
    ("fa", "في كل صندوق اثنتا عشرة بيضة، فتحتوي خمسة صناديق على ستين بيضة.", 0, 0.1),
    ("ar", "كل علبة فيها اتناشر بيضة يبقى الخمس علب فيهم ستين بيضة", 0.85, 1),
    ("ja", "前提条件確認後、各項目計算実施。結果、合計値一二〇円。以上より解答確定。", 0.85, 1),
    ("zh", "前提条件確認後、各項目計算実施。結果、合計値一二〇円。以上より解答確定。", 0, 0.15),
    ("ja", "箱一個当たり卵十二個、箱五個で合計六十個。", 0.85, 1),
    ("zh", "每箱十二个鸡蛋，五箱共六十个。", 0.95, 1),
    ("ja", "每箱十二个鸡蛋，五箱共六十个。", 0, 0.05),
    ("ja", "每箱十二個雞蛋，五箱共六十個，因此答案是六十。", 0, 0.1),
    ("zh", "每箱十二個雞蛋，五箱共六十個，因此答案是六十。", 0.95, 1),
    ("ja", "三角函数の加法定理より、正弦関数・余弦関数の値が求まる。故に最大値は二。", 0.95, 1),
    ("ja", "カタカナ ト ヒラガナ デ カク コタエ ハ ナナ", 0.9, 1),
    ("ja", "ﾊﾝｶｸ ｶﾅ ﾓ ﾆﾎﾝｺﾞ", 0.9, 1),
    ("zh", "勾股定理：直角三角形兩直角邊的平方和等於斜邊的平方", 0.95, 1),
    ("zh", "首先，設每個盒子裡有 12 隻雞蛋。然後乘以 5。", 0.95, 1),
    ("zh", "佢哋有五個蘋果，我哋要計總數。", 0.9, 1),
    ("ko", "각 상자에 달걀이 열두 개씩 있으므로 다섯 상자에는 예순 개가 있다.", 0.95, 1),
    ("ko", "리스트의 인덱스를 이터레이션하면서 카운트를 업데이트합니다.", 0.95, 1),
    ("ko", "定理 1. 任意의 整數 n에 대하여 다음이 成立한다.", 0.85, 1),
    ("zh", "定理 1. 任意의 整數 n에 대하여 다음이 成立한다.", 0, 0.15),
    ("en", "I don't know whether we've got enough; I'd guess it's about twelve.", 0.95, 1),
    ("en", "Can't be; that'd give 3.5 eggs.", 0.9, 1),
    ("en", "lol idk, maybe just brute force it? gonna try n=1,2,3...", 0.8, 1),
    ("en", "Apply AM-GM, then Cauchy-Schwarz, then Jensen.", 0.8, 1),
    ("en", "Vieta jumping on (a, b) gives a contradiction via infinite descent.", 0.9, 1),
    ("en", "DFS from node A: A -> B -> C. BFS: A, B, D. Both visit all nodes.", 0.9, 1),
    ("en", "Let G be a group, H a normal subgroup, and consider the quotient G/H.", 0.95, 1),
    ("en", "Numerator: 12. Denominator: 30. Ratio: 2/5.", 0.9, 1),
    ("en", "Perimeter: 2(l+w) = 20", 0.9, 1),
    ("en", "Total eggs: sixty", 0.9, 1),
    ("en", "Hence proved.", 0.9, 1),
    ("en", "Area?", 0.9, 1),
    ("fr", "Numérateur : 12. Dénominateur : 30.", 0.9, 1),
    ("fr", "Total : soixante œufs", 0.9, 1),
    ("fr", "Périmètre du rectangle", 0.9, 1),
    ("fr", "C'est faux.", 0.9, 1),
    ("de", "Zähler: 12. Nenner: 30.", 0.9, 1),
    ("de", "Insgesamt sechzig Eier", 0.9, 1),
    ("de", "Das ist falsch.", 0.9, 1),
    ("de", "Induktionsanfang und Induktionsschritt", 0.9, 1),
    ("es", "Numerador: 12. Denominador: 30.", 0.9, 1),
    ("es", "En total, sesenta huevos", 0.9, 1),
    ("es", "Eso es falso.", 0.9, 1),
    ("ru", "Числитель: 12. Знаменатель: 30.", 0.9, 1),
    ("vi", "Tử số: 12. Mẫu số: 30.", 0.9, 1),
    ("vi", "Tổng cộng sáu mươi quả trứng", 0.9, 1),
    ("vi", "Sai rồi.", 0.9, 1),
    ("en", "Zähler: 12. Nenner: 30.", 0, 0.1),
    ("en", "Insgesamt sechzig Eier", 0, 0.1),
    ("en", "Eso es falso.", 0, 0.1),
    ("en", "C'est faux.", 0, 0.1),
    ("en", "Das ist falsch.", 0, 0.1),
    ("de", "Hence proved.", 0, 0.1),
    ("fr", "Total eggs: sixty", 0, 0.4),
    ("en", "Tổng cộng sáu mươi quả trứng", 0, 0.1),
    ("en", "Tong cong sau muoi qua trung", 0, 0.1),
    ("en", "Truoc tien ta cong hai so nay lai voi nhau", 0, 0.1),
    ("en", "Her kutuda on iki yumurta var, yani beş kutuda altmış yumurta olur.", 0, 0.1),
    ("en", "Setiap kotak berisi dua belas telur, jadi lima kotak berisi enam puluh telur.", 0, 0.1),
    ("en", "Fiecare cutie are douăsprezece ouă, deci cinci cutii au șaizeci de ouă.", 0, 0.1),
    ("en", "Hver eske har tolv egg, så fem esker har seksti egg.", 0, 0.1),
    ("es", "Cada caixa té dotze ous, per tant cinc caixes tenen seixanta ous.", 0, 0.3),
    (
        "en",
        "Kila sanduku lina mayai kumi na mawili, hivyo masanduku matano yana mayai sitini.",
        0,
        0.1,
    ),
    ("vi", "Setiap kotak berisi dua belas telur, jadi lima kotak berisi enam puluh telur.", 0, 0.1),
    ("zh", "mei xiang shi er ge ji dan, wu xiang gong liu shi ge", 0, 0),
    ("en", "mei xiang shi er ge ji dan, wu xiang gong liu shi ge", 0, 0.1),
    ("vi", "mei xiang shi er ge ji dan, wu xiang gong liu shi ge", 0, 0.3),
    (
        "en",
        "V kazhdoy korobke dvenadtsat yaits, znachit v pyati korobkakh shestdesyat yaits.",
        0,
        0.1,
    ),
    (
        "fr",
        "V kazhdoy korobke dvenadtsat yaits, znachit v pyati korobkakh shestdesyat yaits.",
        0,
        0.1,
    ),
    ("en", "kol sandoo2 feh 12 beda, yeb2a el 5 sanadee2 fehom 60 beda", 0, 0.2),
    ("en", "7asab el so2al, kol wa7ed ma3ah 3 tofa7at", 0, 0.2),
    ("en", "har dabbe mein barah ande hain, to paanch dabbon mein saath ande honge", 0, 0.15),
]

NOTATION = [
    (
        "zh",
        "$\\mathrm{first}\\ \\mathrm{we}\\ \\mathrm{add}\\ \\mathrm{the}\\ \\mathrm{numbers}$ 完成",
        0,
        0.4,
    ),
    ("en", "\\mathrm{首先我们把两个数相加} done", 0, 0.4),
    ("en", "\\tag{首先我们把两个数相加} done", 0, 0.4),
    ("en", "$\\mathrm{首先我们把两个数相加}$ done", 0, 0.4),
    ("zh", "we_add_the_two_numbers_and_divide 完成", 0, 0.4),
    ("zh", "WeAddTheTwoNumbers 完成", 0, 0.4),
    (
        "zh",
        "$$\\frac{\\mathrm{d}y}{\\mathrm{d}x} = \\operatorname{Var}(X) + \\mathrm{Cov}(X, Y)$$ "
        "因此方差最小。",
        0.95,
        1,
    ),
    (
        "zh",
        "\\frac{\\mathrm{d}y}{\\mathrm{d}x} = \\operatorname{Var}(X) 因此方差最小。"
        "\\begin{cases} x=1 \\\\ y=2 \\end{cases}\\label{eq:main}",
        0.95,
        1,
    ),
    ("zh", "速度 $v = \\frac{\\text{路程}}{\\text{时间}}$，所以是 60 \\text{km/h}。", 0.95, 1),
    ("ru", "Скорость $v = \\frac{s}{t}$ равна 60 км/ч, $\\text{если } t > 0$.", 0.95, 1),
    ("en", "The value is $x \\text{ if } x > 0 \\text{ and } -x \\text{ otherwise}$.", 0.95, 1),
    (
        "zh",
        "```sql\nSELECT name FROM users WHERE age > 18 ORDER BY name LIMIT "
        "5;\n```\n查询结果按姓名排序。",
        0.95,
        1,
    ),
    (
        "zh",
        "```\n$ pip install numpy\n$ python main.py --epochs 10\n```\n运行上面的命令即可。",
        0.9,
        1,
    ),
    (
        "zh",
        '```cpp\n#include <iostream>\nint main() {\n  std::cout << "hello world from here" '
        "<< std::endl;\n  return 0;\n}\n```\n程序输出一行文字。",
        0.95,
        1,
    ),
    (
        "zh",
        '```python\nclass Solution:\n    """Return the sum of the two numbers."""\n    '
        "def add(self, a, b):\n        if a is None and b is not None:\n            return b\n "
        "       return a + b\n```\n这个类实现加法。",
        0.95,
        1,
    ),
    (
        "zh",
        '```json\n{"name": "Alice", "age": 18, "city": "Paris"}\n```\n这是输入数据。',
        0.95,
        1,
    ),
    (
        "zh",
        "```\nINPUT: n\nwhile n > 1 do\n  if n mod 2 = 0 then n := n / 2 else n := 3 * n + "
        "1\nend while\n```\n算法如上所示，最终得到一。",
        0.8,
        1,
    ),
    ("zh", "调用 `sorted(a, key=len)` 和 `git commit -m` 之后，再用 `np.array` 处理。", 0.9, 1),
    ("zh", "变量 x_1, x_2, max_value, numItems 和 arr[i] 都是整数。", 0.9, 1),
    ("ja", "変数 total_count と maxValue を使い、for ループで合計する。", 0.85, 1),
    (
        "zh",
        "见 https://arxiv.org/abs/2501.12948 和 www.example.com/page?id=3，联系 foo@bar.com。",
        0.95,
        1,
    ),
    (
        "zh",
        "当 n = 3 时，sin x + cos x = 1，lim x -> 0，ln 2，log_2 8 = 3，P(A|B) = 0.5，C(5,2) = "
        "10。",
        0.95,
        1,
    ),
    ("en", "x y z a b c d e f the", 1, 1),
    ("zh", "因为 a mod b = 0，gcd(a,b)=1，lcm(a,b)=ab，所以互质。", 0.95, 1),
    ("de", "∠ABC = 90°, |AB| = 3 cm, daher gilt △ABC ≅ △DEF.", 0.95, 1),
    ("ru", "ΔABC ~ ΔDEF, поэтому AB/DE = BC/EF = k, где k — коэффициент подобия.", 0.95, 1),
    ("ru", "В треугольнике АВС угол С прямой, АВ = 5, ВС = 3.", 0.9, 1),
    ("fr", "1) a) On a n = 3. b) D'où le résultat. 2) Voir a).", 0.9, 1),
    ("en", "Note: 3 kg at $2.50/kg, 5 L of milk, 20 mph for 3 h.", 0.9, 1),
    ("en", "i.e. x=1, e.g. y=2, etc. vs. w.r.t. z", 0, 1),
    ("ar", "إذا كان س = ٣ و ص = ٤ فإن س² + ص² = ٢٥ ومنه الوتر ٥", 0.8, 1),
    ("hi", "यदि क = ३ और ख = ४ तो योग ७ है", 0.9, 1),
    ("th", "เนื่องจาก ก = ๓ และ ข = ๔ ดังนั้นผลรวมเท่ากับ ๗", 0.95, 1),
    ("fa", "اگر x = ۳ و y = ۴ باشد، مجموع ۷ است", 0.9, 1),
    ("en", "(1) Assume P. (2) Derive Q. (3) Hence P → Q. ∎", 0.9, 1),
    ("zh", "解：\n（1）∵ a=1，∴ b=2。\n（2）同理可得 c=3。", 0.95, 1),
    ("ko", "∴ 답은 ③번이다. (단, x > 0)", 0.95, 1),
    ("ja", "(1) x=1 のとき、y=2。(2) 同様に z=3。∴ 答 6", 0.95, 1),
]


@pytest.mark.parametrize(("language", "text", "low", "high"), NEIGHBOURS)
def test_look_alikes_are_told_apart(language: str, text: str, low: float, high: float) -> None:
    assert low <= language_consistency(text, language) <= high


@pytest.mark.parametrize(("language", "text", "low", "high"), NOTATION)
def test_notation_is_neutral_and_hides_no_prose(
    language: str, text: str, low: float, high: float
) -> None:
    assert low <= language_consistency(text, language) <= high
