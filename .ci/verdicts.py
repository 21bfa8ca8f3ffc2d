"""Copies the verdicts of results/reference/claims.md into the table of claims in docs/paper.md.

python .ci/verdicts.py     after: python -m studies claims --results results/reference
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LEDGER, PAGE = ROOT / "results" / "reference" / "claims.md", ROOT / "docs" / "paper.md"
CLAIMS = "## Claims"
SAID = 2  # the column of what our runs say


@dataclass(frozen=True)
class Row:
    """A claim in the ledger; `preset` is empty for what is the same at every preset."""

    preset: str
    claim: str
    where: str
    verdict: str
    effect: str
    interval: str


def rows(ledger: str) -> list[Row]:
    """Every claim at every preset of the ledger."""
    found: list[Row] = []
    preset = ""
    for line in ledger.splitlines():
        if line.startswith("## "):
            preset = "".join(re.findall(r"`.+`", line))
        elif line.startswith("| ") and not line.startswith(("| Claim |", "| ---")):
            found.append(Row(preset, *cells(line)[:5]))
    return found


def verdicts(ledger: str) -> dict[str, str]:
    """By the text of a claim: verdict and effect, at each preset of the ledger."""
    found: dict[str, list[str]] = {}
    for row in rows(ledger):
        said = f"{row.verdict}: {f'{row.effect} {row.interval}'.strip()}" if row.effect else row.verdict
        found.setdefault(row.claim, []).append(f"{row.preset} {said}".strip())
    return {claim: "; ".join(said) for claim, said in found.items()}


def updated(page: str, ledger: str) -> str:
    """The page with today's verdicts. Raises KeyError for a claim that the ledger does not have."""
    known = verdicts(ledger)
    before, title, claims = page.partition(CLAIMS)
    lines = claims.splitlines()
    for number, line in enumerate(lines):
        if line.startswith("| ") and not line.startswith(("| claim |", "|---")):
            row = cells(line)
            row[SAID] = known[row[0]]
            lines[number] = f"| {' | '.join(row)} |"
    return before + title + "\n".join(lines) + "\n"


def cells(line: str) -> list[str]:
    """The cells of a row of a table."""
    return [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")]


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text(), LEDGER.read_text()))
