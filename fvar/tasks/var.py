"""Next-focus prediction as a training task: the student's cross-entropy, the teacher's, and Eq. 13 between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fvar.config import DistillConfig
from fvar.data.token_store import TokenSplit
from fvar.errors import UserError
from fvar.machine.transfer import send
from fvar.models.blocks import Block
from fvar.models.teacher import Teacher
from fvar.models.var import VAR, VarOutput
from fvar.tasks.distill import distillation_loss
from fvar.training.task import Metrics, Task


class Inputs(Protocol):
    """Makes the transformer's teacher-forced input of tokens; a tokenizer's quantiser is one."""

    def var_input(self, indices: list[Tensor]) -> Tensor:
        """Tokens, one (B, p_k^2) int64 tensor per scale, to (B, L - p_1^2, Cz)."""


@dataclass(frozen=True)
class TokenSet:
    """Coded images: structure tokens with their labels, and alias tokens where there is a teacher."""

    structure: TokenSplit
    alias: TokenSplit | None = None

    def __len__(self) -> int:
        return len(self.structure)

    def take(self, items: Tensor, lenders: Tensor) -> TokenBatch:
        """Copy some images' tokens into memory, their alias tokens from the images `lenders`: the same, or others."""
        structure, labels = self.structure.batch(items)
        return TokenBatch(structure, labels, self.alias.batch(lenders)[0] if self.alias is not None else None)


@dataclass(frozen=True)
class TokenBatch:
    """Tokens per scale, each (B, p_k^2) int64, and labels (B,)."""

    structure: list[Tensor]
    labels: Tensor
    alias: list[Tensor] | None

    def to(self, device: torch.device) -> TokenBatch:
        """The same on another device."""
        structure, alias = ([send(t, device) for t in tokens] for tokens in (self.structure, self.alias or []))
        return TokenBatch(structure, send(self.labels, device), alias if self.alias is not None else None)


