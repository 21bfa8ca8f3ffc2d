"""The page of a study: what it says, what it may hold, and that the same results give the same bytes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from analysis import cells, stats
from analysis.report import facts, front, page, tables
from analysis.report.verdict import verdict
from analysis.results import StudyResults
from studies.__main__ import main
from studies.study import study
from tests import fakes

ROOT = Path(__file__).resolve().parents[2]
MOST = 5_000_000  # bytes of a page
REFERENCE = ROOT / "results" / "reference"
WEIGHTS = ("*.safetensors", "checkpoints", "snapshots", "train", "heldout", "lock", "log")


@pytest.fixture(scope="module")
def ablation(tmp_path_factory: pytest.TempPathFactory) -> StudyResults:
    return fakes.ablation(tmp_path_factory.mktemp("results"), seeds=3, unfinished=("no_dual",))


@pytest.fixture(scope="module")
def text(ablation: StudyResults) -> str:
    return page.write(ablation)[0].read_text()


class Addresses(HTMLParser):
    """Everything a page would load or lead to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("src", "href", "action", "srcset")]


def test_a_page_loads_nothing_and_is_smaller_than_5_mb(text: str) -> None:
    assert len(text.encode()) < MOST
    assert {re.split("[:,]|(?<=#)", address)[0] for address in Addresses(text).found} <= {"data", "#"}
    assert "default-src 'none'" in text


def test_the_verdict_comes_first_and_names_each_comparison_once(ablation: StudyResults, text: str) -> None:
    found = verdict(ablation)
    others = len(fakes.VARIANTS) - 1
    comparisons = others + others - 1  # with FVAR, and with VAR but for FVAR, which was compared with it already
    assert len(found.sentences) == comparisons
    assert text.index('id="verdict"') < text.index('id="table"') < text.index('id="convergence"')
    separated = sum(sentence.outcome == "separated" for sentence in found.sentences)
    assert found.headline.startswith(f"{separated} of {comparisons} comparisons are separated in KID.")
    not_made = [sentence.text for sentence in found.sentences if sentence.outcome == "not made"]
    assert any("no_dual/seed0 is waiting" in sentence for sentence in not_made)


def test_a_sentence_says_separated_only_where_holms_p_is_small_and_better_by_the_sign(tmp_path: Path) -> None:
    """KID of the fakes falls by 0.01 from one variant to the next, with a spread of 0.002."""
    sentences = {
        sentence.text.partition(": ")[0]: sentence for sentence in verdict(fakes.ablation(tmp_path, 3)).sentences
    }
    best = sentences["w/o dual tokenizers is better than VAR (baseline)"]
    assert best.outcome == "separated"
    p = re.search(r"Holm's p (?:< )?([\d.]+)", best.text)
    assert p
    assert float(p[1]) <= stats.ALPHA
    for sentence in sentences.values():
        values = re.search(r"(-?[\d.]+) \[(-?[\d.]+), (-?[\d.]+)\]", sentence.text)
        assert values
        mean, low, high = map(float, values.groups())
        assert low <= mean <= high
        if sentence.outcome == "separated":
            assert not low <= 0 <= high
            assert (mean < 0) == ("better" in sentence.text)


def test_one_seed_decides_nothing_and_the_verdict_says_so(tmp_path: Path) -> None:
    found = verdict(fakes.ablation(tmp_path, seeds=1))
    assert found.headline.startswith("Undecided. No comparison can be made in KID: 1 seed")
    assert {sentence.outcome for sentence in found.sentences} == {"not made"}


def test_names_that_users_give_are_text_never_markup(tmp_path: Path) -> None:
    stage = fakes.chain("full", 0)
    fakes.finish(tmp_path, stage, 0.5, 0)
    evil = "<img src=x onerror=alert(1)></script>\"'&"
    results = fakes.write_cells(tmp_path, "ablation_table2", [fakes.cell("full", 0, stage, evil)], title=evil)
    text = page.write(results)[0].read_text()
    assert "<img src=x" not in text
    assert "onerror=alert(1)&gt;" in text
    curves = re.search(r'id="curves">(.*?)</script>', text, re.DOTALL)
    assert curves
    assert json.loads(curves[1])[0]["lines"][0]["label"] == evil


