"""Online distillation, Eq. 13:

    L = L_AR(student) + lambda_feat sum_l ||F_stu^l - sg(F_tea^l)||^2 + lambda_logit KL(p_tea || p_stu)

Where the equation is silent: the squared distance is a mean over tokens and channels (its literal sum grows with width
and batch and would drown the other terms at lambda = 1), the divergence is a mean over tokens, and p_tea is under the
stop-gradient as well: the student's losses shall not bend the teacher towards what the student finds easy.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from fvar.config import DistillConfig
from fvar.machine.transfer import send
from fvar.models.var import VarOutput


def distillation_loss(
    student: VarOutput, teacher: VarOutput, cfg: DistillConfig, patch_nums: Sequence[int]
) -> tuple[Tensor, dict[str, Tensor]]:
    """The two terms that Eq. 13 adds to the student's cross-entropy, weighted and summed.

    Parameters
    ----------
    student, teacher
        Outputs for one batch, both with at least `cfg.feature_blocks` features.
    patch_nums
        Sides p_k of the token maps, for `cfg.scale_weights`.

    Returns
    -------
    The loss, and its parts before weighting, detached: "feature" and "logit" (nats per token). A term of weight
    zero is not computed, so it adds no gradient of any kind.

    Raises
    ------
    ValueError
        Too few features, or scale weights of another number than the scales.
    """
    weights = token_weights(cfg.scale_weights, patch_nums, student.logits)
    loss = student.logits.new_zeros((), dtype=torch.float32)
    parts: dict[str, Tensor] = {}
    if cfg.lambda_feat:
        available = min(len(student.features), len(teacher.features))
        if available < cfg.feature_blocks:
            raise ValueError(f"feature_blocks needs the last {cfg.feature_blocks} blocks' features, found {available}")
        feature = torch.stack(
            [
                ((mine.float() - theirs.detach().float()).square().mean(-1) * weights).mean()
                for mine, theirs in zip(
                    student.features[-cfg.feature_blocks :], teacher.features[-cfg.feature_blocks :], strict=True
                )
            ]
        ).sum()
        parts["feature"] = feature.detach()
        loss = loss + cfg.lambda_feat * feature
    if cfg.lambda_logit:
        each = F.kl_div(student.log_probs, teacher.log_probs.detach(), reduction="none", log_target=True).sum(-1)
        logit = (each * weights).mean()
        parts["logit"] = logit.detach()
        loss = loss + cfg.lambda_logit * logit
    return loss, parts


def token_weights(scale_weights: Sequence[float], patch_nums: Sequence[int], like: Tensor) -> Tensor:
    """One weight per token (L,), normalised to mean 1; all ones where `scale_weights` is empty."""
    counts = [p * p for p in patch_nums]
    if not scale_weights:
        return torch.ones(sum(counts), device=like.device)
    if len(scale_weights) != len(counts):
        raise ValueError(f"scale_weights must hold {len(counts)} weights, one per scale, found {len(scale_weights)}")
    weights = torch.tensor(scale_weights).repeat_interleave(torch.tensor(counts))
    return send(weights / weights.mean(), like.device)
