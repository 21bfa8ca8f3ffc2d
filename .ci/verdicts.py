"""Copies the verdicts of results/claims.md into the table of claims in docs/paper.md.

python .ci/verdicts.py          after `python -m studies claims`; tests/test_docs.py fails until it was done
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LEDGER, PAGE = ROOT / "results" / "claims.md", ROOT / "docs" / "paper.md"
CLAIMS = "## Claims"
SAID = 2  # the column of what our runs say


def verdicts(ledger: str) -> dict[str, str]:
    """By the text of a claim: verdict and effect, at each preset of the ledger."""
    found: dict[str, list[str]] = {}
    preset = ""
    for line in ledger.splitlines():
        if line.startswith("## "):
            preset = "".join(re.findall(r"`.+`", line))
        elif line.startswith("| ") and not line.startswith(("| Claim |", "| ---")):
            claim, _, verdict, effect, interval, *_ = cells(line)
            said = f"{verdict}: {f'{effect} {interval}'.strip()}" if effect else verdict
            found.setdefault(claim, []).append(f"{preset} {said}".strip())
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
