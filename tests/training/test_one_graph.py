"""torch.compile sees a step as one graph, without a break, at which a GPU would wait for Python.

Tracing needs no compiler and no GPU: what `fullgraph` refuses here, it refuses there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fvar.stages.var import build_task
from fvar.tasks.var import VarTask
from tests import tiny as networks
from tests.training import tiny


@pytest.mark.parametrize(
    "changes",
    [{}, {"teacher": tiny.TEACHER}, {"teacher": tiny.SHARED}, {"transformer": tiny.MVAR}],
    ids=["student", "separate teacher", "shared trunk", "M-VAR"],
)
def test_the_loss_of_a_step_is_one_graph(tmp_path: Path, changes: dict[str, Any]) -> None:
    torch._dynamo.reset()
    task = build_task(tiny.make_run(tmp_path, tiny.var_stage(**changes)))
    assert isinstance(task, VarTask)
    batch, losses, gradients = task.fetch(torch.arange(4), torch.Generator()), [], []
    for loss in (task.loss, torch.compile(task.loss, fullgraph=True, backend="eager")):
        torch.manual_seed(0)
        task.student.zero_grad()
        value = loss("train", batch, 0)[0]
        value.backward()
        assert task.student.word_embed.weight.grad is not None
        losses.append(value.item())
        gradients.append(task.student.word_embed.weight.grad.clone())
    assert losses[0] == losses[1]
    assert torch.equal(*gradients)


def test_decoder_and_encoder_are_one_graph_each() -> None:
    torch._dynamo.reset()
    vqvae = networks.vqvae()
    f_hat, image = torch.randn(2, networks.CHANNELS, 3, 3), torch.randn(2, 3, 6, 6)
    with torch.no_grad():
        for run, given in ((vqvae.decode, f_hat), (vqvae.encode, image)):
            assert torch.equal(torch.compile(run, fullgraph=True, backend="eager")(given), run(given))
