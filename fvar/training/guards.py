"""What a long training watches for: numbers that are not finite, and losses that jump."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from fvar.errors import StageFailed
from fvar.machine import atomic


class NonFiniteGuard:
    """Keeps account of the steps that were left out because loss or gradient was not finite; gives up after `budget`.

    The items of every such step are kept in `bad_batches.json` of the run, which one rank `writes`.
    """

    def __init__(self, folder: Path, budget: int, *, writes: bool) -> None:
        self.path = folder / "bad_batches.json"
        self.budget, self.writes = budget, writes
        self.skipped: list[dict[str, object]] = []

    def note(self, step: int, phase: str, loss: float, norms: Sequence[float], items: Tensor) -> None:
        """Book a step that was left out. Raises `StageFailed` once the budget is spent."""
        norm = next((norm for norm in norms if not math.isfinite(norm)), max(norms))
        self.skipped.append(
            {"step": step, "phase": phase, "loss": str(loss), "gradient_norm": str(norm), "items": items.tolist()}
        )
        print(f"step {step}: {phase} loss {loss}, gradient norm {norm}: not finite, step skipped", flush=True)
        if self.writes:
            atomic.write_json(self.path, self.skipped)
        if len(self.skipped) > self.budget:
            raise StageFailed(
                f"{len(self.skipped)} steps were not finite (runtime.bad_steps allows {self.budget}); "
                f"their items are in {self.path}"
            )


class SpikeAlarm:
    """Prints a line when a loss lies `sigmas` standard deviations above those of the last `window` steps."""

    def __init__(self, sigmas: float, window: int = 100) -> None:
        self.sigmas = sigmas
        self.recent: deque[float] = deque(maxlen=window)

    def check(self, step: int, loss: float) -> bool:
        """Note the loss of a step; whether it is a spike."""
        if not math.isfinite(loss):
            return False
        spike = False
        if self.sigmas > 0 and len(self.recent) >= 20 and loss > self.recent[-1]:
            mean, deviation = statistics.fmean(self.recent), statistics.pstdev(self.recent)
            spike = loss > mean + self.sigmas * max(deviation, 1e-3 * abs(mean))
            if spike:
                print(f"step {step}: loss {loss:.4g} spikes above {mean:.4g} +- {deviation:.2g}", flush=True)
        self.recent.append(loss)
        return spike
