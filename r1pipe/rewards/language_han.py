"""Tells whose a run of Han characters is: Chinese, Japanese, or Korean (Hanja)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

# In the Japanese character set for old names and old spellings only; modern Japanese writes another
# form or another word.
_CHINESE_IN_JIS = frozenset(
    "们個这這它他她你們很怎麼吧嗎呢没沒个从价对尽广无气网粮愿哦还還让讓"
    "來兩圖實將對屬據數樓樣氣與觀變關點會發經學體國總應單當處區畫廣邊聲讀寫價擔歸舊參雙乘證稱圓餘"
    "繼續圍轉輕獨驗顯齊齡擇澤釋隨鐵錢營榮權勸歡壓惡醫隱鹽假條鄰戰傳團爲隸嚴嘗擴拂晝殘滿滯濕"
    "繪聽臺萬號蟲衞裝覺覽譯譽讚豐賣賴辭遞遲醉釀錄鑄險雜靜顏飜驅髓鬪默"
) - frozenset("個他吧")
# In a Chinese character set besides, yet a sign of Japanese.
_JAPANESE_IN_CHINESE_SETS = frozenset("々証")
# Ordinary in both, but the joints of a Chinese sentence where no kana is near.
OFTEN_CHINESE = frozenset("的是在我他有和得到也都不所以因此而其若就能可那么")
WEIGHT_ALONE = 0.5
_LONGEST_HANJA = 6
KANA_SHARE_OF_JAPANESE = 0.15


@dataclass
class Clause:
    """Runs of Han characters between two stops, and how many kana and Hangul stand among them."""

    runs: list[str]
    kana: int
    hangul: int


def languages_of_runs(clauses: Sequence[Clause], favoured: str | None) -> list[list[str]]:
    """Return the language of each run of each clause.

    Characters of one language decide for their run, then kana or Hangul in the clause, then
    characters of the clause, then the whole text. A text that says nothing at all (証明,
    面積) is Japanese if that is `favoured`, else Chinese.
    """
    kana = sum(clause.kana for clause in clauses)
    hangul = sum(clause.hangul for clause in clauses)
    letters = sum(len(run) for clause in clauses for run in clause.runs)
    balance = [_balance("".join(clause.runs), not kana) for clause in clauses]
    whole = sum(balance)
    if hangul > letters:
        usual = "ko"
    elif kana > KANA_SHARE_OF_JAPANESE * (kana + letters) and whole <= kana:
        usual = "ja"
    elif whole:
        usual = "zh" if whole > 0 else "ja"
    else:
        usual = "ja" if favoured == "ja" else "zh"
    return [
        [_language_of_run(run, clause, own, usual) for run in clause.runs]
        for clause, own in zip(clauses, balance, strict=True)
    ]


def _language_of_run(run: str, clause: Clause, balance: float, usual: str) -> str:
    if (clause.hangul or usual == "ko") and len(run) <= _LONGEST_HANJA and _is_in(run, "euc_kr"):
        return "ko"
    alone = _balance(run, False)
    if alone:
        return "zh" if alone > 0 else "ja"
    if clause.kana:
        return "ja"
    if clause.hangul:
        return "ko"
    if usual == "ko" and balance > 0:
        return "zh"
    if balance:
        return "zh" if balance > 0 else "ja"
    if usual in ("ja", "ko"):
        return usual
    return "zh" if _balance(run, True) > 0 else usual


@cache
def signs() -> dict[str, int]:
    """Return {character: 1 if only Chinese writes it, -1 if only Japanese does}.

    The national character sets tell: GB 2312 and Big5 for Chinese, JIS X 0208 for Japanese.
    """
    found = {}
    for code in range(0x4E00, 0x9FA6):
        char = chr(code)
        japanese = _is_in(char, "shift_jis")
        chinese = _is_in(char, "gb2312") or _is_in(char, "big5")
        if japanese != chinese:
            found[char] = 1 if chinese else -1
    found.update(dict.fromkeys(_JAPANESE_IN_CHINESE_SETS, -1))
    found.update(dict.fromkeys(_CHINESE_IN_JIS, 1))
    return found


def _is_in(text: str, charset: str) -> bool:
    try:
        return bool(text.encode(charset))
    except UnicodeEncodeError:
        return False


def _balance(run: str, no_kana: bool) -> float:
    """Positive for Chinese, negative for Japanese."""
    sign_of = signs()
    chinese = japanese = often = 0
    for char in run:
        sign = sign_of.get(char)
        if sign == 1:
            chinese += 1
        elif sign == -1:
            japanese += 1
        elif char in OFTEN_CHINESE:
            often += 1
    return chinese - japanese + (WEIGHT_ALONE * often if no_kana else 0)
