"""The table of a GPU check, in Markdown, from what it found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.gpu.measure import CODING, ORIGINAL, REFERENCE

HEAD = ("", "ms", "± %", "first s", "images/s", "reference", "original", "MFU", "peak GiB")


def text(report: Mapping[str, Any]) -> str:
    """What was measured, with ratios to the two rivals of the same part, and what was not."""
    tests = ", ".join(f"{count} {verdict}" for verdict, count in report["tests"].items()) or "none ran"
    study = report["table2"]
    took = "; ".join(f"{kind}: {len(each)} of {sum(each) / len(each):.0f} s" for kind, each in study["took"].items())
    lines = [
        f"# {report['device']}",
        "",
        *(["**Toy sizes: this shows that the check runs, and measures nothing.**", ""] if report["toy"] else []),
        f"fvar {report['commit']}, torch {report['torch']}, CUDA {report['cuda'] or 'none'}, {report['date']}, "
        f"{report['seconds'] / 60:.1f} minutes. Batch {report['batch']}, bfloat16; a step is forward, backward, "
        "clipping and optimiser, from tokens. The columns of reference and original say how many times faster it is.",
        "",
        f"Tests: {tests}. Table 2 at preset smoke: {study['stages_done']} stages in {study['seconds']:.0f} s"
        f"{f' ({took})' if took else ''}{'' if study['finished'] else ', not finished'}.",
        "",
    ]
    for part in dict.fromkeys(row["part"] for row in report["measured"]):
        lines += [f"## {part}", "", *_rows(part, report["measured"]), ""]
    for title, names in (("Failed", report["failed"]), ("Left out", report["left_out"])):
        if names:
            lines += [f"## {title}", "", *(f"- {name}" for name in names), ""]
    return "\n".join(lines)


def _rows(part: str, measured: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [row for row in measured if row["part"] == part]
    beside = part.replace("compiled", "step")  # a compiled step's rivals were measured there
    rivals = {
        name: next((row["seconds"] for row in measured if (row["part"], row["case"]) == (beside, name)), None)
        for name in (REFERENCE, ORIGINAL)
    }
    lines = [f"| {' | '.join(HEAD)} |", f"| --- |{' ---: |' * (len(HEAD) - 1)}"]
    for row in rows:
        took, (least, most) = row["seconds"], row["spread"]
        cells = [
            row["case"],
            f"{1e3 * took:.1f}",
            f"{50 * (most - least) / took:.1f}",
            f"{row['first_seconds']:.1f}",
            f"{row['images_per_second']:.1f}",
            *(f"{rival / took:.2f}" if rival and row["case"] != CODING else "" for rival in rivals.values()),
            f"{row['mfu']:.1%}" if row["mfu"] else "",
            f"{row['peak_bytes'] / 2**30:.1f}" if row["peak_bytes"] else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines
