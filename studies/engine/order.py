"""Which of the stages that are ready begin first, where there is room for a few only.

Cells are worked on one after another, as they are listed, so that the first rows of a table are there early. But a
chain of stages that is begun last, when nothing is left beside it, is waited for alone. So a stage goes before all
others as soon as its chain, up to the last stage that needs it, takes as long as everything that is left takes with
all jobs at work: from then on, each minute that it waits is a minute more for the study.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from fvar.config import Stage
from fvar.workload import flops
from studies.engine.bill import CPU_SPEED
from studies.engine.nodes import FINAL, Node
from studies.engine.prediction import Speeds

MARGIN = 1.5  # a chain counts as this multiple of the time predicted for it, as predictions err


class Order:
    """By times that are predicted from the speeds of finished stages below `runs`, else from an assumed one."""

    def __init__(self, runs: Path) -> None:
        self._speeds = Speeds(runs)
        self._work: dict[str, float] = {}  # FLOP, by run name

    def urgent_first(self, ready: Sequence[Node], nodes: Iterable[Node], jobs: int) -> list[Node]:
        """`urgent_first` by what stages are predicted to take."""
        return urgent_first(ready, nodes, jobs, self._seconds)

    def _seconds(self, stage: Stage) -> float:
        if stage.name not in self._work:
            self._work[stage.name] = flops(stage)
        return self._work[stage.name] / (self._speeds.of(stage.kind).job or CPU_SPEED)


def urgent_first(
    ready: Sequence[Node], nodes: Iterable[Node], jobs: int, seconds: Callable[[Stage], float]
) -> list[Node]:
    """The stages that are ready: first those that decide when the study ends, longest chain first; then as listed.

    Parameters
    ----------
    nodes
        All stages of the study, inputs before what needs them.
    jobs
        How many stages run side by side.
    seconds
        What a stage is expected to take. One at work counts as a whole.
    """
    left = [node for node in nodes if node.state not in FINAL]
    own = {node.stage.name: seconds(node.stage) for node in left}
    chain = dict(own)  # with the longest chain of stages that need it
    for node in reversed(left):
        for upstream in node.stage.inputs.values():
            if upstream.name in chain:
                chain[upstream.name] = max(chain[upstream.name], own[upstream.name] + chain[node.stage.name])
    share = sum(own.values()) / jobs
    urgent = [node for node in ready if MARGIN * chain[node.stage.name] >= share]
    others = [node for node in ready if MARGIN * chain[node.stage.name] < share]
    return sorted(urgent, key=lambda node: -chain[node.stage.name]) + others
