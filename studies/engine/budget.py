"""--max-gpu-hours: nothing is submitted that would take a study past its budget, and what runs is held against it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from fvar.errors import UserError
from fvar.usage import gpu_hours
from studies.engine.bill import BASIS, planned_gpu_hours
from studies.engine.nodes import FINAL, Node
from studies.engine.prediction import Speeds


class OverBudget(UserError):
    """A study may not go on: what it has spent, and what is planned, are more than its budget."""


@dataclass
class Budget:
    """A limit on the GPU hours of all stages a study wants, whoever started them; 0 is none.

    A stage that has ended costs what it spent. One that has not costs what is planned, or what it spent where that is
    more already.
    """

    limit: float
    hard: bool = False  # stop what runs, too, once the budget is spent
    _speeds: Speeds | None = None
    _planned: dict[str, float] = field(default_factory=dict)  # by run name
    _spent: dict[str, float] = field(default_factory=dict)  # likewise, of stages that have ended

    def require(self, nodes: Iterable[Node]) -> None:
        """Raises `OverBudget` if these stages cost more than the limit."""
        if not self.limit:
            return
        spent, open_cost = 0.0, 0.0
        for node in nodes:
            own = gpu_hours([node.run.path])
            spent += own
            if node.state not in FINAL:
                open_cost += max(0.0, self._plan(node) - own)
        if spent + open_cost > self.limit:
            raise OverBudget(
                f"spent {spent:.3g} GPU hours, planned {open_cost:.3g} more ({BASIS}): over --max-gpu-hours "
                f"{self.limit:g}, so nothing more is submitted (what runs goes on); raise it, or choose cells by --only"
            )

    def allow(self, chosen: Sequence[Node], nodes: Mapping[str, Node]) -> None:
        """`require` for what has begun or ended, and what is about to be submitted."""
        names = {node.run.name for node in chosen}
        self.require(
            node for name, node in nodes.items() if name in names or node.state in FINAL | {"queued", "running"}
        )

    def require_left(self, nodes: Iterable[Node]) -> None:
        """Raises `OverBudget` if the limit is spent, whatever was planned: jobs may take longer than that."""
        if self.limit and (spent := sum(map(self._cost, nodes))) >= self.limit:
            raise OverBudget(
                f"spent {spent:.3g} GPU hours of --max-gpu-hours {self.limit:g}, so nothing more is submitted; "
                "raise it, or choose cells by --only"
            )

    def _cost(self, node: Node) -> float:
        """What a stage has spent; read once of one that has ended."""
        if node.run.name in self._spent:
            return self._spent[node.run.name]
        cost = gpu_hours([node.run.path])
        if node.state in FINAL:
            self._spent[node.run.name] = cost
        return cost

    def _plan(self, node: Node) -> float:
        if node.run.name not in self._planned:
            self._speeds = self._speeds or Speeds(node.run.path.parent)
            self._planned[node.run.name] = planned_gpu_hours(node.stage, self._speeds)
        return self._planned[node.run.name]
