"""LaTeX as this project's tables use it: escaped text, tabulars with booktabs' rules, a table around them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence


def document(title: str, label: str, tabulars: Sequence[str], notes: Sequence[str]) -> str:
    """A table float: caption, tabulars under each other, the notes in small print."""
    lines = [
        "% needs \\usepackage{booktabs,graphicx}",
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{tex(title)}}}",
        f"\\label{{{label}}}",
        "\n\\par\\medskip\n".join(tabulars),
        "\\par\\smallskip\\footnotesize",
        *map(tex, notes),
        "\\end{table}",
    ]
    return "\n".join(lines) + "\n"


def tabular(
    title: str, groups: Sequence[tuple[str, int]], headings: Sequence[str], rows: Sequence[Sequence[str]], left: int
) -> str:
    """One tabular, its title above it, made narrower where it is wider than the page; `left` columns stand left."""
    lines = [f"\\textbf{{{tex(title)}}}\\par\\smallskip"] if title else []
    lines += [
        "\\resizebox{\\ifdim\\width>\\textwidth\\textwidth\\else\\width\\fi}{!}{%",
        f"\\begin{{tabular}}{{{'l' * left}{'r' * (len(headings) - left)}}}",
        "\\toprule",
    ]
    if groups:
        lines += [_group_row(groups), _rules(groups)]
    lines += [_row(headings), "\\midrule", *map(_row, rows), "\\bottomrule", "\\end{tabular}}"]
    return "\n".join(lines)


def _group_row(groups: Sequence[tuple[str, int]]) -> str:
    parts = [f"\\multicolumn{{{width}}}{{c}}{{{tex(name)}}}" if name else " & " * (width - 1) for name, width in groups]
    return " & ".join(parts) + " \\\\"


def _rules(groups: Sequence[tuple[str, int]]) -> str:
    rules, column = [], 1
    for name, width in groups:
        if name:
            rules.append(f"\\cmidrule(lr){{{column}-{column + width - 1}}}")
        column += width
    return " ".join(rules)


def _row(cells: Sequence[str]) -> str:
    return " & ".join(map(tex, cells)) + " \\\\"


_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "`": r"\textasciigrave{}", "<": r"$<$", ">": r"$>$",
    "|": r"$|$", "±": r"$\pm$", "×": r"$\times$", "·": r"$\cdot$", "−": r"$-$", "≤": r"$\le$", "≥": r"$\ge$",
    "↓": r"$\downarrow$", "↑": r"$\uparrow$", "→": r"$\to$", "∞": r"$\infty$", "²": r"$^2$", "³": r"$^3$",
    "–": "--", "—": "---", "…": r"\ldots{}", "ρ": r"$\rho$", "λ": r"$\lambda$", "σ": r"$\sigma$", "α": r"$\alpha$",
    "β": r"$\beta$", "φ": r"$\phi$",
}  # fmt: skip


def tex(text: str) -> str:
    """`text` with every character that TeX would act on, or pdflatex cannot set, replaced.

    `code` is set as code, **bold** as bold. A text that begins with a bracket is kept from being read as an option of
    the line before it.
    """
    if bold := re.fullmatch(r"\*\*(.*)\*\*", text):
        return f"\\textbf{{{tex(bold[1])}}}"
    parts = re.split(r"`([^`]*)`", re.sub(r"(^|\[|, )-(?=\d)", r"\1−", text))  # a minus, not a hyphen
    typeset = "".join(
        f"\\texttt{{{_escape(part)}}}" if index % 2 else _escape(part) for index, part in enumerate(parts)
    )
    return "{}" + typeset if typeset.startswith("[") else typeset


def _escape(text: str) -> str:
    return "".join(_TEX.get(char, char if char.isascii() else _plain(char)) for char in text)


def _plain(char: str) -> str:
    return unicodedata.normalize("NFKD", char).encode("ascii", "ignore").decode() or "?"
