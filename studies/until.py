"""Seeds where they are needed: a study that adds seeds to its undecided comparisons until each is decided.

    python -m studies.run ablation_table2 --until separated --max-seeds 20 --margin 2 --max-gpu-hours 500

Every variant is compared with the study's first reference for it. All begin with 3 seeds; once those are done, every
undecided comparison takes one seed more, and so on (`analysis.sequential` has the rule and its errors). The reference
runs as many seeds as the comparison that takes most. It ends when every comparison is decided or cannot be made, at
--max-seeds, or before the look that would exceed --max-gpu-hours. `--only` chooses the variants, and so the comparisons
that share the 5 %, before the first look.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from analysis import cells as cells_json
from analysis.contrasts import Until, decided, rulings
from analysis.metrics import deciding
from analysis.sequential import expected_seeds
from analysis.stats import FEWEST
from fvar.config import Stage
from fvar.errors import UserError, unknown
from fvar.usage import gpu_hours
from studies.engine.bill import BASES, cost, planned_gpu_hours
from studies.engine.plan import Plan
from studies.engine.prediction import Speeds
from studies.study import Cell, Context, Study

CRITERIA = ("separated",)
OPTIONS = {"max_seeds": "--max-seeds", "margin": "--margin"}  # of a rule, as a command line has them
EFFECTS = (0.5, 1.0, 2.0, 4.0)  # true differences, in sd of the paired difference, whose cost a plan shows


def among(study: Study, only: Sequence[str]) -> Study:
    """The study with the variants that `--only` names; all for none. Raises `UserError` where one matches none."""

    def cells(ctx: Context) -> Iterator[Cell]:
        everything = list(study.cells(ctx))
        for pattern in only:
            if not any(fnmatch.fnmatchcase(cell.variant, pattern) for cell in everything):
                raise unknown("variant", pattern, {cell.variant for cell in everything})
        for cell in everything:
            if cell.belongs(only) and (not only or any(fnmatch.fnmatchcase(cell.variant, name) for name in only)):
                yield cell

    return replace(study, cells=cells)


def rule_for(ctx: Context, criterion: str, max_seeds: int, margin: float | None) -> Until:
    """The rule of a command line.

    Raises `UserError` for one that decides nothing, and for another than the study has been looked at with: errors hold
    only for looks that were planned before the first.
    """
    if criterion not in CRITERIA:
        raise unknown("--until", criterion, CRITERIA)
    if ctx.study.adaptive or ctx.study.outputs:
        raise UserError(f"{ctx.study.name} has no variants that seeds could separate; leave --until out")
    variants = {cell.variant: cell for cell in ctx.study.cells(replace(ctx, seeds=1))}
    if len(variants) == 1:
        raise UserError(f"{ctx.study.name} has one variant here, so there is nothing to compare; leave --until out")
    reference = ctx.study.references[0]
    theirs = {variant: cells_json.reference_of(reference, cell.params) for variant, cell in variants.items()}
    if not any(other in variants and other != variant for variant, other in theirs.items()):
        raise UserError(f"{ctx.study.name} has no variant {reference!r} here to compare the others with")
    metric = ctx.study.columns[0] if ctx.study.columns else deciding(ctx.preset.sampling.count)
    rule = Until(metric, reference, max_seeds, margin)
    rule.rule  # noqa: B018 - raises where nothing could be decided by it
    before = _recorded(ctx)
    if before is None or before.until is None:
        return rule
    compared = list(dict.fromkeys(cell.variant for cell in before.cells))
    if dict(before.until) != dict(rule.as_dict()) or set(compared) != variants.keys():
        told = ", ".join(f"{key} {value}" for key, value in before.until.items())
        raise UserError(
            f"{ctx.place} has been looked at by another rule ({told}) for {', '.join(compared)}, and errors are "
            "bounded for that one only; repeat it with that rule, or start over with other --results"
        )
    return rule


def require_no_rule(ctx: Context) -> None:
    """Raise `UserError` for a study that was looked at by a rule: without it, the record of the looks would be lost.

    What was found by repeated looks would then pass for a study of as many seeds as were asked for from the start.
    """
    kept = cells_json.rule(ctx.place)
    if kept is None:
        return
    rule = " ".join(f"{option} {kept[key]:g}" for key, option in OPTIONS.items() if kept.get(key) is not None)
    raise UserError(
        f"{ctx.place} adds seeds by a rule, for which its intervals account; continue it with "
        f"--until separated {rule}, or start over with other --results"
    )


def _recorded(ctx: Context) -> cells_json.StudyRecord | None:
    """What an earlier command left of the study; None where it left nothing that can be read, which this one heals."""
    try:
        return cells_json.read(ctx.place) if ctx.place.file.exists() else None
    except UserError:
        return None


def adding_seeds(study: Study, rule: Until, max_gpu_hours: float = 0.0) -> Study:
    """The study, proposing seeds by the rule in place of a number of seeds. 0 hours: no limit."""

    def cells(ctx: Context) -> Iterator[Cell]:
        everything = list(study.cells(replace(ctx, seeds=rule.max_seeds)))
        first = dict.fromkeys((cell.variant for cell in everything), FEWEST)
        before = first if ctx.dry else _so_far(ctx, first)
        after = before if ctx.dry else _after_next_look(ctx, rule, before)
        proposed = _up_to(everything, after)
        if max_gpu_hours and after != before and _cost(ctx, proposed) > max_gpu_hours:
            proposed = _up_to(everything, before)
        return iter(proposed)

    return replace(study, cells=cells, adaptive=True, until=rule)


def _up_to(cells: Iterable[Cell], seeds: Mapping[str, int]) -> list[Cell]:
    return [cell for cell in cells if cell.seed < seeds[cell.variant]]


def _so_far(ctx: Context, first: Mapping[str, int]) -> dict[str, int]:
    """Seeds per variant that have been proposed, at least those of the first look."""
    recorded = ctx.read().variants() if ctx.place.file.exists() else {}
    return {variant: max(least, len(recorded.get(variant, []))) for variant, least in first.items()}


def _after_next_look(ctx: Context, rule: Until, before: dict[str, int]) -> dict[str, int]:
    """Seeds per variant, one more for each undecided comparison once all of those have arrived at the same look."""
    if not ctx.place.file.exists():
        return before
    found = rulings(replace(ctx.read(), until=rule.as_dict()))
    going = {variant: ruling.n for variant, ruling in found.items() if ruling.verdict == "undecided"}
    look = max((before[variant] for variant in going), default=0)
    if not going or look >= rule.max_seeds or any(n < look for n in going.values()):
        return before
    references = decided(ctx.read(), rule)
    return before | dict.fromkeys((*going, *(references[variant] for variant in going)), look + 1)


def _cost(ctx: Context, cells: Iterable[Cell]) -> float:
    """GPU hours spent on these cells so far and planned for what they still need."""
    plan = Plan.of(ctx, list(cells))
    spent = gpu_hours(ctx.place.runs / name for name in plan.stages)
    speeds = Speeds(ctx.place.runs)
    return spent + sum(planned_gpu_hours(stage, speeds) for stage in plan.to_run())


def _stages(cells: Iterable[Cell]) -> list[Stage]:
    """All stages of these cells, done or not, each once."""
    return list({stage.name: stage for cell in cells for stage in cell.stage.chain()}.values())


def expectation(ctx: Context, study: Study, rule: Until) -> str:
    """What adding seeds is expected to cost, by how large the differences are. `study` is the one without the rule."""
    first = list(study.cells(replace(ctx, seeds=FEWEST)))
    speeds = Speeds(ctx.place.runs)
    base, unit = cost(_stages(first), speeds)
    more, _ = cost(_stages(study.cells(replace(ctx, seeds=FEWEST + 1))), speeds, unit)
    per_seed = more - base  # of one more for every variant
    theirs = {cell.variant: cells_json.reference_of(rule.reference, cell.params) for cell in first}
    references = [other for variant, other in theirs.items() if other in theirs and other != variant]
    comparisons, named = len(references), " and ".join(dict.fromkeys(references))
    lines = [
        f"{comparisons} comparison{'s' * (comparisons > 1)} in {rule.metric.short} against {named}, looked at after "
        f"{FEWEST} seeds and after each one more, {rule.max_seeds} at most",
        f"expected {unit} in all ({BASES[unit]}), where every true difference is",
    ]
    for effect in EFFECTS:
        seeds = expected_seeds(comparisons, replace(rule.rule, margin=None), effect)
        hours = base + (seeds - FEWEST) * per_seed
        lines.append(f"  {effect:3g} sd of the paired difference: {hours:.3g}, {seeds:.1f} seeds per comparison")
    most = base + (rule.max_seeds - FEWEST) * per_seed
    lines.append(f"  at least {base:.3g} for {FEWEST} seeds each, at most {most:.3g} for {rule.max_seeds}")
    return "\n".join(lines)
