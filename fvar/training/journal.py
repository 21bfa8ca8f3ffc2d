"""What the steps of a training measured, kept on the device until somebody asks.

To read a number from a GPU is to wait until it has computed all that was asked of it; a loop that does so in each step
leaves it idle in between. The journal therefore keeps each step's numbers where they are, and reads those of all steps
since the last reading at once: when a line is logged, before a checkpoint, after the last step. Only then do the guard
and the alarm see them, and no harm is done by it: the device itself leaves out a step that is not finite (see
`fvar.training.phase`). On a CPU reading is free, and every step is read as it is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fvar.training.guards import NonFiniteGuard, SpikeAlarm


@dataclass(frozen=True)
class PhaseRecord:
    """What one phase of a step left behind, all of it 0-d tensors on the device."""

    name: str
    prefix: str  # of its metrics' names
    loss: Tensor
    metrics: Mapping[str, Tensor]
    norms: Mapping[str, Tensor]  # of the gradient, by network; "" where there is only one
    finite: Tensor  # bool: whether the optimiser's step was taken

    def columns(self) -> dict[str, Tensor]:
        """Its numbers by the names under which they are logged."""
        norms = {"/".join(filter(None, ("gradient_norm", network))): norm for network, norm in self.norms.items()}
        return {f"{self.prefix}{key}": value for key, value in {"loss": self.loss, **self.metrics, **norms}.items()}


@dataclass(frozen=True)
class _Unread:
    step: int
    lr: float
    items: Tensor
    phases: list[PhaseRecord]


def reads_at_once(device: torch.device) -> bool:
    """Whether reading a number from the device takes no waiting."""
    return device.type == "cpu"


class Journal:
    """The numbers of the steps since the last logged line, and what watches over them."""

    def __init__(self, guard: NonFiniteGuard, alarm: SpikeAlarm, *, at_once: bool) -> None:
        self.guard, self.alarm, self.at_once = guard, alarm, at_once
        self.latest: float | None = None  # loss of the last step that was read
        self._unread: list[_Unread] = []
        self._rows: list[dict[str, float]] = []

    def note(self, step: int, lr: float, items: Tensor, phases: list[PhaseRecord]) -> None:
        """Keep a step: its learning rate, the items (N,) of its global batch, and what its phases measured."""
        self._unread.append(_Unread(step, lr, items, phases))
        if self.at_once:
            self.read()

    def read(self) -> None:
        """Fetch what has not been read yet, waiting once. Raises `StageFailed` if too many steps were not finite."""
        unread, self._unread = self._unread, []
        if not unread:
            return
        flags = [phase.finite for each in unread for phase in each.phases]
        values = [value for each in unread for phase in each.phases for value in phase.columns().values()]
        numbers = torch.stack([value.to(torch.float64) for value in (*flags, *values)]).tolist()
        taken, measured = iter(numbers[: len(flags)]), iter(numbers[len(flags) :])
        for each in unread:
            row: dict[str, float] = {}
            for phase in each.phases:
                columns = dict(zip(phase.columns(), measured, strict=False))
                row |= columns
                self._watch(each, phase, columns, bool(next(taken)))
            self._rows.append({**row, "lr": each.lr})

    def averages(self) -> dict[str, float]:
        """Means over the steps since the last call, each over those that have the number."""
        self.read()
        keys = dict.fromkeys(key for row in self._rows for key in row)
        columns = {key: [row[key] for row in self._rows if key in row] for key in keys}
        self._rows = []
        return {key: sum(column) / len(column) for key, column in columns.items()}

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        self.read()
        return {"skipped": self.guard.skipped, "pending": self._rows}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`."""
        self.guard.skipped, self._rows = state["skipped"], state["pending"]

    def _watch(self, each: _Unread, phase: PhaseRecord, columns: Mapping[str, float], taken: bool) -> None:
        loss = columns[f"{phase.prefix}loss"]
        if not taken:
            norms = [value for name, value in columns.items() if name.startswith(f"{phase.prefix}gradient_norm")]
            self.guard.note(each.step, phase.name, loss, norms, each.items)
        if not phase.prefix:
            self.latest = loss
            self.alarm.check(each.step, loss)
