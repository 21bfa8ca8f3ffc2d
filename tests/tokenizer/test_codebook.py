"""Codes follow the data they stand for, and none stays out of use."""

import os
import socket
from pathlib import Path

import torch
from torch import Tensor

from fvar.config import QuantiserConfig
from fvar.machine import distributed
from fvar.tokenizer.codebook import EmaCodebook
from fvar.tokenizer.quantiser import MultiScaleQuantiser
from fvar.tokenizer.usage import CodebookUsage
from tests.training.processes import start


def nearest(codes: Tensor, vectors: Tensor) -> Tensor:
    return torch.cdist(vectors, codes).argmin(1)


def test_first_update_seeds_every_code_from_the_batch() -> None:
    torch.manual_seed(0)
    book, codes, vectors = EmaCodebook(QuantiserConfig(vocab_size=8), 3), torch.zeros(8, 3), torch.randn(50, 3)
    book.update(codes, [nearest(codes, vectors)], [vectors])
    assert (torch.cdist(codes, vectors).min(1).values < 1e-6).all()
    assert len(torch.unique(codes, dim=0)) == 8


def test_small_scales_get_their_share_of_the_seeds() -> None:
    torch.manual_seed(0)
    book, codes = EmaCodebook(QuantiserConfig(vocab_size=40), 1), torch.zeros(40, 1)
    coarse, fine = torch.full((50, 1), 1.0), torch.full((5000, 1), -1.0)
    book.update(codes, [torch.zeros(50).long(), torch.zeros(5000).long()], [coarse, fine])
    assert 10 <= int((codes > 0).sum()) <= 30  # about half, although 1 % of the vectors are coarse


def test_codes_converge_to_the_means_of_their_clusters() -> None:
    torch.manual_seed(0)
    centres = torch.tensor([[-4.0, 0.0], [4.0, 0.0], [0.0, 5.0]])
    book, codes = EmaCodebook(QuantiserConfig(vocab_size=3, ema_decay=0.9, dead_after=5), 2), torch.zeros(3, 2)
    for _ in range(150):
        vectors = centres.repeat(40, 1) + 0.3 * torch.randn(120, 2)
        book.update(codes, [nearest(codes, vectors)], [vectors])
    assert torch.cdist(centres, codes).min(1).values.max() < 0.15


def test_a_code_nobody_uses_restarts_after_so_many_steps_and_not_before() -> None:
    torch.manual_seed(0)
    book, codes = EmaCodebook(QuantiserConfig(vocab_size=2, dead_after=10), 1), torch.zeros(2, 1)
    first = torch.tensor([[0.0], [100.0]])
    book.update(codes, [nearest(codes, first)], [first])
    near = torch.tensor([[0.1], [-0.1]])
    for _ in range(9):
        book.update(codes, [nearest(codes, near)], [near])
    assert codes.max() == 100
    book.update(codes, [nearest(codes, near)], [near])
    assert codes.max() < 1


def test_restarts_keep_a_codebook_of_an_overwide_vocabulary_in_use() -> None:
    """Codes seeded for one distribution, data moved to another: without restarts most stay behind."""

    def used(dead_after: int) -> float:
        torch.manual_seed(0)
        q = MultiScaleQuantiser(QuantiserConfig(vocab_size=64, dead_after=dead_after, ema_decay=0.9), 4, (1, 4))
        book = EmaCodebook(QuantiserConfig(vocab_size=64, dead_after=dead_after, ema_decay=0.9), 4)
        usage = CodebookUsage((1, 4), 64)
        for step in range(80):
            centre = torch.tensor([20.0, 0, 0, 0]) if step else torch.zeros(4)
            f = torch.randn(16, 4, 4, 4) + centre[:, None, None]
            coded = q.quantise([f.mean((2, 3), keepdim=True), f])
            book.update(q.embedding.weight, [i.flatten() for i in coded.indices], coded.residuals)
            if step >= 60:
                usage.add(coded.indices)
        return usage.summary()["usage"]

    assert used(dead_after=5) > 0.9
    assert used(dead_after=0) < 0.7


def test_a_batch_with_nan_leaves_the_codebook_alone() -> None:
    book, codes = EmaCodebook(QuantiserConfig(vocab_size=4), 2), torch.randn(4, 2)
    good = torch.randn(9, 2)
    book.update(codes, [nearest(codes, good)], [good])
    before = codes.clone(), book.sums.clone()
    book.update(codes, [torch.zeros(9).long()], [torch.full((9, 2), float("nan"))])
    assert torch.equal(codes, before[0])
    assert torch.equal(book.sums, before[1])


def update_thrice(rank: int, world: int, port: int, out: Path) -> None:
    """Three updates of one codebook by one of several ranks, each with its share of the same vectors."""
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    with distributed.process_group(torch.device("cpu")):
        book, codes = seeded_book()
        for scales in batches():
            mine = [vectors[rank::world] for vectors in scales]
            book.update(codes, [nearest(codes, vectors) for vectors in mine], mine)
        torch.save({"codes": codes, **book.state_dict()}, out / f"rank{rank}")


def seeded_book() -> tuple[EmaCodebook, Tensor]:
    """Six codes far apart; the last one nobody uses, until it restarts in the second update."""
    codes = 3 * torch.eye(6, 4)
    codes[5] = -50
    book = EmaCodebook(QuantiserConfig(vocab_size=6, ema_decay=0.5, dead_after=2), 4)
    book.unused.zero_()
    return book, codes


def batches() -> list[list[Tensor]]:
    """Vectors of two scales; in the second step all of a scale are alike, so it does not matter which one restarts."""
    generator = torch.Generator().manual_seed(0)
    steps = [[torch.randn(8, 4, generator=generator), torch.randn(40, 4, generator=generator)] for _ in range(3)]
    steps[1] = [torch.ones(8, 4), torch.ones(40, 4)]
    return steps


def test_two_ranks_keep_the_statistics_of_one(tmp_path: Path) -> None:
    book, codes = seeded_book()
    for scales in batches():
        book.update(codes, [nearest(codes, vectors) for vectors in scales], scales)
    assert codes[5].min() > -50, "the idle code restarted"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [start(update_thrice, rank, 2, port, tmp_path) for rank in range(2)]
    for process in processes:
        process.join(60)
    for rank in range(2):
        theirs = torch.load(tmp_path / f"rank{rank}", weights_only=True)
        torch.testing.assert_close(theirs, {"codes": codes, **book.state_dict()})


def test_perplexity_of_even_use_is_the_vocabulary_and_of_one_code_is_one() -> None:
    even, single = CodebookUsage((4,), 16), CodebookUsage((4,), 16)
    even.add([torch.arange(16)[None]])
    single.add([torch.full((1, 16), 3)])
    assert abs(even.summary()["perplexity/4"] - 16) < 1e-9
    assert even.summary()["usage"] == 1.0
    assert abs(single.summary()["perplexity"] - 1) < 1e-9
    assert single.summary()["usage/4"] == 1 / 16
