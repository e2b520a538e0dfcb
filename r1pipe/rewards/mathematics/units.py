"""Units: their dimensions, and the exact factor to a base unit of each dimension."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

Dimension = tuple[tuple[str, Fraction], ...]


@dataclass(frozen=True)
class Unit:
    """`factor` base units of `dimension`; `known` is False for a noun such as `apples`."""

    factor: Fraction
    dimension: Dimension
    known: bool = True

    def __mul__(self, other: Unit) -> Unit:
        powers = dict(self.dimension)
        for name, power in other.dimension:
            powers[name] = powers.get(name, Fraction(0)) + power
        dimension = tuple(sorted((name, power) for name, power in powers.items() if power))
        return Unit(self.factor * other.factor, dimension, self.known and other.known)

    def __pow__(self, power: int) -> Unit:
        dimension = tuple((name, exponent * power) for name, exponent in self.dimension if power)
        return Unit(self.factor**power, dimension, self.known)


def _unit(factor: int | str | Fraction, **dimension: int) -> Unit:
    powers = tuple(sorted((name, Fraction(power)) for name, power in dimension.items()))
    return Unit(Fraction(factor), powers)


ANGLE_DEGREE = Unit(Fraction(1), (("degree", Fraction(1)),))
RADIAN = Unit(Fraction(1), (("radian", Fraction(1)),))

_PREFIXES = {
    "k": ("kilo", 10**3), "M": ("mega", 10**6), "G": ("giga", 10**9), "d": ("deci", "1/10"),
    "c": ("centi", "1/100"), "m": ("milli", "1/1000"), "μ": ("micro", "1/1000000"),
    "n": ("nano", "1/1000000000"), "h": ("hecto", 100),
}  # fmt: skip
_METRIC = {
    "m": (_unit(1, length=1), "metre meter mètre mètres metro metros meters metres Meter м метр"
          " метров метра 米"),
    "g": (_unit("1/1000", mass=1), "gram grams gramme grammes gramm Gramm г грамм граммов 克"),
    "L": (_unit("1/1000", length=3), "l ℓ litre liter litres liters Liter litro litros л литр"
          " литров 升"),
    "s": (_unit(1, time=1), "second seconds sec secs Sekunde Sekunden seconde secondes segundo"
          " segundos с секунд секунды 秒 秒钟"),
    "N": (_unit(1, mass=1, length=1, time=-2), "newton newtons Н 牛 牛顿"),
    "J": (_unit(1, mass=1, length=2, time=-2), "joule joules Дж 焦耳"),
    "W": (_unit(1, mass=1, length=2, time=-3), "watt watts Вт 瓦"),
    "Pa": (_unit(1, mass=1, length=-1, time=-2), "pascal pascals 帕"),
    "Hz": (_unit(1, time=-1), "hertz Гц 赫兹"),
    "V": (_unit(1, mass=1, length=2, time=-3, current=-1), "volt volts В 伏特"),
    "A": (_unit(1, current=1), "amp amps ampere amperes 安培"),
    "C": (_unit(1, current=1, time=1), "coulomb coulombs 库仑"),
    "Ω": (_unit(1, mass=1, length=2, time=-3, current=-2), "ohm ohms Ohm 欧姆"),
    "mol": (_unit(1, amount=1), "mole moles 摩尔"),
    "eV": (_unit("1.602176634e-19", mass=1, length=2, time=-2), "electronvolts"),
    "B": (_unit(8, bit=1), "byte bytes"),
    "bit": (_unit(1, bit=1), "bits"),
    "cal": (_unit("4.184", mass=1, length=2, time=-2), "calorie calories"),
}  # fmt: skip
_OTHERS: list[tuple[Unit, str]] = [
    (_unit(60, time=1), "min mins minute minutes Minuten minuto minutos мин минут 分钟"),
    (_unit(3600, time=1), "h hr hrs hour hours Stunde Stunden heure heures hora horas ч час часа"
     " часов 小时 时"),
    (_unit(86400, time=1), "d day days Tag Tage jour jours día días день дня дней 天 日"),
    (_unit(604800, time=1), "week weeks wk wks Woche Wochen semaine semaines неделя недель 周"
     " 星期"),
    (_unit(1, month=1), "month months Monat Monate mois mes meses месяц месяцев 个月"),
    (_unit(12, month=1), "yr yrs year years Jahr Jahre ans año años год года лет 年 岁"),
    (_unit("0.0254", length=1), "in inch inches"),
    (_unit("0.3048", length=1), "ft foot feet"),
    (_unit("0.9144", length=1), "yd yds yard yards"),
    (_unit("1609.344", length=1), "mi mile miles 英里"),
    (_unit("1609.344", length=1, time=-1) * _unit("1/3600"), "mph"),
    (_unit("1000/3600", length=1, time=-1), "kph kmh"),
    (_unit("0.45359237", mass=1), "lb lbs"),
    (_unit("0.028349523125", mass=1), "oz ounce ounces"),
    (_unit(1000, mass=1), "t tonne tonnes Tonne Tonnen т тонн 吨"),
    (_unit("1/1000000", length=3), "cc"),
    (_unit(10000, length=2), "ha hectare hectares 公顷"),
    (_unit("4046.8564224", length=2), "acre acres"),
    (_unit("0.003785411784", length=3), "gal gallon gallons"),
    (_unit("0.000946352946", length=3), "qt quart quarts"),
    (_unit("0.000473176473", length=3), "pint pints"),
    (_unit("0.0002365882365", length=3), "cup cups"),
    (_unit("0.5", mass=1), "斤"),
    (_unit(1000, length=1), "公里 千米"),
    (_unit(1, mass=1), "公斤 千克"),
    (_unit("1/100", length=1), "厘米 公分"),
    (_unit("1/10", length=1), "分米"),
    (_unit("1/1000", length=1), "毫米"),
    (_unit("1/1000000", length=3), "毫升"),
    (_unit(1, length=2), "平方米 sqm"),
    (_unit("1/10000", length=2), "平方厘米"),
    (_unit(1000000, length=2), "平方千米 平方公里"),
    (_unit(1, length=3), "立方米"),
    (_unit("1/1000000", length=3), "立方厘米"),
    (_unit("0.09290304", length=2), "sqft"),
    (_unit(1, dollar=1), "dollar dollars USD bucks usd"),
    (_unit("1/100", dollar=1), "cent cents"),
    (_unit(1, euro=1), "euro euros EUR eur Euro евро 欧元"),
    (_unit(1, pound=1), "GBP quid 英镑"),
    (_unit("1/100", pound=1), "pence penny"),
    (_unit(1, pounds=1), "pound pounds"),
    (_unit(1, yuan=1), "yuan RMB CNY 元 块 人民币"),
    (_unit(1, japanese_yen=1), "JPY yen 円 日元"),
    (_unit(1, yen=1), "¥"),
    (_unit(1, rupee=1), "rupee rupees INR Rs"),
    (_unit(1, ruble=1), "ruble rubles rouble roubles RUB руб рублей рубль рубля"),
    (_unit(1, franc=1), "CHF franc francs"),
    (_unit(1, won=1), "won KRW"),
    (_unit(1, celsius=1), "Celsius celsius 摄氏度"),
    (_unit(1, fahrenheit=1), "Fahrenheit fahrenheit"),
    (_unit(1, kelvin=1), "K kelvin kelvins Kelvin"),
    (ANGLE_DEGREE, "deg Grad degrés grados градусов 度"),
    (RADIAN, "rad rads radian radians 弧度"),
    (_unit("101325", mass=1, length=-1, time=-2), "atm"),
    (_unit("100000", mass=1, length=-1, time=-2), "bar"),
    (_unit("1/60", time=-1), "rpm"),
]  # fmt: skip


def _table() -> dict[str, Unit]:
    table: dict[str, Unit] = {}
    for symbol, (unit, names) in _METRIC.items():
        table[symbol] = unit
        for name in names.split():
            table[name] = unit
        for prefix, (long, factor) in _PREFIXES.items():
            if (prefix in "dh" and prefix + symbol not in ("dm", "dL", "hPa")) or symbol == "B":
                continue
            scaled = Unit(unit.factor * Fraction(factor), unit.dimension)
            table[prefix + symbol] = scaled
            for name in names.split():
                if len(name) > 2 and name.isascii():
                    table[long + name] = scaled
                    table[(long + name).capitalize()] = scaled
    for unit, names in _OTHERS:
        for name in names.split():
            table[name] = unit
    # Prefixes make a few names that mean something else, and Cyrillic has its own prefixes.
    table |= {"min": table["minute"], "ft": table["foot"]}
    for name, latin in {
        "км": "km", "см": "cm", "мм": "mm", "дм": "dm", "кг": "kg", "мг": "mg", "мл": "mL",
        "ml": "mL", "cl": "cL", "dl": "dL", "um": "μm", "kilos": "kg", "kilo": "kg",
        "километров": "km", "километра": "km", "сантиметров": "cm", "килограмм": "kg",
        "Zentimeter": "cm", "Millimeter": "mm", "Kilogramm": "kg", "Milliliter": "mL",
        "сантиметра": "cm", "миллиметров": "mm", "килограмма": "kg", "kilogramos": "kg",
        "kilomètres": "km", "centimètres": "cm", "kilómetros": "km",
        "centímetros": "cm",
    }.items():  # fmt: skip
        if latin in table:
            table[name] = table[latin]
    table["kWh"] = Unit(Fraction(3_600_000), table["J"].dimension)
    table["Wh"] = Unit(Fraction(3_600), table["J"].dimension)
    return table


UNITS = _table()
COMMAND_UNITS = {
    "dollar": UNITS["dollar"], "euro": UNITS["euro"], "pound": UNITS["GBP"],
    "rupee": UNITS["rupee"], "ruble": UNITS["ruble"], "won": UNITS["won"], "yen": UNITS["¥"],
    "cent": UNITS["cent"], "Omega": UNITS["Ω"], "ell": UNITS["L"],
}  # fmt: skip
GENERIC = Unit(Fraction(1), (("unit", Fraction(1)),), known=False)
"""The `units` of a figure without a scale."""
BARE_LETTERS = frozenset("mgshLNJWVKl")
"""Units of one letter that are read as such after a number without a text command."""

_NOT_NOUNS = frozenset(
    [
        "ist", "est", "sind", "sont", "es", "son", "falsch", "faux", "falso", "richtig", "nicht",
        "pas", "oder", "was", "were", "has", "have", "might", "may", "could", "would",
        "should", "can", "cannot", "will", "must",
        "used", "fewer", "greater", "larger", "smaller", "extra", "additional", "another",
        "further",
        "twice", "once", "thrice", "again", "not", "or", "and", "to", "less", "more", "than",
        "about", "approximately", "remainder", "mod", "choose", "if", "when", "maybe", "is",
        "are", "times", "plus", "minus", "factorial", "squared", "cubed", "tenths", "hundredths",
        "thousandths", "hundred", "thousand", "million", "billion", "half", "halves", "thirds",
        "quarters", "per", "of", "but", "the", "a", "an", "wrong", "right", "correct",
        "incorrect", "no", "yes", "only", "perhaps", "probably", "possibly", "either", "neither",
        "both", "r", "over", "by", "divided", "ago", "st", "nd", "rd", "th", "where", "for",
        "with", "because", "since", "so", "then", "hence", "therefore", "which", "that", "as",
        "other", "even", "odd", "into", "from", "through", "until", "up", "down", "between",
        "base", "unless", "except", "else", "false", "true", "或", "和", "不是", "不", "或者", "pm",
        "am",
    ]
)  # fmt: skip


_NOT_IN_WORDS = (
    "ない", "不", "非", "没", "或", "以上", "以下", "以内", "左右",
    "未満", "より", "倍", "아니", "이상", "이하",
    "нет", "или", "больше", "меньше", "более", "менее", "más", "или",
    "über", "ou", "万", "亿", "半",
    "多", "余", "点", "号",
)  # fmt: skip
"""What makes a word in another script more than a noun."""


def unit_named(word: str) -> Unit | None:
    """Return the known unit of that name; long names in any case."""
    unit = UNITS.get(word)
    if unit is None and len(word) > 3:
        unit = UNITS.get(word.lower())
    return unit


def noun(words: list[str]) -> Unit | None:
    """Return the unit that a plain noun is (`red apples`), None for words that are none."""
    lowered = [word.lower() for word in words]
    inner = [word for word in lowered[1:-1] if word == "of"]
    refused = sum(word.lower() in _NOT_NOUNS for word in words if word != "May")
    if not lowered or len(lowered) > 4 or refused > len(inner):
        return None
    if any(part in word for word in lowered if not word.isascii() for part in _NOT_IN_WORDS):
        return None
    if lowered[-1] == "short":
        # `45 short`: so many are missing.
        return None
    if any(len(word) < 2 for word in lowered if word.isascii()):
        return None
    name = " ".join([*lowered[:-1], _singular(lowered[-1])])
    return Unit(Fraction(1), ((f"noun {name}", Fraction(1)),), known=False)


def _singular(word: str) -> str:
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "xes", "sses", "oes")):
        return word[:-2]
    irregular = {"people": "person", "children": "child", "men": "man", "women": "woman"}
    if word in irregular:
        return irregular[word]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def set_of(words: str) -> frozenset[str]:
    """Return the set of the words that a text lists."""
    return frozenset(words.split())


_ALIKE = ({"yen", "yuan"}, {"yen", "japanese_yen"}, {"pound", "pounds"})


def same_dimension(one: Unit, other: Unit) -> bool:
    """True where both measure the same thing; `¥` may be yuan or yen, `pounds` may be money."""
    if one.dimension == other.dimension:
        return True
    names = {name for name, _ in one.dimension} | {name for name, _ in other.dimension}
    if len(one.dimension) != 1 or len(other.dimension) != 1:
        return False
    return names in _ALIKE


def resolve_pounds(one: Unit, other: Unit) -> Unit:
    """Return `one` with `pounds` read as mass where `other` is a mass."""
    if other.dimension != UNITS["kg"].dimension:
        return one
    return UNITS["lb"] if one.dimension == UNITS["pounds"].dimension else one