def test_samples_of_a_column_have_one_class_and_place_in_every_row(ablation: StudyResults, text: str) -> None:
    alternatives = re.findall(r'alt="([^"]*): ([^":]*), sample (\d+)"', text)
    by_column: dict[tuple[str, str], list[str]] = {}
    for label, name, number in alternatives:
        by_column.setdefault((name, number), []).append(label)
    shown = [label for name, label in fakes.VARIANTS.items() if name != "no_dual"]
    assert by_column
    assert all(labels == shown for labels in by_column.values())


def test_the_command_gives_back_what_was_typed(tmp_path: Path) -> None:
    body = {
        "study": "ablation_table2", "preset": "smoke-1f0c3a", "settings": ["train.steps=7", "a=b c"],
        "row": {"name": "smoke", "data": {"dataset": "folder", "root": "my photos"}, "tokenizers_by_seed": True},
        "cells": [{"name": f"full/seed{s}", "variant": "full", "seed": s, "chain": ["scores-0"]} for s in range(3)],
    }  # fmt: skip
    place = cells.Place(tmp_path, "ablation_table2", "smoke-1f0c3a")
    place.folder.mkdir(parents=True)
    place.file.write_text(json.dumps(body))
    assert facts.command(cells.read(place)) == (
        "python -m studies.run ablation_table2 --preset smoke --seeds 3 --data 'folder:my photos' --tokenizer-seeds "
        "--set train.steps=7 --set 'a=b c'"
    )
    body["until"] = {"metric": "kid", "reference": "full", "max_seeds": 20, "margin": 2.0}
    place.file.write_text(json.dumps(body))
    assert "--until separated --max-seeds 20 --margin 2 --data" in facts.command(cells.read(place))


