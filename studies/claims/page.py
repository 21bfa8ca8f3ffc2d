"""The ledger as a page: every claim with its verdict, and for an open one the command that decides it and its price."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from analysis import cells as cells_json
from analysis.cells import Place
from analysis.render import pipe_row
from analysis.stats import FEWEST
from fvar.errors import UserError, unknown
from fvar.machine import atomic
from studies.claims import CLAIMS
from studies.claims.claim import Claim, Evidence, Finding, Verdict, started
from studies.engine.bill import price
from studies.engine.plan import Plan
from studies.engine.prediction import Speeds
from studies.engine.settings import Settings
from studies.presets import PRESETS, Preset, preset
from studies.study import Context, study

FILE = "claims.md"
OPEN: tuple[Verdict, ...] = ("undecided", "not measured")
BY_SEED = "-tokenizer-seeds"  # what a folder's name ends with where seeds train tokenizers, too


@dataclass(frozen=True)
class Line:
    """A claim, what was found, and for an open one the command that would decide it and what that costs."""

    claim: Claim
    finding: Finding
    command: str = ""
    price: str = ""


def ledger(results: Path, name: str) -> list[Line]:
    """Every claim at a preset, by the name of its folder. Raises `UserError` for one that does not exist."""
    if name not in PRESETS and name not in started(results):
        raise unknown("preset", name, [*PRESETS, *started(results)])
    evidence, here = Evidence(results, name), _Here.of(results, name)
    return [_line(claim, claim.find(evidence), here) for claim in CLAIMS]


def write(results: Path, names: Sequence[str]) -> Path:
    """Write claims.md with a section per preset; what is the same at every preset stands first."""
    path = results / FILE
    atomic.write_text(path, markdown({name: ledger(results, name) for name in names}))
    return path


def markdown(found: dict[str, list[Line]]) -> str:
    """The page. Each p is corrected within its study, not over the claims."""
    lines = [
        "# What the papers claim, and what was measured here",
        "",
        "Written by `python -m studies claims` from the results beside it. Supported, refuted: separated from 0 with "
        "p at most 0.05 after Holm's correction within the study; each claim stands for itself. Undecided: not "
        "separated, or true of some readings only. A verdict holds at its preset.",
    ]
    first = next(iter(found.values()))
    sections = {"Mathematics and arithmetic, at every preset": [line for line in first if line.claim.computed]}
    for name, ledger in found.items():
        sections[f"Preset `{name}`"] = [line for line in ledger if not line.claim.computed]
    for title, section in sections.items():
        lines += ["", f"## {title}", "", summary(section), ""]
        headings = ["Claim", "Where", "Verdict", "Effect", "95 % interval", "Basis", "What would decide it", "Price"]
        lines += [pipe_row(headings), pipe_row(["---"] * len(headings))]
        for line in section:
            claim, finding = line.claim, line.finding
            command = f"`{line.command}`" if line.command else ""
            verdict = f"**{finding.verdict}**" if finding.verdict not in OPEN else finding.verdict
            texts = [finding.effect, finding.interval, finding.note, command, line.price]
            lines.append(pipe_row([claim.text, claim.where, verdict, *texts]))
    return "\n".join(lines) + "\n"


def summary(lines: Sequence[Line]) -> str:
    """How many claims have which verdict."""
    counts = Counter(line.finding.verdict for line in lines)
    order: tuple[Verdict, ...] = ("supported", "refuted", *OPEN)
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in order if counts[verdict]) + "."


def show(name: str, lines: Sequence[Line]) -> None:
    """Print a preset's ledger as a table, and under it the commands that would decide what is open, by key."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Claims at preset {name}: {summary(lines)}", title_justify="left")
    for heading in ("key, where", "claim", "verdict", "effect, 95 % interval, basis"):
        table.add_column(heading, overflow="fold")
    for line in lines:
        claim, finding = line.claim, line.finding
        said = " ".join(filter(None, (finding.effect, finding.interval)))
        said = "" if finding.verdict == "not measured" else "; ".join(filter(None, (said, finding.note)))
        table.add_row(f"{claim.key}\n{claim.where}", claim.text, finding.verdict, said.replace("[", "\\["))
    console = Console()
    console.print(table)
    commands: dict[tuple[str, str], list[str]] = {}
    for line in lines:
        if line.command:
            commands.setdefault((line.command, line.price), []).append(line.claim.key)
    for (command, cost), keys in commands.items():
        print(f"{', '.join(keys)}: {command}" + (f"   ({cost})" if cost else ""))


# ------------------------------------------------------------------------------------------------- what would decide it


@dataclass(frozen=True)
class _Here:
    """How the results of a folder were asked for, so that more can be."""

    results: Path
    label: str
    preset: Preset | None  # None: on other data, which the folder's name does not tell
    settings: Settings
    speeds: Speeds
    prices: dict[str, str] = field(default_factory=dict)  # of commands that were planned already

    def ruled(self, name: str) -> bool:
        """Whether a study added seeds by a rule: whoever wants more of them starts over, in another results folder."""
        return cells_json.rule(Place(self.results, name, self.label)) is not None

    @classmethod
    def of(cls, results: Path, label: str) -> _Here:
        place = next((place for place in cells_json.started(results) if place.preset == label), None)
        settings = Settings.parse(cells_json.read(place).settings if place else ())
        chosen = preset(label.partition("-")[0]) if label.partition("-")[0] in PRESETS else None
        if chosen and settings.label(chosen.name) != label.removesuffix(BY_SEED):
            chosen = None
        if chosen and label.endswith(BY_SEED):
            chosen = replace(chosen, tokenizers_by_seed=True)
        return cls(results, label, chosen, settings, Speeds(results / cells_json.RUNS))


def _line(claim: Claim, finding: Finding, here: _Here) -> Line:
    if finding.verdict not in OPEN or not claim.study:
        return Line(claim, finding)
    seeds = max(finding.seeds, FEWEST)
    if here.preset is None:
        return Line(claim, finding, f"python -m studies.run {claim.study} ... --seeds {seeds}")
    chosen = replace(here.preset, tokenizers_by_seed=here.preset.tokenizers_by_seed or claim.by_tokenizer)
    extra = claim.settings if not chosen.curve_every else ()
    changed = [*here.settings.science, *extra]
    words = ["python -m studies.run", claim.study]
    if not claim.computed:
        words += ["--preset", chosen.name, "--seeds", str(seeds)]
        words += [f"--set {shlex.quote(text)}" for text in changed]
        words += (
            ["--tokenizer-seeds"] if chosen.tokenizers_by_seed and not PRESETS[chosen.name].tokenizers_by_seed else []
        )
    results = here.results
    if not extra and here.ruled(claim.study):
        results = Path(f"{'results' if results == cells_json.KEPT else results}-2")
    if results not in (Path("results"), cells_json.KEPT):
        words += ["--results", shlex.quote(str(results))]
    command = " ".join(words)
    if command not in here.prices:
        ctx = Context(study(claim.study), chosen, seeds, results, dry=True)
        here.prices[command] = _price(ctx, changed, here.speeds)
    return Line(claim, finding, command, here.prices[command])


def _price(ctx: Context, changed: Sequence[str], speeds: Speeds) -> str:
    """What the command would still have to train. Empty where the study cannot be planned with these settings."""
    try:
        settings = Settings.parse(changed)
        wanted = settings.apply([cell for cell in ctx.study.cells(ctx) if cell.belongs(())])
        to_run = Plan.of(ctx, wanted).to_run()
    except UserError:
        return ""
    return price(to_run, speeds) if to_run else "nothing to train"
