"""What the teacher costs by every reading of the paper, against "6-15 % training FLOPs, < 3 % parameters". Arithmetic.

    python -m studies.run cost

FLOPs and parameters are counted by `fvar.estimate` at the paper's settings (ImageNet 256, K = 4), whatever the preset;
its tests hold the formulas against the built networks and torch's FLOP counter. Nothing is trained or measured.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fvar.config import DistillConfig, Stage, TeacherConfig
from fvar.estimate import Estimate, estimate
from fvar.machine import atomic
from studies.presets import preset
from studies.study import Cell, Context, Study
from studies.variants import chain

if TYPE_CHECKING:
    from analysis.style import Drawings


DEPTHS = (12, 16, 20, 24)  # the paper's, Table 1
CLAIMED_FLOPS = (0.06, 0.15)  # more training FLOPs, paper Sec. 3.3 and 3.5
CLAIMED_PARAMETERS = 0.03  # fewer than this share more parameters, paper Sec. 3.5

READINGS: dict[str, TeacherConfig] = {
    "separate trunk (the literal text)": TeacherConfig(trunk="separate"),
    "shared trunk, last 2 blocks": TeacherConfig(trunk="shared"),
    "shared trunk, last block": TeacherConfig(trunk="shared", blocks=1),
    "shared trunk, last 2 blocks, last 2 scales": TeacherConfig(trunk="shared", last_scales=2),
    "shared trunk, last 2 blocks, last scale": TeacherConfig(trunk="shared", last_scales=1),
}


@dataclass(frozen=True)
class Row:
    """The teacher's cost by one reading at one depth; shares are of the student's own training."""

    reading: str
    depth: int
    flops: float  # more training FLOPs per image
    trained: float  # more trained parameters
    cross_attention: float  # parameters of AG-XAttn and the alias embedding alone

    @property
    def flops_as_claimed(self) -> bool:
        return CLAIMED_FLOPS[0] <= round(self.flops, 3) <= CLAIMED_FLOPS[1]

    @property
    def parameters_as_claimed(self) -> bool:
        return self.trained < CLAIMED_PARAMETERS


def cells(ctx: Context) -> Iterator[Cell]:
    """None: there is nothing to train."""
    return iter(())


def rows() -> Iterator[Row]:
    """Every reading at every depth."""
    paper = preset("paper")
    for reading, teacher in READINGS.items():
        distill = DistillConfig(feature_blocks=min(DistillConfig.feature_blocks, teacher.blocks))
        for depth in DEPTHS:
            alone = _bill(chain(paper, "no_teacher", 0, depth=depth))
            taught = _bill(chain(paper, "full", 0, depth=depth, teacher=teacher, distill=distill))
            added = next(part.parameters for part in taught.parts if part.name == "AG-XAttn")
            yield Row(
                reading,
                depth,
                taught.flops / alone.flops - 1,
                taught.parameters / alone.parameters - 1,
                added / alone.parameters,
            )


def outputs(results: Path) -> Drawings:
    """What is shown: the tables."""
    return {"table.md": partial(_write, results / "cost")}


def _write(folder: Path) -> list[Path]:
    """Write table.md and table.csv."""
    found = list(rows())
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"table.md": markdown(found), "table.csv": _csv(found)}
    for name, text in texts.items():
        atomic.write_text(folder / name, text)
    return [folder / name for name in texts]


def markdown(found: list[Row]) -> str:
    """One line per reading, a pair of shares per depth, and what follows for the claim."""
    heading = ["Reading", *(f"d{depth}: FLOPs, trained parameters" for depth in DEPTHS), "AG-XAttn alone, parameters"]
    lines = ["# What the teacher costs", "", _row(heading), _row(["---"] * len(heading))]
    for reading in READINGS:
        own = [row for row in found if row.reading == reading]
        marks = [
            f"{_mark(row.flops, row.flops_as_claimed)}, {_mark(row.trained, row.parameters_as_claimed)}" for row in own
        ]
        alone = [row.cross_attention for row in own]
        lines.append(_row([reading, *marks, f"+{min(alone):.1%} to +{max(alone):.1%}"]))
    flops = _listed([row for row in found if row.flops_as_claimed])
    light = _listed([row for row in found if row.parameters_as_claimed])
    lines += [
        "",
        "Counted at the paper's settings, as shares of training the student alone; bold is as claimed.",
        "",
        f"Claimed: +6-15 % training FLOPs. Within it: {flops}.",
        "",
        f"Claimed: < 3 % more parameters. Of all that is trained: {light}. Of AG-XAttn and the alias embedding alone, "
        "without the teacher's own blocks: every reading.",
    ]
    return "\n".join(lines) + "\n"


def _bill(scores: Stage) -> Estimate:
    return estimate(scores.inputs["samples"].inputs["var"])


def _listed(within: list[Row]) -> str:
    """Readings with the depths at which they keep a claim."""
    depths: dict[str, list[str]] = {}
    for row in within:
        depths.setdefault(row.reading, []).append(f"d{row.depth}")
    return "; ".join(f"{reading} ({', '.join(found)})" for reading, found in depths.items()) or "none"


def _mark(share: float, as_claimed: bool) -> str:
    text = f"+{share:.1%}"
    return f"**{text}**" if as_claimed else text


def _row(texts: list[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _csv(found: list[Row]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["reading", "depth", "flops", "trained_parameters", "ag_xattn_parameters"])
    writer.writerows([row.reading, row.depth, row.flops, row.trained, row.cross_attention] for row in found)
    return buffer.getvalue()


STUDY = Study("cost", "What the teacher costs by every reading", cells, outputs=outputs)
