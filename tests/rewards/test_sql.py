"""The SQL reward: result sets on seeded databases, and what a query may not do."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1pipe.errors import UserError
from r1pipe.rewards.sql import query_in, row_problems, sql_reward

SHOP = """
CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, price REAL, stock INTEGER);
INSERT INTO item VALUES (1, 'pen', 1.5, 10), (2, 'ink', 4.0, 0), (3, 'pad', 4.0, 7),
                        (4, 'cup', 0.1, 2), (5, NULL, 0.2, 2);
CREATE TABLE sale (item INTEGER REFERENCES item, count INTEGER);
INSERT INTO sale VALUES (1, 2), (1, 1), (3, 4);
"""
OTHER = SHOP + "INSERT INTO item VALUES (6, 'bag', 9.0, 1); INSERT INTO sale VALUES (6, 5);"
NAMES = "SELECT name FROM item WHERE price > 1"


def solved(query: str) -> str:
    return f"<think>so</think><answer>{query}</answer>"


def score(query: str, gold=NAMES, database=SHOP, **options) -> float | None:
    return sql_reward([solved(query)], [gold], [database], **options)[0]


@pytest.mark.parametrize(
    ("query", "gold"),
    [
        (NAMES, NAMES),
        (NAMES + ";", NAMES),
        ("```sql\nSELECT name FROM item WHERE price > 1;\n```", NAMES),
        ("```\nSELECT name FROM item WHERE price > 1\n```", NAMES),
        ("The query:\n```sqlite\n" + NAMES + "\n```\nIt filters by price.", NAMES),
        ("-- all\nSELECT name AS n FROM item WHERE 1 < price ORDER BY name DESC", NAMES),
        ("WITH dear AS (SELECT * FROM item WHERE price > 1) SELECT name FROM dear", NAMES),
        ("SELECT count(*) * 1.0 FROM item", "SELECT count(*) FROM item"),
        ("SELECT 0.2 + 0.1, id FROM item", "SELECT 0.3, id FROM item"),
        ("SELECT sum(price) FROM (SELECT * FROM item ORDER BY id DESC)",
         "SELECT sum(price) FROM item"),
        ("SELECT name FROM item WHERE id > 3", "SELECT name FROM item WHERE stock = 2"),
        ("SELECT name FROM item ORDER BY price DESC, id",
         "SELECT name FROM item ORDER BY price DESC"),
        ("SELECT name FROM item ORDER BY price DESC, id DESC",
         "SELECT name FROM item ORDER BY price DESC"),
        ("SELECT id FROM item ORDER BY price DESC, id DESC LIMIT 4",
         "SELECT id FROM item ORDER BY price DESC /* ties */ LIMIT 4 -- so"),
        ("SELECT stock, count(*) FROM item GROUP BY stock ORDER BY 2 DESC, 1 DESC",
         "SELECT stock, count(*) FROM item GROUP BY stock ORDER BY count(*) DESC"),
        ("SELECT id FROM item UNION SELECT 9 ORDER BY id",
         "SELECT id FROM item UNION SELECT 9 ORDER BY id"),
        ("SELECT count(*) FROM sqlite_master WHERE type = 'table'",
         "SELECT count(*) FROM sqlite_master WHERE type = 'table'"),
        (NAMES, [["pen"], ["ink"], ["pad"]]),
        (NAMES, '[["pad"], ["ink"], ["pen"]]'),
        ("SELECT name, stock FROM item WHERE id = 5", [[None, 2]]),
    ],
)  # fmt: skip
def test_the_same_result_is_right(query: str, gold) -> None:
    assert score(query, gold) == 1.0


@pytest.mark.parametrize(
    ("query", "gold"),
    [
        ("SELECT name FROM item", NAMES),
        ("SELECT name, id FROM item WHERE price > 1", NAMES),
        ("SELECT DISTINCT price FROM item", "SELECT price FROM item"),
        ("SELECT CAST(stock AS TEXT) FROM item", "SELECT stock FROM item"),
        ("SELECT coalesce(name, '') FROM item", "SELECT name FROM item"),
        ("SELECT stock + 1e-6 FROM item", "SELECT stock FROM item"),
        ("SELECT 9007199254740993 FROM item", "SELECT 9007199254740992 FROM item"),
        ("SELECT name FROM item ORDER BY price", "SELECT name FROM item ORDER BY price DESC"),
        ("SELECT id FROM item ORDER BY id DESC", "SELECT id FROM item ORDER BY id"),
        ("SELECT 5", "SELECT count(*) FROM item"),
        ("VALUES ('pen'), ('ink'), ('pad')", NAMES),
        ("VALUES ('pen'), ('ink'), ('pad')", [["pen"], ["ink"], ["pad"]]),
        ("", NAMES),
        ("SELEC name", NAMES),
        ("pen, ink, pad", NAMES),
        (NAMES + "; " + NAMES, NAMES),
        (f"```sql\n{NAMES}\n```\n```sql\nSELECT 1\n```", NAMES),
        ("-- nothing", NAMES),
    ],
)
def test_another_result_is_wrong(query: str, gold) -> None:
    assert score(query, gold) == 0.0


def test_order_counts_as_told() -> None:
    backwards, gold = "SELECT id FROM item ORDER BY id DESC", "SELECT id FROM item ORDER BY id"
    assert score(backwards, gold, ordered=False) == 1.0
    assert score(backwards, "SELECT id FROM item", ordered=True) == 0.0
    inside = "SELECT id FROM (SELECT id FROM item ORDER BY id) -- ORDER BY id"
    assert score(backwards, inside) == 1.0
    assert score(backwards, "SELECT id, 'ORDER BY' FROM item") == 0.0
    assert score("SELECT id FROM item", [[5], [4], [3], [2], [1]], ordered=True) == 0.0


@pytest.mark.parametrize(
    "query",
    [
        "INSERT INTO item VALUES (9, 'x', 1, 1) RETURNING name",
        "DELETE FROM item",
        "DROP TABLE item",
        "CREATE TABLE x AS SELECT 1",
        "ATTACH '{file}' AS x",
        "VACUUM INTO '{file}'",
        "PRAGMA table_info(item)",
        "SELECT name FROM pragma_table_info('item')",
        "SELECT load_extension('{file}')",
        "SELECT writefile('{file}', 'x')",
        "SELECT zeroblob(1000000000) FROM item",
        "SELECT printf('%.*c', 1000000000, 'x') FROM item",
        "BEGIN",
        "SELECT name FROM item\0WHERE 1",
        "SELECT '\ud800' FROM item",
        "SELECT " + "(" * 5000 + "1" + ")" * 5000,
    ],
)
def test_a_query_only_reads(query: str, tmp_path: Path) -> None:
    assert score(query.replace("{file}", str(tmp_path / "made"))) == 0.0
    assert not list(tmp_path.iterdir())


def test_a_query_without_end_costs_its_limit() -> None:
    endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) "
    queries = [
        endless + "SELECT count(*) FROM c",
        endless + "SELECT x FROM c",
        endless + "SELECT name FROM item, c ORDER BY x",
        "SELECT count(*) FROM " + ", ".join(f"item AS t{i}" for i in range(30)),
        "SELECT group_concat(hex(zeroblob(1000000))) FROM item, item, item, item, item",
        NAMES,
    ]
    told: dict[str, float] = {}
    rewards = sql_reward(
        [solved(query) for query in queries],
        [NAMES] * len(queries),
        [SHOP] * len(queries),
        timeout=0.5,
        log_metric=told.__setitem__,
    )
    assert rewards == [0.0] * 5 + [1.0]
    assert told["rewards/sql/timed_out"] >= 3


def test_all_databases_of_a_row_must_agree() -> None:
    gold = "SELECT sum(count) FROM sale"
    assert score("SELECT total(count) FROM sale", gold, [SHOP, OTHER]) == 1.0
    assert score("SELECT 7 FROM sale LIMIT 1", gold, SHOP) == 1.0
    assert score("SELECT 7 FROM sale LIMIT 1", gold, [SHOP, OTHER]) == 0.0


def test_columns_are_counted_where_there_are_no_rows() -> None:
    gold, empty = "SELECT name FROM item WHERE price > 5", [OTHER, SHOP]
    assert score(gold, gold, empty) == 1.0
    assert score("SELECT name, id FROM item WHERE price > 50", gold, SHOP) == 0.0


def test_a_row_without_gold_is_not_rewarded() -> None:
    texts = [solved(NAMES)] * 2
    assert sql_reward(texts, [NAMES, None], [SHOP, SHOP]) == [1.0, None]
    assert sql_reward(texts, [NAMES, NAMES], [None, SHOP]) == [None, 1.0]
    assert sql_reward(["no block", texts[0]], [NAMES] * 2, [SHOP] * 2) == [0.0, 1.0]
    with pytest.raises(UserError, match="no column `database`"):
        sql_reward(texts, [NAMES] * 2)


@pytest.mark.parametrize(
    ("gold", "database", "what"),
    [
        ("SELECT colour FROM item", SHOP, "gold query fails: no such column"),
        ("DELETE FROM item", SHOP, "gold query fails"),
        ("", SHOP, "neither a query nor a list of rows"),
        ([1, 2], SHOP, "neither a query nor a list of rows"),
        ("[[1, 2]", SHOP, "no JSON"),
        (NAMES, "CREATE TABL", "database script fails"),
        (NAMES, f"ATTACH '/tmp/x' AS y; {SHOP}", "database script fails"),
        (NAMES, [], "neither an SQL script nor a list"),
        (NAMES, 3, "neither an SQL script nor a list"),
        ([["pen"]], [SHOP, OTHER], "give a gold query"),
    ],
)
def test_bad_gold_is_an_error_that_names_the_row(gold, database, what: str) -> None:
    with pytest.raises(UserError, match=f"row `s-1`: .*{what}"):
        score(NAMES, gold, database, id=["s-1"])
    good = {"solution": NAMES, "database": SHOP}
    problems = row_problems([good, {"solution": gold, "database": database}])
    assert [index for index, _ in problems] == [1] and what in problems[0][1]


def test_gold_that_tells_nothing_apart_is_a_bad_row() -> None:
    nothing = "SELECT name FROM item WHERE price > 5"
    rows = [
        {"solution": nothing, "database": SHOP},
        {"solution": nothing, "database": [SHOP, OTHER]},
    ]
    assert [index for index, _ in row_problems(rows)] == [0]


def test_the_answer_and_its_fence() -> None:
    assert query_in("```sql\nSELECT 1\n```") == "SELECT 1"
    assert query_in("```SELECT 1```") == "SELECT 1"
    assert query_in("SELECT 1") == "SELECT 1"
    assert query_in("```sql\n```") is query_in(None) is query_in(" ") is None


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=200), st.sampled_from(["", "SELECT ", "SELECT name FROM item "]))
def test_any_text_is_only_wrong(text: str, start: str) -> None:
    assert score(start + text) in (0.0, 1.0)


def test_a_million_characters() -> None:
    assert score("SELECT " + "1+" * 500_000 + "1") == 0.0
    assert score("`" * 1_000_000) == 0.0
