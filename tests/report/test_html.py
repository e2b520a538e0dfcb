"""The page stands alone, shows what was measured, and runs nothing that a model wrote."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import json
import re
import shutil
from pathlib import Path

import pytest

from r1pipe.report import write_report
from r1pipe.report.collect import collect
from r1pipe.report.html import config_changes, flat, interval
from r1pipe.report.records import Estimate
from tests.report.fake_run import CHAIN, write_fake_run

PAIR = (CHAIN[0], CHAIN[2])  # base, r1_zero
HOSTILE = [
    "<script>alert(1)</script>",
    "</style></script><img src=x onerror=alert(1)>",
    "<think>{{ 7 * 7 }}{% raw %}</think><answer><svg onload=alert(1)></answer>",
    "&lt;b&gt; ' \" ]]> --> \x00\x07\x1b[31m \u202e\u2066 $x^2$",
    "\ud800 lone surrogate",
    "<think>" * 5000,
    "x" * 300_000,
]


class Outline(html.parser.HTMLParser):
    """Collects the tags, ids and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            self.attributes.append((tag, name, value or ""))
            if name == "id":
                self.ids.append(value or "")


def test_nothing_on_the_page_points_outside(full_page: str) -> None:
    outline = Outline(full_page)
    assert not {"link", "img", "iframe", "object", "embed", "base", "form"} & set(outline.tags)
    assert "src" not in {name for _, name, _ in outline.attributes}
    assert all(v.startswith("#") for _, n, v in outline.attributes if n in ("href", "xlink:href"))
    assert not re.search(r"https?:|url\((?!#)|@import", full_page)


def test_the_policy_allows_this_script_alone(full_page: str) -> None:
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', full_page)
    script = re.findall(r"<script>(.*?)</script>", full_page, re.DOTALL)
    assert policy is not None and len(script) == 1
    expected = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    assert "default-src 'none'" in policy[1]
    assert f"script-src 'sha256-{expected}'" in policy[1]


def test_ids_are_unique_and_links_lead_somewhere(full_page: str) -> None:
    outline = Outline(full_page)
    assert len(outline.ids) == len(set(outline.ids))
    targets = {value[1:] for _, name, value in outline.attributes if name == "href"}
    assert targets <= set(outline.ids)
    assert set(re.findall(r"url\(#([^)]+)\)", full_page)) <= set(outline.ids)


def test_sections_tables_and_pictures_are_there_and_labelled(full_page: str) -> None:
    outline = Outline(full_page)
    wanted = {"gains", "lineage", "time", "samples", "measured"}
    assert wanted | {f"stage-{plan.name}" for plan in CHAIN} <= set(outline.ids)
    pictures = outline.tags.count("svg")
    labels = [v for tag, name, v in outline.attributes if (tag, name) == ("svg", "aria-label")]
    assert pictures == len(labels) > 60 and all(labels)
    assert 'scope="row"' in full_page and 'lang="en"' in full_page
    assert "prefers-color-scheme: dark" in full_page and "@media print" in full_page


def test_figures_stand_with_their_intervals(full_run: Path, full_page: str) -> None:
    final = collect(full_run).stage("all_domain_grpo")
    assert final is not None
    accuracy = final.evaluation["t1"].accuracy
    assert accuracy is not None
    cell = f"{100 * accuracy.mean:.1f}<small>{interval(accuracy)}</small>"
    assert cell in full_page and "▲</span><small>" in full_page


def test_the_page_is_small_and_its_picture_is_written(full_run: Path, full_page: str) -> None:
    assert len(full_page.encode()) < 5_000_000
    assert (full_run / "report.png").read_bytes().startswith(b"\x89PNG")


def test_samples_before_and_after_are_of_the_same_problems(full_page: str) -> None:
    assert "before: cold_start_sft" in full_page and "after: reasoning_grpo" in full_page
    assert "Samples written during training" in full_page
    assert '<span class="zh" lang="zh">' in full_page and '<span class="b think">' in full_page


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_completions_are_text(tmp_path: Path, text: str) -> None:
    run_dir = write_fake_run(tmp_path / "run", per_task=50, chain=PAIR)
    for name in ("base_eval", "r1_zero_eval"):
        path = run_dir / name / "samples.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows:
            row["completion"] = row["prompt"] = row["answer"] = row["task"] = text[:400_000]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = write_report(run_dir).read_text(encoding="utf-8")
    outline = Outline(page)
    assert outline.tags.count("script") == 1 and "img" not in outline.tags
    assert not [name for _, name, _ in outline.attributes if name.startswith("on")]
    assert not re.search("[\x00\x07\x1b\u202e\u2066]", page)
    assert "{{ 7 * 7 }}" in page or "7 * 7" not in text
    assert len(page) < 2_000_000


