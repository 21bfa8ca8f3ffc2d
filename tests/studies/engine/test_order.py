"""A study ends as early as its jobs allow, and its first rows come first."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fvar.config import DataConfig, RuntimeConfig, SamplesConfig, ScoresConfig, Stage, TokensConfig, VarConfig
from fvar.config import TokenizerConfig as Tokenizer
from fvar.config import TrainConfig as Train
from fvar.rundir import RunDir
from studies.engine.nodes import Node
from studies.engine.order import Order, urgent_first
from studies.presets import preset
from studies.variants import VARIANTS, chain


def nodes(root: Path, *stages: Stage) -> list[Node]:
    """All stages of these chains, inputs first."""
    named = {part.name: part for stage in stages for part in stage.chain()}
    return [Node(stage, RunDir(root / name, stage.config, {}, RuntimeConfig()), None) for name, stage in named.items()]


def hours(of: Sequence[Node], jobs: int, cost: dict[str, float], choose: Callable[[list[Node]], list[Node]]) -> float:
    """When the last of these stages ends, with `choose` putting in order whatever is ready."""
    states = {node.stage.name: node for node in of}
    for node in of:
        node.state = "waiting"
    now, at_work = 0.0, list[tuple[float, str]]()
    while True:
        for node in of:
            if node.state == "waiting" and all(
                states[stage.name].state == "done" for stage in node.stage.inputs.values()
            ):
                node.state = "ready"
        for node in choose([node for node in of if node.state == "ready"])[: jobs - len(at_work)]:
            node.state = "running"
            heapq.heappush(at_work, (now + cost[node.stage.name], node.stage.name))
        if not at_work:
            return now
        now, name = heapq.heappop(at_work)
        states[name].state = "done"


def cell(seed: int) -> Stage:
    tokens = Stage(TokensConfig(data=DataConfig()), {"tokenizer": Stage(Tokenizer())})
    var = Stage(VarConfig(train=Train(seed=seed)), {"tokens": tokens})
    return Stage(ScoresConfig(), {"samples": Stage(SamplesConfig(), {"var": var})})


def test_a_long_chain_that_is_listed_last_is_not_waited_for_alone(tmp_path: Path) -> None:
    made = nodes(tmp_path, *(cell(seed) for seed in range(5)))
    cost = {node.stage.name: 1.0 for node in made}
    cost[made[-3].stage.name] = 20.0  # the network of the last cell: as much as all others together
    assert made[-3].stage.kind == "var"
    as_listed = hours(made, 2, cost, list)
    ordered = hours(made, 2, cost, lambda ready: urgent_first(ready, made, 2, lambda stage: cost[stage.name]))
    critical = 1 + 1 + 20 + 1 + 1
    assert as_listed > critical
    assert ordered == critical


def test_cells_are_worked_on_as_listed_while_much_is_left(tmp_path: Path) -> None:
    made = nodes(tmp_path, *(cell(seed) for seed in range(9)))
    ready = [node for node in made if node.stage.kind == "var"]
    assert urgent_first(ready, made, 2, lambda stage: 1.0) == ready


@given(st.lists(st.floats(0.1, 100), min_size=14, max_size=14), st.integers(2, 6))
def test_nothing_ready_is_left_out_or_offered_twice(costs: list[float], jobs: int) -> None:
    made = nodes(Path(), *(cell(seed) for seed in range(4)))
    cost = dict(zip([node.stage.name for node in made], costs, strict=True))
    ready = made[2:11:2]
    chosen = urgent_first(ready, made, jobs, lambda stage: cost[stage.name])
    assert sorted(node.stage.name for node in chosen) == sorted(node.stage.name for node in ready)


def seconds_measured(stage: Stage) -> float:
    """About what a stage of Table 2 at smoke took on one core, which the prediction misses by up to a factor of two."""
    if isinstance(stage.config, Tokenizer):
        return 63 if stage.config.signal == "alias" else 111
    if isinstance(stage.config, VarConfig):
        return 75 if stage.config.teacher else 36
    return {"tokens": 8, "samples": 5, "scores": 47}[stage.kind]


def test_table_2_on_two_cores_ends_when_half_of_its_work_is_done(tmp_path: Path) -> None:
    made = nodes(tmp_path, *(chain(preset("smoke"), variant, 0) for variant in VARIANTS))
    cost = {node.stage.name: seconds_measured(node.stage) for node in made}
    order, half = Order(tmp_path), sum(cost.values()) / 2
    assert hours(made, 2, cost, list) > 1.05 * half  # as listed
    assert hours(made, 2, cost, lambda ready: order.urgent_first(ready, made, 2)) < 1.04 * half


@pytest.mark.parametrize(("jobs", "first"), [(0, 0), (1, 0), (2, 1)])
def test_the_scheduler_asks_only_where_stages_share_a_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int, first: int
) -> None:
    from tests.studies.engine.test_scheduler import Recorder, scheduler

    monkeypatch.setattr("studies.engine.scheduler.Order.urgent_first", lambda self, ready, nodes, jobs: ready[::-1])
    backend = Recorder()
    backend.jobs = jobs
    tokenizers = [Stage(Tokenizer(train=Train(seed=seed))) for seed in range(2)]
    made = scheduler(tmp_path / "runs", backend, *tokenizers)
    made.step()
    assert backend.submitted == [tokenizers[first].name]
