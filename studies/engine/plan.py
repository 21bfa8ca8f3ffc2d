"""What a command would do: its cells, their distinct stages, and which of them are done. Reads, never writes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fvar.config import STAGE_CONFIGS, Stage, TokenizerConfig, VarConfig
from fvar.rundir import Status, read_status
from studies.engine.bill import bill
from studies.engine.prediction import Speeds
from studies.study import Cell, Context


@dataclass(frozen=True)
class Plan:
    """Cells and where their stages stand now."""

    ctx: Context
    cells: Sequence[Cell]
    stages: dict[str, Stage]  # distinct, by run name, inputs first
    statuses: dict[str, Status]

    @classmethod
    def of(cls, ctx: Context, cells: Sequence[Cell]) -> Plan:
        stages = {stage.name: stage for cell in cells for stage in cell.stage.chain()}
        runs = ctx.results / "runs"
        begun = set(os.listdir(runs)) if runs.is_dir() else set[str]()  # most of a large plan are not
        statuses = {name: read_status(f"{runs}/{name}") if name in begun else Status() for name in stages}
        return cls(ctx, cells, stages, statuses)

    def to_run(self) -> list[Stage]:
        """The stages that are not done and that an unfinished cell needs."""
        wanted: dict[str, Stage] = {}

        def want(stage: Stage) -> None:
            if self.statuses[stage.name].state != "done":
                wanted[stage.name] = stage
                for upstream in stage.inputs.values():
                    want(upstream)

        for cell in self.cells:
            want(cell.stage)
        return list(wanted.values())

    def text(self) -> str:
        """The plan for people."""
        if not self.cells:
            return f"{self.ctx.study.title}: trains nothing; it measures when it is run"
        to_run = self.to_run()
        run = {stage.name for stage in to_run}
        uses = Counter(stage.name for cell in self.cells for stage in cell.stage.chain())
        lines = [
            f"{self.ctx.study.title}, preset {self.ctx.folder.name}: {len(self.cells)} cells, "
            f"{len(self.stages)} distinct stages ({uses.total()} without sharing), {len(run)} of them to run"
        ]
        if self.ctx.study.until:
            lines.append("The first look is shown; undecided comparisons take more seeds.")
        elif self.ctx.study.adaptive:
            lines.append("The first cell is shown; the others are proposed as scores come in.")
        cost = bill(to_run, Speeds(self.ctx.results / "runs", self.stages, self.statuses))
        lines += ["", *self._kinds(run), "", *self._cells(run), "", cost]
        return "\n".join(lines)

    def _kinds(self, run: set[str]) -> list[str]:
        lines = [f"{'stage':<11} {'distinct':>8} {'done':>6} {'failed':>7} {'to run':>7}   steps each"]
        for kind in STAGE_CONFIGS:
            stages = [stage for stage in self.stages.values() if stage.kind == kind]
            if not stages:
                continue
            states = Counter(self.statuses[stage.name].state for stage in stages)
            todo = sum(stage.name in run for stage in stages)
            steps = " ".join(f"{count:,}" for count in sorted(set(_steps(stages))))
            lines.append(
                f"{kind:<11} {len(stages):>8} {states['done']:>6} {states['failed']:>7} {todo:>7}   {steps}".rstrip()
            )
        return lines

    def _cells(self, run: set[str]) -> list[str]:
        width = max((len(cell.name) for cell in self.cells), default=4)
        lines = [f"{'cell':<{width}}   to run"]
        seen: set[str] = set()
        for cell in self.cells:
            own = [stage.name for stage in cell.stage.chain() if stage.name in run]
            new = Counter(name.partition("-")[0] for name in own if name not in seen)
            shared = len(own) - new.total()
            seen.update(own)
            what = ", ".join(kind if count == 1 else f"{count} {kind}" for kind, count in new.items())
            if shared:
                what += f"{', ' if what else ''}and {shared} shared with cells above"
            lines.append(f"{cell.name:<{width}}   {what or 'nothing, it is done'}")
        return lines


def _steps(stages: Iterable[Stage]) -> list[int]:
    return [stage.config.train.steps for stage in stages if isinstance(stage.config, TokenizerConfig | VarConfig)]
