"""LaTeX as this project's tables use it: escaped text, tabulars with booktabs' rules, a table around them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

LONG = 10  # characters of a heading above which it takes two lines


def document(title: str, label: str, tabulars: Sequence[str], notes: Sequence[str]) -> str:
    """A table float, caption and tabulars under each other; the notes follow it in small print, on as many pages."""
    lines = [
        "% needs \\usepackage{booktabs,graphicx}",
        "\\begin{table}",
        "\\centering\\footnotesize",
        f"\\caption{{{tex(title)}}}",
        f"\\label{{{label}}}",
        "\n\\par\\medskip\n".join(tabulars),
        "\\end{table}",
        "{\\raggedright\\scriptsize",
        *map(tex, notes),
        "\\par}",
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
    lines += [_heading_row(headings, left), "\\midrule", *map(_row, rows), "\\bottomrule", "\\end{tabular}}"]
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


def _heading_row(headings: Sequence[str], left: int) -> str:
    """Headings in two lines where they are long: a column is as wide as its numbers."""
    return " & ".join(_stacked(text, "l" if index < left else "r") for index, text in enumerate(headings)) + " \\\\"


def _stacked(heading: str, side: str) -> str:
    spaces = [match.start() for match in re.finditer(" (?![↓↑])", heading)]  # an arrow stays with its metric
    if len(heading) <= LONG or not spaces:
        return tex(heading)
    middle = min(spaces, key=lambda index: abs(index - len(heading) / 2))
    return f"\\shortstack[{side}]{{{tex(heading[:middle])}\\\\{tex(heading[middle + 1 :])}}}"


def _row(cells: Sequence[str]) -> str:
    return " & ".join(map(tex, cells)) + " \\\\"


_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "`": r"\textasciigrave{}", "<": r"$<$", ">": r"$>$",
    "|": r"$|$", "±": r"$\pm$", "×": r"$\times$", "·": r"$\cdot$", "−": r"$-$", "≤": r"$\le$", "≥": r"$\ge$",
    "↓": r"$\downarrow$", "↑": r"$\uparrow$", "→": r"$\to$", "∞": r"$\infty$", "²": r"$^2$", "³": r"$^3$",
    "–": r"\textendash{}", "—": r"\textemdash{}", "…": r"\ldots{}", "ρ": r"$\rho$", "λ": r"$\lambda$", "σ": r"$\sigma$",
    "α": r"$\alpha$", "β": r"$\beta$", "φ": r"$\phi$",
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
    typeset = "".join(_TEX.get(char, char if char.isascii() else _plain(char)) for char in text)
    return re.sub("-(?=-)", "-{}", typeset)  # of an option's name: two hyphens would be set as one dash


def _plain(char: str) -> str:
    return unicodedata.normalize("NFKD", char).encode("ascii", "ignore").decode() or "?"
