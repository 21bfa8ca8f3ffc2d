"""The ledger of claims: what the two published texts say, held against what was measured here.

    python -m studies claims --preset smoke

A claim is a small function from results on disk to supported, refuted or undecided, with effect and interval. What was
not measured is called just that. Claims that are mathematics or arithmetic are computed, whatever the preset.

    claim.py     what a claim and its finding are; how paired differences become a verdict
    ablation.py  Table 2 and Figure 5           sizes.py  Table 1, and speed
    controls.py  what the paper's own comparisons leave open, and Figure 4
    optics.py    Sec. 3.1, 3.2 and 3.4          tokens.py text, codes, alias tokens
    bill.py      what the teacher costs         page.py   the ledger as a page, with what would decide a claim
"""

from __future__ import annotations

from studies.claims import ablation, bill, controls, optics, sizes, tokens
from studies.claims.claim import Claim

CLAIMS: tuple[Claim, ...] = (
    *ablation.CLAIMS,
    *controls.CLAIMS,
    *sizes.CLAIMS,
    *tokens.CLAIMS,
    *optics.CLAIMS,
    *bill.CLAIMS,
)