def test_costs_count_a_shared_stage_once_and_the_price_is_stated(tmp_path: Path) -> None:
    results = fakes.ablation(tmp_path, seeds=1)
    run = results.cells[0].chain["var"]
    span = [
        {"job": "1", end: seconds, "seen": 0, "nodes": 1, "gpus": 8} for end, seconds in (("start", 0), ("end", 1800))
    ]
    (run.path / "jobs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in span))
    bill = {part.kind: part for part in facts.cost(results)}
    assert bill["var"].gpu_hours == pytest.approx(4)
    assert sum(part.runs for part in bill.values()) == len({n for cell in results.cells for n in cell.recorded})
    text = page.write(results, price=1.5)[0].read_text()
    assert "4 GPU hours, 6.00 USD at a stated rate of 1.50 USD per GPU hour" in text


def test_failures_are_named_with_what_the_stage_said(tmp_path: Path) -> None:
    results = fakes.ablation(tmp_path, seeds=1, unfinished=("full",))
    stage = fakes.chain("full", 0)
    fakes.finish(tmp_path, stage, 0.5, 0)
    cell = results.variants()["full"][0]
    cell.chain["scores"].update(state="failed", error="Traceback\nValueError: no <images> here")
    text = page.write(results)[0].read_text()
    assert "<strong>full/seed0</strong> is failed" in text
    assert "ValueError: no &lt;images&gt; here" in text


def test_tables_of_a_study_that_writes_its_own_are_read_from_markdown(tmp_path: Path) -> None:
    lines = ["# Title", "", "- a note with `code`", "", "| A | B |", "| --- | ---: |", "| x \\| y | **1,234.5** |"]
    lines += ["", "## More", "", "| C |", "|---|", "| < 0.1 |", ""]
    (tmp_path / "table.md").write_text("\n".join(lines))
    grids, notes = tables.read(tmp_path / "table.md")
    assert [(grid.title, list(grid.headings)) for grid in grids] == [("", ["A", "B"]), ("More", ["C"])]
    assert notes == ["a note with `code`"]
    left, right = tables.cells(grids[0])[0]
    assert (left.text, left.key) == ("x | y", "")
    assert (right.text, right.key, right.bold) == ("1,234.5", "1234.5", True)


def test_the_front_page_links_every_page_there_is_and_the_claims(tmp_path: Path) -> None:
    results = fakes.ablation(tmp_path, seeds=1)
    fakes.write_cells(tmp_path, "table1", [fakes.cell("full", 0, fakes.chain("full", 0))], title="Table 1")
    (tmp_path / "claims.md").write_text(
        "# Claims\n\n| Claim | Verdict |\n|---|---|\n| refocusing helps | undecided |\n"
    )
    page.write(results)
    text = front.write(tmp_path)[0].read_text()
    addresses = Addresses(text).found
    assert "ablation_table2/smoke/index.html" in addresses
    assert "claims.md" in addresses
    assert "refocusing helps" in text
    assert "Table 1" in text
    assert "table1/smoke/index.html" not in addresses  # no page was written


def test_a_page_is_built_without_torch(ablation: StudyResults) -> None:
    code = "import sys; from studies.__main__ import main; main(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    arguments = ["report", "ablation_table2", "--html", "--results", str(ablation.folder.parents[1])]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("ablation_table2/smoke/index.html")


def test_everything_is_redrawn_byte_for_byte_from_a_copy_without_weights(tmp_path: Path) -> None:
    original, copy = tmp_path / "original", tmp_path / "copy"
    fakes.ablation(original, seeds=1)
    for run in (original / "runs").iterdir():
        (run / "model.safetensors").write_bytes(b"weights")
    assert main(["report", "--all", "--results", str(original)]) == 0
    shutil.copytree(original, copy, ignore=shutil.ignore_patterns(*WEIGHTS, "*.png", "*.pdf", "index.html", "table.*"))
    assert not list(copy.rglob("*.safetensors"))
    assert main(["report", "--all", "--results", str(copy)]) == 0
    drawn = {
        path.relative_to(original) for path in original.rglob("*") if path.suffix in (".png", ".pdf", ".html", ".md")
    }
    assert {path.name for path in drawn} >= {"index.html", "table.md", "samples.png", "pairs.pdf", "convergence.pdf"}
    for path in drawn:
        assert (copy / path).read_bytes() == (original / path).read_bytes(), path


def test_what_is_committed_is_drawn_again_byte_for_byte(tmp_path: Path) -> None:
    """Where a figure was changed on purpose: python -m studies report --all --results results/reference."""
    if not cells.started(REFERENCE):
        pytest.skip("results/reference holds no export yet: python -m studies export STUDY --preset P")
    shutil.copytree(REFERENCE, tmp_path / "copy")
    for place in cells.started(tmp_path / "copy"):
        measured = study(place.study).outputs is not None  # what such a study draws lies beside what it measured
        folder, inputs = (place.folder.parent, (".csv",)) if measured else (place.folder, ())
        drawn = [path for path in folder.iterdir() if path.suffix in (".md", ".tex", ".csv", ".png", ".pdf", ".html")]
        for path in drawn:
            needed = path.suffix in inputs or path.name in study(place.study).measured
            if not needed and (measured or path.name != "README.md"):
                path.unlink()
        assert main(["report", place.study, "--preset", place.preset, "--results", str(tmp_path / "copy")]) == 0
        for path in drawn:
            committed = REFERENCE / path.relative_to(tmp_path / "copy")
            assert path.read_bytes() == committed.read_bytes(), path.relative_to(tmp_path)


@pytest.mark.parametrize("arguments", [["report"], ["report", "ablation_table2", "--all"]])
def test_report_wants_one_study_or_all(arguments: list[str], tmp_path: Path) -> None:
    from fvar.errors import UserError

    with pytest.raises(UserError, match="name one study, or --all"):
        main([*arguments, "--results", str(tmp_path)])
