"""--max-gpu-hours: nothing is submitted that would take a study past its budget."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from fvar.errors import UserError
from fvar.usage import gpu_hours
from studies.engine.plan import ASSUMED, planned_gpu_hours
from studies.engine.scheduler import FINAL, Node


@dataclass
class Budget:
    """A limit on the GPU hours of all stages a study wants, whoever started them; 0 is none.

    A stage that has ended costs what it spent. One that has not costs what is planned, or what it spent where that is
    more already.
    """

    limit: float
    _planned: dict[str, float] = field(default_factory=dict)  # by run name

    def require(self, nodes: Iterable[Node]) -> None:
        """Raises `UserError` if these stages cost more than the limit."""
        if not self.limit:
            return
        spent, open_cost = 0.0, 0.0
        for node in nodes:
            own = gpu_hours([node.run.path])
            spent += own
            if node.state not in FINAL:
                open_cost += max(0.0, self._plan(node) - own)
        if spent + open_cost > self.limit:
            raise UserError(
                f"spent {spent:.3g} GPU hours, planned {open_cost:.3g} more ({ASSUMED}): over --max-gpu-hours "
                f"{self.limit:g}, so nothing more is submitted (what runs goes on); raise it, or choose cells by --only"
            )

    def allow(self, chosen: Sequence[Node], nodes: Mapping[str, Node]) -> None:
        """`require` for what has begun or ended, and what is about to be submitted."""
        names = {node.run.name for node in chosen}
        self.require(
            node for name, node in nodes.items() if name in names or node.state in FINAL | {"queued", "running"}
        )

    def _plan(self, node: Node) -> float:
        if node.run.name not in self._planned:
            self._planned[node.run.name] = planned_gpu_hours(node.stage)
        return self._planned[node.run.name]
