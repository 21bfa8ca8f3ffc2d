"""What stages will cost, each kind by what it cost before in the same results folder, else by an assumption.

Assumed is what a GPU reaches of its peak (data sheet) in stages of a kind, and the speed of a processor's core.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from fvar.config import PLUGINS, STAGE_CONFIGS, Stage
from fvar.estimate import DEVICES
from fvar.workload import flops
from studies.engine.prediction import Speed, Speeds
from studies.presets import TWO_CORES

DEVICE = DEVICES[0]
TRAINING_SHARE = 0.4  # of the GPU's peak
# Ours, until stages of the kind were measured: small products while sampling, float32 and decoding while scoring.
SHARES = {"tokens": 0.2, "samples": 0.2, "scores": 0.05, "readability": 0.05}
CPU_SPEED = TWO_CORES.speed / 2  # FLOP/s of one core
GPU_HOURS, HOURS, MINUTES = "GPU hours", "hours of a processor", "minutes of a processor"
SMALL = 0.01  # GPU hours below which a plan is one for processors
LONG, LONGEST = 180.0, 60.0 * 24 * 30  # minutes from which on hours are told; that nobody waits for on a processor
MEASURED = "by measured speeds where there are any, else"
BASIS = (
    f"{MEASURED} an {DEVICE.name} at {TRAINING_SHARE:.0%} of its peak, {SHARES['samples']:.0%} while sampling, "
    f"{SHARES['scores']:.0%} while scoring"
)
BASES = {GPU_HOURS: BASIS} | dict.fromkeys((HOURS, MINUTES), f"{MEASURED} {CPU_SPEED / 1e9:.0f} GFLOP/s of a core")


def planned_gpu_hours(stage: Stage, speeds: Speeds | None = None) -> float:
    """What a stage is expected to cost; by measured speeds, what its job's GPUs were idle is counted, too."""
    return _gpu_hours(stage.kind, flops(stage), speeds)


def _gpu_hours(kind: str, work: float, speeds: Speeds | None) -> float:
    measured = speeds.of(kind).gpu if speeds else None
    return work / (measured or DEVICE.peak * SHARES.get(kind, TRAINING_SHARE)) / 3600


def bill(stages: Iterable[Stage], speeds: Speeds) -> str:
    """What the stages to come are expected to cost, in two lines: GPU hours, or minutes where no GPU is needed."""
    stages = list(stages)
    if not stages:
        return "to come: nothing"
    plugins = Counter(stage.kind for stage in stages if stage.kind in PLUGINS)
    work = _work(stages)
    counted = sum(flop for kind, flop in work.items() if kind not in plugins)
    what = [f"{counted:.2g} FLOP"] if counted else []
    what += [
        f"{count} {kind}" + (" (of unknown cost until one has ended)" if speeds.of(kind) == Speed() else "")
        for kind, count in plugins.items()
    ]
    total = f"to come: {' and '.join(what)}"
    priced = {kind: flop for kind, flop in work.items() if kind not in plugins or speeds.of(kind) != Speed()}
    if not any(priced.values()):
        return total
    costs, unit = _costs(priced, speeds)
    small = unit != GPU_HOURS
    parts = ", ".join(f"{kind} {_rounded(cost)}" for kind, cost in costs.items() if cost)
    total += f", estimated at {_rounded(sum(costs.values()))} {unit}"
    wanted = [kind for kind, cost in costs.items() if cost]
    known = [kind for kind in wanted if (speeds.of(kind).processor if small else speeds.of(kind).gpu)]
    return f"{total} ({parts})\n{_basis(known, [kind for kind in wanted if kind not in known], small)}"


def price(stages: Iterable[Stage], speeds: Speeds) -> str:
    """What stages are expected to cost together, in a few words."""
    total, unit = cost(stages, speeds)
    return f"{_rounded(total)} {unit}"


def cost(stages: Iterable[Stage], speeds: Speeds, unit: str = "") -> tuple[float, str]:
    """What stages are expected to cost together, and the unit of that: the one that suits it where none is given."""
    costs, unit = _costs(_work(stages), speeds, unit)
    return sum(costs.values()), unit


def _work(stages: Iterable[Stage]) -> dict[str, float]:
    """FLOPs of all stages of each kind."""
    work = dict.fromkeys(STAGE_CONFIGS, 0.0)
    for stage in stages:
        work[stage.kind] += flops(stage)
    return work


def _costs(work: Mapping[str, float], speeds: Speeds, unit: str = "") -> tuple[dict[str, float], str]:
    """By kind, and in which unit."""
    hours = {kind: _gpu_hours(kind, flop, speeds) if flop else 0.0 for kind, flop in work.items()}
    minutes = {
        kind: flop / (speeds.of(kind).processor or CPU_SPEED) / 60 if flop else 0.0 for kind, flop in work.items()
    }
    if not unit:
        known = [speeds.of(kind) for kind, flop in work.items() if flop]
        only_processors = any(speed.processor for speed in known) and not any(speed.gpu for speed in known)
        if sum(hours.values()) >= SMALL and not (only_processors and sum(minutes.values()) < LONGEST):
            unit = GPU_HOURS
        else:
            unit = MINUTES if sum(minutes.values()) < LONG else HOURS
    by_unit = {GPU_HOURS: hours, MINUTES: minutes, HOURS: {kind: cost / 60 for kind, cost in minutes.items()}}
    return by_unit[unit], unit


def _basis(measured: Sequence[str], assumed: Sequence[str], small: bool) -> str:
    """What an estimate rests on, kind by kind."""
    if small:
        assumption = f"{CPU_SPEED / 1e9:.0f} GFLOP/s of a core"
    else:
        shares = sorted({SHARES.get(kind, TRAINING_SHARE) for kind in assumed}, reverse=True)
        assumption = f"{DEVICE.name} at {', '.join(f'{share:.0%}' for share in shares)} of its peak"
    lines = [f"as measured in this results folder: {', '.join(measured)}"] if measured else []
    lines += [f"assumed ({assumption}): {', '.join(assumed)}"] if assumed else []
    return "; ".join(lines)


def _rounded(value: float) -> str:
    return f"{value:,.0f}" if value > 10 else f"{value:,.3g}"
