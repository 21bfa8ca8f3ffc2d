"""Muon: what it does to a matrix, what it leaves to AdamW, and that it survives a kill."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fvar.config import TrainConfig
from fvar.errors import UserError
from fvar.training import optim
from fvar.training.muon import RMS, Muon, orthogonalised


def matrix_of(singular_values: list[float], columns: int = 7) -> Tensor:
    """(1, n, columns) with these singular values."""
    generator = torch.Generator().manual_seed(0)
    n = len(singular_values)
    left = torch.linalg.qr(torch.randn(n, n, generator=generator))[0]
    right = torch.linalg.qr(torch.randn(columns, columns, generator=generator))[0][:n]
    made: Tensor = left @ torch.diag(torch.tensor(singular_values)) @ right
    return made[None]


@pytest.mark.parametrize("turned", [False, True])
def test_all_directions_of_a_matrix_move_alike_and_none_turns(turned: bool) -> None:
    given = matrix_of([3.0, 1.0, 0.3, 0.1])
    made = orthogonalised(given.mT if turned else given, iterations=5)
    made = made.mT if turned else made
    values = torch.linalg.svdvals(made[0])
    assert 0.6 < float(values.min()) <= float(values.max()) < 1.3
    u, _, vh = torch.linalg.svd(given[0], full_matrices=False)
    inner = u.T @ made[0] @ vh.T  # diagonal where the singular vectors are kept
    torch.testing.assert_close(inner, torch.diag(inner.diagonal()), atol=1e-4, rtol=0)


def test_an_update_is_about_as_large_as_adamws() -> None:
    weight = nn.Parameter(torch.zeros(48, 64))
    optimiser = Muon([weight], [], lr=0.01, betas=(0.9, 0.95), weight_decay=0.0)
    weight.grad = torch.randn(48, 64, generator=torch.Generator().manual_seed(0))
    optimiser.step()
    size = float(weight.detach().square().mean().sqrt())
    assert size == pytest.approx(0.01 * RMS, rel=0.4)


def test_a_convolutions_kernel_is_one_matrix() -> None:
    kernel = torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(1))
    as_kernel, as_matrix = nn.Parameter(torch.zeros(8, 4, 3, 3)), nn.Parameter(torch.zeros(8, 36))
    for weight in (as_kernel, as_matrix):
        optimiser = Muon([weight], [], lr=0.1, betas=(0.9, 0.95), weight_decay=0.0)
        weight.grad = kernel.view_as(weight).clone()
        optimiser.step()
    assert torch.equal(as_kernel.flatten(1), as_matrix)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.ModuleDict({"class_emb": nn.Embedding(5, 6), "fc": nn.Linear(6, 6), "head": nn.Linear(6, 5)})


def loss_of(net: nn.Module, seed: int) -> Tensor:
    labels = torch.randint(5, (16,), generator=torch.Generator().manual_seed(seed))
    assert isinstance(net, nn.ModuleDict)
    return nn.functional.cross_entropy(net["head"](net["fc"](net["class_emb"](labels)).tanh()), labels)


def step(net: nn.Module, optimiser: torch.optim.Optimizer, seed: int) -> float:
    loss = loss_of(net, seed)
    loss.backward()
    optimiser.step()
    optimiser.zero_grad()
    return float(loss.detach())


def made(net: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    return optim.make(list(net.named_parameters()), config)


MUON = TrainConfig(optimiser="muon", lr=0.02, batch_size=256)


def test_matrices_follow_muon_and_the_rest_adamw() -> None:
    net = network()
    optimiser = made(net, MUON)
    step(net, optimiser, 0)
    kinds = {name: set(optimiser.state[p]) for name, p in net.named_parameters()}
    assert {name for name, kind in kinds.items() if kind == {"momentum"}} == {"fc.weight", "head.weight"}
    assert {name for name, kind in kinds.items() if "exp_avg" in kind} == {"class_emb.weight", "fc.bias", "head.bias"}


def test_it_learns() -> None:
    net = network()
    optimiser = made(net, MUON)
    losses = [step(net, optimiser, seed) for seed in range(60)]
    assert losses[-1] < 0.5 * losses[0]


def test_a_restored_optimiser_goes_on_bit_for_bit() -> None:
    net = network()
    optimiser = made(net, MUON)
    for seed in range(3):
        step(net, optimiser, seed)
    named = list(net.named_parameters())
    saved = {key: value.clone() for key, value in optim.pack(optimiser, named).items()}
    other = network(9)
    other.load_state_dict(net.state_dict())
    fresh = made(other, MUON)
    optim.unpack(fresh, list(other.named_parameters()), saved)
    for one, optimiser_of_one in ((net, optimiser), (other, fresh)):
        optim.set_lr(optimiser_of_one, 0.01)
        step(one, optimiser_of_one, 7)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize("decayed", [True, False])
def test_the_class_embedding_decays_where_the_configuration_says_so(kind: str, decayed: bool) -> None:
    config = TrainConfig(optimiser=kind, decay_classes=decayed)  # type: ignore[arg-type]
    net = network()
    groups = made(net, config).param_groups
    found = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    wanted = {name: found[id(p)] for name, p in net.named_parameters()}
    assert wanted["fc.weight"] == wanted["head.weight"] == 0.05
    assert wanted["class_emb.weight"] == (0.05 if decayed else 0.0)
    assert wanted["fc.bias"] == 0.0


def test_half_precision_that_overflows_is_refused() -> None:
    with pytest.raises(UserError, match="use bf16 or fp32"):
        TrainConfig(optimiser="muon", precision="fp16")
