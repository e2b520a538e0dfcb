"""The geography reward: coordinates in any usual spelling, paid by their distance."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1pipe.errors import UserError
from r1pipe.rewards.geography import (
    EARTH_RADIUS_KM,
    distance_km,
    geo_distance_reward,
    read_coordinates,
    row_problems,
)

PARIS, LONDON = (48.8566, 2.3522), (51.5074, -0.1278)


def score(answer: str, place=PARIS, **options) -> float | None:
    completion = f"<think>where</think><answer>{answer}</answer>"
    return geo_distance_reward([completion], [place[0]], [place[1]], **options)[0]


def test_distances_of_known_pairs() -> None:
    assert distance_km(*PARIS, *LONDON) == pytest.approx(343.6, abs=0.5)
    assert distance_km(40.6413, -73.7781, 33.9416, -118.4085) == pytest.approx(3974, abs=5)
    half = math.pi * EARTH_RADIUS_KM
    assert distance_km(90, 0, -90, 77) == pytest.approx(half)
    assert distance_km(0, 0, 0, 180) == pytest.approx(half)
    assert distance_km(0, 0, 0, 90) == pytest.approx(half / 2)
    assert distance_km(10, 179.5, 10, -179.5) == pytest.approx(distance_km(10, 0, 10, 1))
    assert distance_km(90, 12, 90, -150) == pytest.approx(0, abs=1e-9)


LATITUDES, LONGITUDES = st.floats(-90, 90), st.floats(-180, 180)


@settings(max_examples=200, deadline=None)
@given(LATITUDES, LONGITUDES, LATITUDES, LONGITUDES)
def test_distance_is_symmetric_and_at_most_half_way_round(a, b, c, d) -> None:
    there = distance_km(a, b, c, d)
    assert 0 <= there <= math.pi * EARTH_RADIUS_KM + 1e-6
    assert there == pytest.approx(distance_km(c, d, a, b), abs=1e-3)
    assert distance_km(a, b, a, b) == 0


def test_the_reward_falls_with_the_distance() -> None:
    assert score("48.8566, 2.3522") == 1.0
    km = distance_km(*PARIS, *LONDON)
    assert score("51.5074, -0.1278") == pytest.approx(math.exp(-km / 1492.7))
    assert score("51.5074, -0.1278", scale_km=100) == pytest.approx(math.exp(-km / 100))
    near, far, other_side = (score(f"{PARIS[0]}, {PARIS[1] + d}") or 0 for d in (1, 10, 170))
    assert 1 > near > far > other_side > 0
    assert other_side < 0.01


@pytest.mark.parametrize(
    "text",
    [
        "48.8566, 2.3522",
        "(48.8566, 2.3522)",
        "[48.8566, 2.3522]",
        "48.8566 2.3522",
        "48.8566; 2.3522",
        "+48.8566, +2.3522",
        "48.8566°, 2.3522°",
        "48.8566° N, 2.3522° E",
        "48.8566°N 2.3522°E",
        "48.8566N, 2.3522E",
        "N 48.8566, E 2.3522",
        "N48.8566 E2.3522",
        "2.3522° E, 48.8566° N",
        "48.8566 degrees north, 2.3522 degrees east",
        "lat: 48.8566, lon: 2.3522",
        "lat=48.8566 long=2.3522",
        "Latitude: 48.8566° N\nLongitude: 2.3522° E",
        "lon: 2.3522, lat: 48.8566",
        '{"lat": 48.8566, "lng": 2.3522}',
        "(lat, lon) = (48.8566, 2.3522)",
        "48.8566 (latitude), 2.3522 (longitude)",
        "48°51'23.76\"N 2°21'7.92\"E",
        "48° 51′ 23.76″ N, 2° 21′ 7.92″ E",
        "48°51'23.76''N, 2°21'7.92''E",
        "48°51.396'N, 2°21.132'E",
        "N 48° 51.396' E 002° 21.132'",
        "$48.8566^\\circ$ N, $2.3522^{\\circ}$ E",
        "\\boxed{48.8566, 2.3522}",
        "**48.8566**, **2.3522**",
        "48,8566° N, 2,3522° E",
        "Paris (48.8566, 2.3522)",
        "The place is at 48.8566, 2.3522.",
        "北纬48.8566°，东经2.3522°",
        "纬度：48.8566，经度：2.3522",
        "48.8566  N   2.3522  E",
        "48.8566° N, 2.3522° E (WGS 84)",
    ],
)
def test_one_pair_is_read_in_any_usual_spelling(text: str) -> None:
    assert read_coordinates(text) == pytest.approx(PARIS)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("-33.87, 151.21", (-33.87, 151.21)),
        ("33.87° S, 151.21° E", (-33.87, 151.21)),
        ("−33.87, 151.21", (-33.87, 151.21)),
        ("33°52'12\"S 151°12'36\"E", (-33.87, 151.21)),
        ("南纬33.87°, 东经151.21°", (-33.87, 151.21)),
        ("40.71° N, 74.01° W", (40.71, -74.01)),
        ("40.71, –74.01", (40.71, -74.01)),
        ("40.71 north, 74.01 west", (40.71, -74.01)),
        ("East London, 33.0 S, 27.9 E", (-33.0, 27.9)),
        ("0, 0", (0, 0)),
        ("-90, -180", (-90, -180)),
        ("90, 180", (90, 180)),
    ],
)
def test_signs_and_sides(text: str, place: tuple[float, float]) -> None:
    assert read_coordinates(text) == pytest.approx(place)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Paris",
        "48.8566",
        "48.8566,",
        "nan, nan",
        "NaN, 2.35",
        "inf, 2.35",
        "48.8566, 2.3522, inf",
        "91, 0",
        "-90.01, 0",
        "0, 181",
        "999999999, 2",
        "48.8566, 2.3522 or 51.5, -0.1",
        "48.8566, 2.3522; 51.5, -0.1; 40.7, -74",
        "48.8566, 2.3522, 35",
        "48.8566 N, 2.3522 N",
        "lat 48.8566, lat 2.3522",
        "latitude 48.8566 E, longitude 2.3522 N",
        "-33.87 S, 151.21 E",
        "48°61'N, 2°E",
        "48°51'60\"N, 2°E",
        "48.5°30'N, 2°E",
        "48.8566-2.3522",
        "4.88566e1, 2.3522",
        "1.2.3, 4",
        "--48, 2",
        "...",
        "°",
    ],
)
def test_anything_else_is_no_place(text: str) -> None:
    assert read_coordinates(text) is None
    assert score(text) == 0.0


def test_only_the_answer_counts() -> None:
    texts = [
        "<think>48.8566, 2.3522</think>",
        "<think><answer>48.8566, 2.3522</answer>",
        "48.8566, 2.3522",
        "<think>a</think><answer>48.8566, 2.3522</answer><answer>-48, -177</answer>",
    ]
    got = geo_distance_reward(texts, [PARIS[0]] * 4, [PARIS[1]] * 4)
    assert got[:3] == [0.0, 0.0, 0.0] and (got[3] or 0) < 1e-5
    opened = geo_distance_reward(
        ["<answer>48.8566, 2.3522</answer>"], [PARIS[0]], [PARIS[1]], prompts=["where? <think>"]
    )
    assert opened == [0.0]


def test_gold_comes_as_two_columns_or_as_one() -> None:
    text = "<answer>48.8566, 2.3522</answer>"
    for solution in ("48.8566, 2.3522", "48.8566° N, 2.3522° E", [48.8566, 2.3522]):
        assert geo_distance_reward([text], solution=[solution]) == [1.0]
    rows = geo_distance_reward(
        [text] * 4,
        ["48.8566", None, None, PARIS[0]],
        ["2.3522", None, None, PARIS[1]],
        [None, "48.8566, 2.3522", None, "0, 0"],
    )
    assert rows == [1.0, 1.0, None, 1.0]
    assert geo_distance_reward([text], [None], [None]) == [None]
    for columns in ({}, {"latitude": [1.0]}, {"longitude": [1.0]}):
        with pytest.raises(UserError, match="no column"):
            geo_distance_reward([text], **columns)


@pytest.mark.parametrize(
    "row",
    [
        {"latitude": 91.0, "longitude": 0.0},
        {"latitude": 0.0, "longitude": -180.5},
        {"latitude": math.nan, "longitude": 0.0},
        {"latitude": math.inf, "longitude": 0.0},
        {"latitude": 48.0, "longitude": None},
        {"latitude": True, "longitude": 0.0},
        {"latitude": "north", "longitude": 0.0},
        {"latitude": 10**400, "longitude": 0.0},
        {"solution": "Paris"},
        {"solution": ""},
        {"solution": 48.0},
        {"solution": [48.0]},
    ],
)
def test_gold_that_is_no_place_is_an_error_that_names_the_row(row: dict) -> None:
    columns = {name: [value] for name, value in row.items()}
    with pytest.raises(UserError, match="row `g3`"):
        geo_distance_reward(["x"], id=["g3"], **columns)
    assert [index for index, _ in row_problems([{}, row])] == [1]


@pytest.mark.parametrize("scale", [0, -1.0, math.nan, math.inf])
def test_a_scale_that_makes_no_sense_is_an_error(scale: float) -> None:
    with pytest.raises(UserError, match="scale_km"):
        score("0, 0", scale_km=scale)


@settings(max_examples=200, deadline=None)
@given(LATITUDES, LONGITUDES)
def test_a_written_place_is_read_back(latitude: float, longitude: float) -> None:
    north, east = round(latitude, 4), round(longitude, 4)
    for text in (f"{north:.4f}, {east:.4f}", f"{east:.4f}° lon, {north:.4f}° lat"):
        assert read_coordinates(text) == pytest.approx((north, east))
    sides = f"{abs(north):.4f}{'S' if north < 0 else 'N'} {abs(east):.4f}{'W' if east < 0 else 'E'}"
    assert read_coordinates(sides) == pytest.approx((north, east))


PIECES = ["48", ".5", "-", "°", "'", '"', "N", "E", " ", ",", "lat", "lon", "#", "\x00", "\ud800",
          "</answer>", "<answer>", "٤٨", "²", "\\circ", "nan"]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.text(alphabet=st.characters(exclude_categories=()), max_size=100),
        st.lists(st.sampled_from(PIECES), max_size=12).map("".join),
    )
)
def test_any_text_gets_a_reward_in_range(text: str) -> None:
    for completion in (text, f"<answer>{text}</answer>", [{"role": "assistant", "content": text}]):
        (value,) = geo_distance_reward([completion], [48.0], [2.0])
        assert value is not None and 0.0 <= value <= 1.0


@pytest.mark.parametrize("piece", ["1", "1.", "48, 2 ", "°", " ", "\x00", "'", "<answer>"])
def test_a_megabyte_is_only_long(piece: str) -> None:
    assert score(piece * (1_000_000 // len(piece))) == 0.0