class VarTask(Task[TokenBatch]):
    """Trains the deployment network, with or without a high-frequency residual teacher.

    One backward pass serves both networks: the teacher's cross-entropy reaches only the teacher's parameters, and the
    student's losses only the student's, since Eq. 13 sees the teacher as a constant. A teacher that is `frozen` has no
    loss of its own. Where alias tokens are `exchanged`, the teacher reads those of another image of the micro-batch: as
    many parameters, and no information about its own image.

    `inputs` is fixed; it computes the transformer's input afresh from the tokens in every step (a cache would hold
    L x Cz numbers an image, over 100 GB for ImageNet, to save about 1 % of a step).
    """

    random_by_image = True

    def __init__(
        self,
        student: VAR,
        inputs: Inputs,
        train: TokenSet,
        heldout: TokenSet,
        *,
        teacher: Teacher | None = None,
        frozen: bool = False,
        exchanged: bool = False,
        distill: DistillConfig,
        eval_images: int,
        eval_batch: int,
        flops_per_item: float = 0.0,
    ) -> None:
        self.student, self.inputs, self.teacher, self.frozen = student.train(), inputs, teacher, frozen
        self.train_set, self.heldout = train, heldout
        self.distill, self.exchanged = distill, exchanged
        self.eval_images, self.eval_batch = min(eval_images, len(heldout)), eval_batch
        self.tokens_per_item = student.scale_ends[-1]
        self.flops_per_item = flops_per_item
        # (L, K): averages a value per token (L,) to one per scale (K,)
        self.per_scale = torch.zeros(student.scale_ends[-1], len(student.patch_nums), device=self.device)
        for scale, (start, end) in enumerate(pairwise((0, *student.scale_ends))):
            self.per_scale[start:end, scale] = 1 / (end - start)
        if teacher is not None:
            teacher.train(not frozen).requires_grad_(not frozen)

    @property
    def size(self) -> int:
        return len(self.train_set)

    @property
    def device(self) -> torch.device:
        return self.student.pos_start.device

    def state_modules(self) -> dict[str, nn.Module]:
        learning = self.teacher if not self.frozen else None
        return {"student": self.student, **({"teacher": learning} if learning is not None else {})}

    def parameter_groups(self, phase: str) -> list[tuple[str, nn.Parameter]]:
        return [
            (f"{network}/{name}", parameter)
            for network, module in self.state_modules().items()
            for name, parameter in module.named_parameters()
        ]

    def fetch(self, indices: Tensor, generator: torch.Generator) -> TokenBatch:
        return self.train_set.take(indices, self._lenders(indices))

    def _lenders(self, items: Tensor) -> Tensor:
        """Whose alias tokens each item gets: its own, or where they are exchanged those of another one, far from it.

        Raises `UserError` where there is no other.
        """
        if self.exchanged and len(items) < 2:
            raise UserError(
                "teacher.alias other takes tokens of another image of the micro-batch, and here it is alone; raise "
                "train.batch_size and train.eval_images, or lower runtime.accumulate"
            )
        return items.roll(len(items) // 2) if self.exchanged else items

    def loss(self, phase: str, batch: TokenBatch, step: int) -> tuple[Tensor, Metrics]:
        """L_total of Eq. 5 for a batch: the student's cross-entropy plus what `distillation_loss` adds (Eq. 13).

        An online teacher's own cross-entropy is added, too; it reaches the teacher's parameters only.
        """
        batch = batch.to(self.device)
        return self._losses(batch, self.student.drop_labels(batch.labels))

    def _losses(self, batch: TokenBatch, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The total loss and its parts; cross-entropies are means over tokens, in nats."""
        targets = torch.cat(batch.structure, dim=1)  # (B, L)
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            var_input = self.inputs.var_input(batch.structure)
        features = self.distill.feature_blocks if self.teacher is not None and self.distill.lambda_feat else 0
        shared = self.teacher.trunk_before if self.teacher is not None else 0
        student = self.student(labels, var_input, features=features, trunk_before=shared)
        loss, metrics = self._cross_entropy(student, targets)
        if self.teacher is None:
            return loss, metrics
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            teacher = self.teacher(labels, var_input, batch.alias or [], features=features, trunk=student.trunk)
            taught, teacher_metrics = self._cross_entropy(teacher, targets)
        distance, parts = distillation_loss(student, teacher, self.distill, self.student.patch_nums)
        metrics |= {f"distill/{key}": value for key, value in parts.items()}
        metrics |= {f"teacher/{key}": value for key, value in teacher_metrics.items()}
        return loss + distance + (0 if self.frozen else taught), metrics

    def _cross_entropy(self, output: VarOutput, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean over all tokens, and cross-entropy and accuracy as they are logged, also per scale."""
        each = F.nll_loss(output.log_probs.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
        loss = each.mean()
        with torch.no_grad():
            hits = (output.logits.argmax(-1) == targets).float()
            metrics = {"cross_entropy": loss.detach(), "accuracy": hits.mean()}
            for name, value in (("cross_entropy", each.detach()), ("accuracy", hits)):
                scales = value.mean(0) @ self.per_scale  # (K,)
                metrics |= {f"{name}/scale{k}": v for k, v in enumerate(scales.unbind(), start=1)}
        return loss, metrics

    def heldout_loss(self, metrics: Mapping[str, float]) -> float | None:
        return metrics.get("cross_entropy")

    def shards(self) -> list[nn.Module]:
        """The three parts of every block, for a teacher does not call its blocks as a whole; and both networks."""
        networks = [network for network in (self.student, self.teacher) if network is not None]
        blocks = [module for network in networks for module in network.modules() if isinstance(module, Block)]
        return [*(part for block in blocks for part in block.children()), *networks]

    def evaluate(self, step: int) -> dict[str, float]:
        """Means over `eval_images` held-out images, evenly spread over all of them, with their true labels."""
        if not self.eval_images:
            return {}
        totals: dict[str, Tensor] = {}
        networks = [network for network in (self.student, self.teacher) if network is not None]
        modes = [network.training for network in networks]
        for network in networks:
            network.eval()
        chosen = torch.arange(self.eval_images) * len(self.heldout) // self.eval_images
        cut = [torch.split(each, self.eval_batch) for each in (chosen, self._lenders(chosen))]
        for rows, lenders in zip(*cut, strict=True):
            batch = self.heldout.take(rows, lenders).to(self.device)
            _, metrics = self._losses(batch, batch.labels)
            for key, value in metrics.items():
                totals[key] = totals.get(key, torch.zeros_like(value)) + value.float() * len(rows)
        for network, mode in zip(networks, modes, strict=True):
            network.train(mode)
        return {key: (value / self.eval_images).item() for key, value in totals.items()}
