"""Geography reward: how near the answered coordinates are to the place."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from r1pipe.errors import Problem, UserError
from r1pipe.rewards.completions import (
    bad_row,
    checked_by,
    column,
    final_answer,
    gold_of,
    prefilled_rows,
    text_of,
)

_NAME = "geo_distance"
EARTH_RADIUS_KM = 6371.0088
"""Mean radius R1 = (2a + b) / 3 of the IUGG (Moritz 2000, Geodetic Reference System 1980)."""

Point = tuple[float, float]
_LIMITS = {"lat": 90.0, "lon": 180.0}
_MAX_CHARS = 1000  # coordinates with any words around them are shorter

_SPELLINGS = (
    (re.compile(r"\\(?:boxed|text[a-z]*|math[a-z]+|left|right|quad)\b|\\[()\[\],;! ]"), " "),
    (re.compile(r"\^?\s*\{?\s*\\(?:circ|degree)\b\s*\}?|[º˚]|\s*\b[Dd]eg(?:rees?)?\b\.?"), "°"),
    (re.compile(r"\^?\s*\{?\s*\\prime\s*\\prime\b\s*\}?|''|[″”“＂]|′′|’’"), '"'),
    (re.compile(r"\^?\s*\{?\s*\\prime\b\s*\}?|[′’‘ʹ＇]"), "'"),
    (re.compile(r"[−－﹣]|[–—](?=\s*\d)"), "-"),
    (re.compile(r"＋"), "+"),
    (re.compile(r"\bWGS[ -]?84\b|\bEPSG:4326\b"), " "),
    *(
        (re.compile(said), f" {side} ")
        for said, side in zip(
            ("北[纬緯]", "南[纬緯]", "[东東][经經]", "西[经經]"), "NSEW", strict=True
        )
    ),
    (re.compile(r"[纬緯]度"), " lat "),
    (re.compile(r"[经經]度"), " lon "),
    (re.compile(r"[\s$*`_{}]+"), " "),
)
_COMMA_DECIMALS = re.compile(r"(\d),(\d+)(?=\s*°)")
_SIDE = r"(?:[NSEW](?![A-Za-z])|(?i:north|south|east|west)(?![A-Za-z]))"
_AXIS = re.compile(
    r"(?<![A-Za-z])(?i:(?P<lat>latitude|lat)|(?P<lon>longitude|long|lon|lng))(?![A-Za-z])|(?P<x>#)"
)
_VALUE = (
    r"(?P<sign>[+-])?(?<![\d.])(?P<degrees>\d{1,3}(?:\.\d{1,40})?)(?![\d.]*\d)\s{0,3}°?"
    r"(?:(?<=°)\s{0,3}(?P<minutes>\d{1,2}(?:\.\d{1,40})?)\s{0,3}'"
    r"(?:\s{0,3}(?P<seconds>\d{1,2}(?:\.\d{1,40})?)\s{0,3}\")?)?"
)
_AFTER = re.compile(rf"{_VALUE}(?:\s{{0,3}}(?P<side>{_SIDE}))?")
_BEFORE = re.compile(rf"(?:(?<![A-Za-z])(?P<side>{_SIDE})\s{{0,3}})?{_VALUE}")
_LEADING_SIDE = re.compile(rf"(?<![A-Za-z\d°'\"])(?<![\d°'\"]\s){_SIDE}\s{{0,3}}[+-]?\d")
# No pair of plain numbers: 48-2, 1e5, --48, NaN.
_UNREADABLE = re.compile(
    r"[\d.°'\"A-Za-z]-\d|\d[A-Za-z](?<![NSEW])|[+-]{2}\d|\b(?i:nan|inf|infinity)\b"
)


class _BadPlace(ValueError):
    """Gold coordinates that are none: the row is at fault, not the model."""


def distance_km(
    latitude: float, longitude: float, other_latitude: float, other_longitude: float
) -> float:
    """Return the great-circle distance in km between two points given in degrees.

    Haversine formula (Sinnott, Sky and Telescope 68:159, 1984) on a sphere of the Earth's mean
    radius: within 0.6 % of the ellipsoid.
    """
    first, second = math.radians(latitude), math.radians(other_latitude)
    across = math.radians(other_longitude - longitude)
    haversine = (
        math.sin((second - first) / 2) ** 2
        + math.cos(first) * math.cos(second) * math.sin(across / 2) ** 2
    )
    # Rounding may leave the antipodes a little above 1.
    return 2 * EARTH_RADIUS_KM * math.asin(math.sqrt(min(1.0, haversine)))


def row_problems(rows: Sequence[Mapping[str, Any]], **options: Any) -> list[tuple[int, str]]:
    """Return (index, what is wrong) of the rows whose coordinates are none."""
    problems = []
    for index, row in enumerate(rows):
        try:
            _gold(row.get("latitude"), row.get("longitude"), gold_of(row))
        except _BadPlace as error:
            problems.append((index, str(error)))
    return problems


@checked_by(row_problems, looks_at="row")
def geo_distance_reward(
    completions: Sequence[Any],
    latitude: Sequence[Any] | None = None,
    longitude: Sequence[Any] | None = None,
    solution: Sequence[Any] | None = None,
    prompts: Sequence[Any] | None = None,
    *,
    scale_km: float = 1492.7,
    prefilled: bool | Sequence[bool] | None = None,
    **columns: Any,
) -> list[float | None]:
    """exp(-distance / `scale_km`), in (0, 1], for one pair of coordinates in `<answer>`; else 0.

    Columns `latitude` and `longitude` in degrees, or `solution` (or `answer`) with both
    ("48.85, 2.35" or a pair). The default scale is that of GeoGuessr's world map as PIGEON states
    it (arXiv 2307.05845: 5000 exp(-d / 1492.7 km)); cities want a smaller one.

    Read are decimal degrees, latitude first unless N, S, E, W or `lat`, `lon` say otherwise, and
    degrees with minutes and seconds. Several pairs, further numbers and what is no place on
    Earth get 0. Raises UserError on gold coordinates that are none, and on a bad `scale_km`.
    """
    if not (math.isfinite(scale_km) and scale_km > 0):
        raise UserError(Problem(f"reward.{_NAME}.scale_km", f"{scale_km} is not above 0"))
    count = len(completions)
    solution = columns.get("answer") if solution is None else solution
    given = {"latitude": latitude, "longitude": longitude, "solution": solution}
    if solution is None:
        needed = ["latitude", "longitude"]
    else:
        needed = [name for name, values in given.items() if values is not None]
    found = {name: column(given, name, count, _NAME) for name in needed}
    golds = list(zip(*(found.get(name, [None] * count) for name in given), strict=True))
    opened = prefilled_rows(prefilled, prompts, count)
    rewards: list[float | None] = []
    for index, completion in enumerate(completions):
        try:
            gold = _gold(*golds[index])
        except _BadPlace as error:
            raise bad_row(columns, index, _NAME, str(error)) from error
        if gold is None:
            rewards.append(None)
            continue
        answer = final_answer(text_of(completion), opened[index])
        point = None if answer is None else read_coordinates(answer)
        rewards.append(math.exp(-distance_km(*gold, *point) / scale_km) if point else 0.0)
    return rewards


def read_coordinates(text: str) -> Point | None:
    """Return (latitude, longitude) in degrees of a text that states one pair, else None."""
    if len(text) > _MAX_CHARS:
        return None
    for pattern, spelling in _SPELLINGS:
        text = pattern.sub(spelling, text)
    if len(_COMMA_DECIMALS.findall(text)) == 2:
        text = _COMMA_DECIMALS.sub(r"\1.\2", text)
    if _UNREADABLE.search(text):
        return None
    numbers = list((_BEFORE if _LEADING_SIDE.search(text) else _AFTER).finditer(text))
    rest = _without(text, numbers)
    if len(numbers) != 2 or any(char.isdigit() for char in rest):
        return None
    values = [_degrees(match) for match in numbers]
    sides = [_side_of(match) for match in numbers]
    named = _axes_of(rest)
    if named is None:
        return None
    axes = []
    for value, side, name in zip(values, sides, named, strict=True):
        if value is None or (side and name and side != name):
            return None
        axes.append(side or name)
    first = axes[0] or {"lat": "lon", "lon": "lat"}.get(axes[1] or "", "lat")
    second = "lon" if first == "lat" else "lat"
    if axes[1] not in (None, second):
        return None
    place = {first: values[0] or 0.0, second: values[1] or 0.0}
    if any(abs(value) > _LIMITS[axis] for axis, value in place.items()):
        return None
    return place["lat"], place["lon"]


def _without(text: str, numbers: Sequence[re.Match[str]]) -> str:
    """Return the text with a `#` for each number."""
    pieces, end = [], 0
    for match in numbers:
        pieces.append(text[end : match.start()].replace("#", " "))
        end = match.end()
    return " # ".join([*pieces, text[end:].replace("#", " ")])


def _axes_of(rest: str) -> list[str | None] | None:
    """Return the axis that is named for each of two numbers (`#`); None if named wrongly."""
    marks = [match.lastgroup or "" for match in _AXIS.finditer(rest)]
    names = [mark for mark in marks if mark != "x"]
    if not names:
        return [None, None]
    if marks in (["lat", "x", "lon", "x"], ["lon", "x", "lat", "x"]):
        return list(names)
    if marks in (["x", "lat", "x", "lon"], ["x", "lon", "x", "lat"]):
        return list(names)
    # One heading for both: "latitude, longitude: 48.85, 2.35".
    return list(names) if sorted(names) == ["lat", "lon"] and marks[2:] == ["x", "x"] else None


def _side_of(match: re.Match[str]) -> str | None:
    side = match["side"]
    return None if side is None else ("lat" if side[0] in "NSns" else "lon")


def _degrees(match: re.Match[str]) -> float | None:
    """Return the value of a number with its minutes, seconds and side; None if they disagree."""
    value = float(match["degrees"])
    for part, share in (("minutes", 60), ("seconds", 3600)):
        if match[part] is not None:
            if float(match[part]) >= 60 or "." in match["degrees"]:
                return None
            value += float(match[part]) / share
    if match["seconds"] is not None and "." in match["minutes"]:
        return None
    side = match["side"]
    if side is None:
        return -value if match["sign"] == "-" else value
    if match["sign"] == "-":
        return None
    return -value if side[0] in "SWsw" else value


def _gold(latitude: Any, longitude: Any, solution: Any) -> Point | None:
    """Return the gold point of a row; None where the row has none. Raises _BadPlace."""
    if latitude is None and longitude is None:
        if solution is None:
            return None
        if isinstance(solution, str):
            point = read_coordinates(solution)
            if point is None:
                raise _BadPlace(f"{solution!r} is not one pair of coordinates")
            return point
        try:
            latitude, longitude = solution
        except (TypeError, ValueError):
            raise _BadPlace(f"{solution!r} is not a pair of coordinates") from None
    return _gold_degrees("latitude", latitude, 90), _gold_degrees("longitude", longitude, 180)


def _gold_degrees(name: str, value: Any, limit: int) -> float:
    try:
        number = float(value) if isinstance(value, Real | str) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    # NaN compares false with everything.
    if isinstance(value, bool) or not abs(number) <= limit:
        raise _BadPlace(f"{name} is {value!r}, not degrees from -{limit} to {limit}")
    return number