def test_hostile_names_and_settings_are_text(tmp_path: Path) -> None:
    run_dir = write_fake_run(tmp_path / "run", per_task=50, chain=PAIR)
    path = run_dir / "r1_zero" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["config"]["trainer"]["<script>alert(2)</script>"] = "</pre><script>alert(3)</script>"
    manifest["versions"] = {"<img src=x>": "<b>"}
    manifest["machine"] = {"processor": "<img src=y>", "threads": "<b>", "gpus": []}
    path.write_text(json.dumps(manifest))
    metrics = run_dir / "r1_zero" / "metrics.jsonl"
    metrics.write_text(
        '{"step": 1, "reward": 1, "rewards/<script>$a_b$/mean": 1, "rewards/y/mean": 2}\n'
    )
    outline = Outline(write_report(run_dir).read_text(encoding="utf-8"))
    assert outline.tags.count("script") == 1 and "img" not in outline.tags


def test_a_half_finished_run_has_a_page(tmp_path: Path) -> None:
    run_dir = write_fake_run(tmp_path / "run", per_task=50, chain=CHAIN[:5])
    shutil.rmtree(run_dir / "cold_start_sft_eval")
    shutil.rmtree(run_dir / "r1_zero_eval")
    shutil.rmtree(run_dir / "cold_start_data")
    partial = run_dir / ".partial" / "cold_start_sft"
    partial.parent.mkdir()
    shutil.move(run_dir / "cold_start_sft", partial)
    (partial / "manifest.json").unlink()
    (partial / "logs").mkdir()
    (partial / "logs" / "attempt_1.log").write_bytes(b"loss <b>nan</b> \xff\x00\n")
    page = write_report(run_dir).read_text(encoding="utf-8")
    assert "unfinished" in page and "not run" in page
    assert "loss &lt;b&gt;nan&lt;/b&gt;" in page
    assert "finished models are not evaluated" in page


def test_a_run_without_anything_measured_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "resolved.yaml").write_text("{name: mine, stages: {a: {kind: grpo}}}")
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "no model has been evaluated yet" in page and "stage-a" in page
    assert not (tmp_path / "report.png").exists()


def test_only_real_differences_of_settings_are_listed(full_run: Path) -> None:
    run = collect(full_run)
    before, after = run.stage("r1_zero"), run.stage("reasoning_grpo")
    assert before is not None and after is not None
    changes = {key: (old, new) for key, old, new in config_changes(run, before, after)}
    assert changes["init_from"] == ("base", "cold_start_sft")
    assert changes["trainer.beta"] == ("0.0", "0.001")
    assert changes["rewards.language.weight"] == (None, "0.3")
    assert "trainer.learning_rate" not in changes and "output_dir" not in changes


def test_flat_keeps_lists_and_empty_mappings() -> None:
    assert flat({"a": {"b": 1, "c": []}, "d": {}}) == {"a.b": 1, "a.c": [], "d": {}}


def test_intervals_below_zero_are_joined_by_a_word() -> None:
    assert interval(Estimate(0.5, 0.4, 0.6, 9)) == "40.0–60.0"
    assert interval(Estimate(0.0, -0.1, 0.1, 9)) == "−10.0 to 10.0"


def test_wrong_answers_and_further_domains_are_shown(tmp_path: Path) -> None:
    run_dir = write_fake_run(tmp_path / "run", per_task=50, chain=PAIR)
    folder = run_dir / "r1_zero_eval"
    row = {"id": "x", "prompt": "compute 7+8\n", "answer": "15", "domain": "reasoning"}
    said = {"task": "add", "decoding": "greedy", "completion": "<b>fourteen</b>", "rewards": {}}
    (folder / "wrong.jsonl").write_text(json.dumps({**row, **said}) + "\n", encoding="utf-8")
    path = folder / "evaluation.json"
    scores = json.loads(path.read_text(encoding="utf-8"))
    beyond = {"accuracy": {"mean": 0.123, "low": 0.1, "high": 0.15, "n": 500}}
    scores["decodings"]["greedy"]["domains"]["out_of_range"] = beyond
    path.write_text(json.dumps(scores), encoding="utf-8")
    page = write_report(run_dir).read_text(encoding="utf-8")
    assert "First wrong answers" in page and ">fourteen</span>&lt;/b&gt;" in page
    assert "out of range" in page and "12.3" in page
