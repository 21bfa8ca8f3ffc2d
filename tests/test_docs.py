"""The pages tell the truth: they name what exists, their generated parts are up to date, and what they type works."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import ModuleType

import pytest

from analysis.metrics import MASKED, METRICS, SFID, SIZES, TEACHER
from fvar import rundir
from fvar.rundir import Status
from studies import __main__, run
from studies.claims import CLAIMS
from studies.claims.page import ledger
from studies.study import STUDIES
from studies.variants import VARIANTS

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
FOLLOWED = [page for page in PAGES if "\n```bash\n" in page.read_text()]


def script(name: str) -> ModuleType:
    """A module of .ci, which is not a package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / ".ci" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


# ------------------------------------------------------------------------------------------------------ generated parts


def test_the_picture_of_the_floors_is_that_of_the_contracts() -> None:
    floors = script("floors")
    assert floors.PICTURE.read_text() == floors.svg(floors.contracts()), "run: python .ci/floors.py"


def test_the_claims_page_has_the_verdicts_of_the_ledger() -> None:
    verdicts = script("verdicts")
    page, ledger = verdicts.PAGE.read_text(), verdicts.LEDGER.read_text()
    assert verdicts.updated(page, ledger) == page, "run: python .ci/verdicts.py"


def test_the_claims_page_has_a_row_for_every_claim_with_its_function_and_study() -> None:
    verdicts = script("verdicts")
    lines = verdicts.PAGE.read_text().partition(verdicts.CLAIMS)[2].splitlines()
    rows = [verdicts.cells(line) for line in lines if line.startswith("| ") and not line.startswith("| claim |")]
    assert [(row[0], row[1], row[3]) for row in rows] == [
        (claim.text, claim.where, f"`{claim.study}`" if claim.study else "-") for claim in CLAIMS
    ]
    for row, claim in zip(rows, CLAIMS, strict=True):
        judge = getattr(claim.judge, "func", claim.judge)
        assert row[4].endswith(f"#{judge.__module__}.{judge.__qualname__})"), row[4]


def test_every_module_stands_once_in_the_api_reference() -> None:
    listed = [name for names in script("pages").modules().values() for name in names]
    assert len(listed) == len(set(listed))
    assert {"fvar", "fvar.run", "fvar.focus.optics", "studies.engine.driver", "analysis.report.page"} <= set(listed)


def test_every_page_of_the_reference_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text()
    assert [name for name, modules in script("pages").modules().items() if not modules] == []
    assert [name for name in script("pages").modules() if f"- api/{name}.md" not in navigation] == []


# ------------------------------------------------------------------------------------------------------------- findings

FINDINGS = DOCS / "findings.md"


def found() -> dict[str, str]:
    """The page's paragraphs by the claims that are their headings."""
    parts = re.split(r"^#{2,3} (.+)$", FINDINGS.read_text(), flags=re.MULTILINE)[1:]
    return {title: " ".join(text.split()) for title, text in zip(parts[::2], parts[1::2], strict=True)}


def test_the_findings_have_verdict_effect_and_interval_of_every_claim_that_was_measured() -> None:
    verdicts, paragraphs = script("verdicts"), found()
    rows = verdicts.rows(verdicts.LEDGER.read_text())
    measured = [row for row in rows if row.verdict.strip("*") != "not measured" and row.preset in ("", "`desk`")]
    assert [row.claim for row in measured if row.claim not in paragraphs] == []
    for row in measured:
        said = paragraphs[row.claim]
        assert f"**{row.verdict.strip('*').capitalize()}**" in said, row
        assert all(text in said for text in (row.effect, row.interval)), row


@pytest.mark.parametrize("page", [ROOT / "README.md", FINDINGS])
def test_the_pages_quote_the_table_that_is_kept(page: Path) -> None:
    """Every row of a variant: its number, then its difference from the full method and the interval that holds."""
    kept = (ROOT / "results" / "reference" / "ablation_table2" / "desk" / "table.md").read_text()
    cells = script("verdicts").cells
    rows = [cells(line) for line in kept.splitlines() if line.startswith("| ")]
    _, *values = next(row for row in rows if row[0] == "Variant")
    kid = next(place for place, heading in enumerate(values) if heading.startswith("KID@"))
    quoted = {row[0]: row[1:] for line in page.read_text().splitlines() for row in [cells(line)] if len(row) == 4}
    table = rows[rows.index(["Variant", *values]) :]
    measured = {row[0]: row[1 + kid].partition(" (")[0] for row in table[2 : 2 + len(VARIANTS)]}
    differences = {row[0]: row[2:4] for row in kept_section(kept, "Verdicts", cells)[2:]}
    if not differences:  # no seeds were added by looking at the scores: the plain intervals hold
        heading, _, *body = kept_section(kept, "Differences to FVAR (full)", cells)
        at = next(place for place, name in enumerate(heading) if name.startswith("KID@"))
        differences = {row[0]: row[at : at + 2] for row in body}
    assert list(measured) == [variant.label for variant in VARIANTS.values()]
    for label, value in measured.items():
        assert quoted[label] == [value, *differences.get(label, ["", ""])], label


def kept_section(text: str, title: str, cells: Callable[[str], list[str]]) -> list[list[str]]:
    """The lines of the table under a heading, with its own two."""
    lines = text.partition(f"## {title}")[2].partition("##")[0].splitlines()
    return [cells(line) for line in lines if line.startswith("| ")]


