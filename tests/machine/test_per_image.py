"""What is drawn for an image does not depend on how its batch was cut."""

from __future__ import annotations

import itertools

import torch
from hypothesis import given
from hypothesis import strategies as st

from fvar.machine import per_image

CPU = torch.device("cpu")


@given(cuts=st.lists(st.integers(0, 12), max_size=4), draws=st.integers(1, 3))
def test_parts_together_hold_the_numbers_of_the_whole(cuts: list[int], draws: int) -> None:
    torch.manual_seed(1)
    whole = torch.stack([per_image.rand(12, CPU) for _ in range(draws)])
    edges = [0, *sorted(cuts), 12]
    parts = []
    for first, end in itertools.pairwise(edges):
        torch.manual_seed(1)
        with per_image.part(first, 12):
            parts.append(torch.stack([per_image.rand(end - first, CPU) for _ in range(draws)]))
    assert torch.equal(torch.cat(parts, dim=1), whole)


def test_outside_a_part_it_is_torchs_own_stream() -> None:
    torch.manual_seed(2)
    expected = torch.rand(7, 1, 1)
    torch.manual_seed(2)
    assert torch.equal(per_image.rand(7, CPU), expected.flatten())
