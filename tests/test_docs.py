"""The pages tell the truth: they name what exists, their generated parts are up to date, and what they type works."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from studies.claims import CLAIMS
from studies.study import STUDIES

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
        assert row[2].endswith(f"#{judge.__module__}.{judge.__qualname__})"), row[2]


def test_every_module_stands_once_in_the_api_reference() -> None:
    listed = re.findall(r"^::: ([\w.]+)$", "".join(page.read_text() for page in DOCS.glob("api/*.md")), re.M)
    assert len(listed) == len(set(listed))
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for package in ("fvar", "analysis", "studies")
        for path in (ROOT / package).rglob("*.py")
        if path.stem != "__main__"
    }
    assert set(listed) == modules, "each module has a line `::: name` in the page of its package in docs/api"


# ------------------------------------------------------------------------------------------------------------- commands


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_every_study_that_a_page_runs_exists(page: Path) -> None:
    named = set(re.findall(r"python -m studies\.run ([a-z_0-9]+)", page.read_text()))
    assert named <= {*STUDIES, "my_study"}


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