def test_the_page_quotes_what_the_gpu_check_measured() -> None:
    """Milliseconds, and how many times faster than the original's."""
    kept = json.loads((ROOT / "results" / "gpu" / "nvidia-h200.json").read_text())
    took = {(row["part"], row["case"]): 1e3 * row["seconds"] for row in kept["measured"]}
    cells = script("verdicts").cells
    quoted = {
        row[0]: row[1:] for line in (DOCS / "cluster.md").read_text().splitlines() for row in [cells(line)] if row
    }
    parts = ("step-d16", "step-d24", "sampling-d16", "sampling-d24")
    ours = {"step-d16": "student", "step-d24": "student", "sampling-d16": "bf16", "sampling-d24": "bf16"}
    assert quoted["original"] == [f"{took[part, 'original']:.0f} ms" for part in parts]
    assert quoted["fvar"] == [
        f"{took[part, ours[part]]:.0f} ms, {took[part, 'original'] / took[part, ours[part]]:.2f}x" for part in parts
    ]
    compiled = took["compiled-d16", "student, compiled"]
    assert quoted["fvar, compiled"][0] == f"{compiled:.0f} ms, {took['step-d16', 'original'] / compiled:.2f}x"
    for trunk in ("shared", "separate"):
        assert quoted[f"fvar, {trunk} teacher"][0] == f"{took['step-d16', f'{trunk} teacher']:.0f} ms"


def test_the_findings_say_what_would_decide_at_the_papers_scale_and_what_that_costs(tmp_path: Path) -> None:
    text = " ".join(FINDINGS.read_text().split())
    for line in ledger(tmp_path, "paper"):
        if line.command and line.price != "nothing to train":
            command = line.command.replace(f" --results {shlex.quote(str(tmp_path))}", "")
            assert f"`{command}`, {line.price.replace('GPU', 'A100')}" in text, line.claim.text


# -------------------------------------------------------------------------------------------------------- run directory

RUN_DIRECTORY = (DOCS / "run-directory.md").read_text()


def named(name: str) -> bool:
    """Whether the page has a name in backticks, its numbers as the page writes them: usage/4 is `usage/<side>`."""
    name = re.sub(r"scale\d+$", "scale<k>", name)
    name = re.sub(r"/\d+$", "/<side>", name)
    return f"`{name}`" in RUN_DIRECTORY


def test_the_page_names_every_metric_of_the_tables() -> None:
    metrics = (*METRICS, SFID, TEACHER, *MASKED, *SIZES)
    assert [metric.key for metric in metrics if not named(metric.key)] == []


def test_the_page_names_every_metric_that_a_stage_left_in_the_canary() -> None:
    recorded = json.loads((ROOT / "tests" / "golden" / "canary" / "values.json").read_text())
    names = {
        name.partition("/")[2] if kind.startswith(("tokenizer", "var")) else name
        for kind, body in recorded.items()
        if kind.startswith(("tokenizer", "var", "scores"))
        for name in body["values"]
    }
    assert len(names) > 50
    assert sorted(name for name in names if not named(name)) == []


def test_the_page_names_every_field_of_the_status_and_every_file() -> None:
    assert [field.name for field in fields(Status) if f"`{field.name}`" not in RUN_DIRECTORY] == []
    docstrings = "".join(path.read_text() for path in (ROOT / "fvar" / "stages").glob("*.py"))
    files = set(re.findall(r"\b\w+\.(?:npz|safetensors|png|json|jsonl)\b", docstrings + (rundir.__doc__ or "")))
    assert sorted(file for file in files if f"`{file}`" not in RUN_DIRECTORY) == []


# ------------------------------------------------------------------------------------------------------------- commands


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_every_study_that_a_page_runs_exists(page: Path) -> None:
    text = page.read_text()
    of_plugins = set(re.findall(r"python -m studies\.run ([a-z_0-9]+) --plugin", text))
    assert set(re.findall(r"python -m studies\.run ([a-z_0-9]+)", text)) - of_plugins <= set(STUDIES)


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_every_command_line_of_a_block_is_understood(page: Path) -> None:
    """Lines such as `python -m studies status STUDY   where it stands`: what follows three spaces explains."""
    text = re.sub(r"\$\(.*?\)", "", page.read_text())
    for module, line in re.findall(r"^(?:    )?python -m (studies|studies\.run) (.*)$", text, re.M):
        parser = run.parser() if module == "studies.run" else __main__.parser()
        parser.parse_args(shlex.split(re.split(r" {3,}", line)[0]))  # exits where it does not


def test_the_page_on_plugins_quotes_the_example_as_it_is() -> None:
    code = (DOCS / "examples" / "classifier_study.py").read_text()
    assert f"```python\n{code}```\n" in (DOCS / "your-model.md").read_text()


# --------------------------------------------------------------------------------------------- what pages say to type

FENCE = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.M | re.S)


def blocks(page: Path) -> list[tuple[str, str, str]]:
    """Language, file name (or "") and text of a page's blocks."""
    return FENCE.findall(page.read_text())


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `git clone` gives, with the environment of this one."""
    made = tmp_path_factory.mktemp("newcomer") / "fvar"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(made)], check=True)
    (made / ".venv").symlink_to(sys.prefix)
    return made


@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", FOLLOWED, ids=lambda page: page.name)
def test_a_page_can_be_followed_by_copy_and_paste(page: Path, clone: Path) -> None:
    """Blocks with a title are files; the bash blocks run one after another in one shell, as typed."""
    found = blocks(page)
    for _, name, text in found:
        if name:
            (clone / name).write_text(text)
    typed = "\n".join(text for language, name, text in found if language == "bash" and not name)
    environment = os.environ | {"PYTHONPATH": str(clone), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", typed], cwd=clone, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
