"""Stages before the transformer on two ranks: the token store, and a tokenizer."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from numpy.typing import NDArray

from fvar.config import RuntimeConfig, Stage, TokenizerConfig, TokensConfig
from fvar.data.token_store import TokenStore, write_array
from fvar.machine import distributed
from fvar.run import execute
from fvar.rundir import RunDir
from fvar.stages import tokenizer as tokenizer_stage
from fvar.stages import tokens as tokens_stage
from fvar.tasks.tokenizer import TokenizerTask
from fvar.training.loop import train
from tests.tasks.test_tokenizer import config
from tests.training.processes import execute_stage, records, run_ranks

RUNTIME = RuntimeConfig(device="cpu", threads=1, log_every=1)


def store(root: Path) -> RunDir:
    """The directory of a token store with two crops of every image, after an untrained tokenizer."""
    tokenizer = Stage(config())
    data = dataclasses.replace(config().data, crop="random", flip=True, crops=2)
    run = RunDir.create(root, Stage(TokensConfig(data=data), {"tokenizer": tokenizer}), RUNTIME)
    task = TokenizerTask(config(), torch.device("cpu"))
    torch.nn.init.normal_(task.vqvae.quantize.embedding.weight, generator=torch.Generator().manual_seed(0))
    tokenizer_stage.save(run.input("tokenizer"), task.state_modules())
    run.input("tokenizer").update(state="done")
    return run


def contents(run: RunDir) -> dict[str, bytes]:
    files = (path for path in run.path.rglob("*") if path.suffix == ".npy" or path.name == "manifest.json")
    return {str(path.relative_to(run.path)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    run = store(tmp_path_factory.mktemp("one"))
    execute(run.path)
    return run


def test_two_ranks_write_the_store_of_one_byte_for_byte(tmp_path: Path, one_rank: RunDir) -> None:
    run = store(tmp_path)
    assert run_ranks(2, execute_stage, run.path) == [0, 0]
    assert contents(run) == contents(one_rank)
    assert len(contents(run)) == 2 * 4 + 1


def dies_after(path: Path, chunks: int) -> None:
    """Run the stage; the last rank dies when it has written its share of chunks."""
    written: list[Path] = []

    def write(target: Path, array: NDArray[Any]) -> None:
        if os.environ["RANK"] == "1" and len(written) == chunks:
            os._exit(9)
        written.append(target)
        write_array(target, array)

    pytest.MonkeyPatch().setattr(tokens_stage, "write_array", write)
    execute_stage(path)


@pytest.mark.parametrize("ranks", [1, 2])
def test_what_a_dead_rank_left_out_is_coded_by_any_number_of_ranks(
    tmp_path: Path, one_rank: RunDir, ranks: int
) -> None:
    run = store(tmp_path)
    assert run_ranks(2, dies_after, run.path, 2) == [1, 9]
    left = {path.name: path.stat().st_mtime_ns for path in (run.path / "parts").iterdir()}
    assert len(left) > 2
    assert run_ranks(ranks, execute_stage, run.path) == [0] * ranks
    assert contents(run) == contents(one_rank)
    assert TokenStore.open(run).vocab_size == 64


# ---------------------------------------------------------------------------------------------------------- tokenizers


def train_tokenizer(path: Path, config: TokenizerConfig, twin: Path) -> None:
    """Train, and leave what each rank holds in the end."""
    torch.set_num_threads(1)
    with distributed.process_group(torch.device("cpu")):
        task = TokenizerTask(config, torch.device("cpu"))
        train(task, RunDir.open(path), config.train)
        weights = {key: value for key, value in task.vqvae.state_dict().items() if "vocab_hit" not in key}
        torch.save(weights, twin / f"rank{distributed.rank()}.pt")


def test_both_ranks_hold_the_same_tokenizer_in_the_end(tmp_path: Path) -> None:
    """The codebook is not a parameter of DDP: its running means, and the codes that restart, are exchanged by hand."""
    settings = config(train__steps=25, train__eval_every=25, quantiser__dead_after=3)
    run = RunDir.create(tmp_path / "runs", Stage(settings), RUNTIME)
    assert run_ranks(2, train_tokenizer, run.path, settings, tmp_path) == [0, 0]
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(first[key], second[key]) for key in first)
    losses = [record["loss"] for record in run.metrics("train")]
    assert losses[-1] < losses[0]
    shutil.rmtree(tmp_path)


def test_a_tokenizer_without_random_numbers_trains_on_two_ranks_as_on_one(tmp_path: Path) -> None:
    """View noise, coarse views and codes that restart are drawn by each rank for itself."""
    settings = config(
        train__steps=12,
        train__eval_every=6,
        pyramid__beta=(0.0, 0.0),
        loss__coarse_views=0.0,
        quantiser__codebook="gradient",
    )
    alone = RunDir.create(tmp_path / "one", Stage(settings), RUNTIME)
    execute(alone.path)
    run = RunDir.create(tmp_path / "two", Stage(settings), RUNTIME)
    assert run_ranks(2, execute_stage, run.path) == [0, 0]
    for ours, theirs in zip(records(run.path), records(alone.path), strict=True):
        assert ours.pop("split") == theirs.pop("split")
        assert ours == {key: pytest.approx(value, abs=1e-5, rel=1e-5) for key, value in theirs.items()}
