"""The paper's method and its ablations as chains of stages: which tokenizers feed which student, taught or not.

Tokenizers are trained once, with seed 0, and shared by every seed of a study: a seed stands for the training of the
transformer and for the sampling. Intervals then do not cover the tokenizers. Where the preset says so
(`tokenizers_by_seed`; --tokenizer-seeds), a seed is everything, tokenizers too.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

from fvar.config import DistillConfig, Kernel, Mixer, Reading, Stage, TeacherConfig
from studies.presets import Preset


@dataclass(frozen=True)
class Variant:
    """One row of the paper's Table 2."""

    label: str
    reading: Reading = "focus"  # of the structure tokenizer; latent_area is VAR's own
    kernel: Kernel = "disk"
    teacher: bool = True
    dual: bool = True  # off: the structure tokenizer codes the alias residual, too


VARIANTS = {
    "baseline": Variant("VAR (baseline)", reading="latent_area", teacher=False),
    "full": Variant("FVAR (full)"),
    "no_refocusing": Variant("w/o progressive refocusing", reading="latent_area"),
    "gaussian": Variant("w/ Gaussian blur", kernel="gaussian"),
    "no_teacher": Variant("w/o high-frequency teacher", teacher=False),
    "no_dual": Variant("w/o dual tokenizers", dual=False),
}


def chain(
    preset: Preset,
    variant: str,
    seed: int,
    *,
    rho_max: float | None = None,
    distill: DistillConfig | None = None,
    teacher: TeacherConfig | None = None,
    depth: int | None = None,
    reading: Reading | None = None,
    mixer: Mixer | None = None,
    kernel: Kernel | None = None,
    steps: int | None = None,
) -> Stage:
    """The scores stage of a variant, with everything it needs above it. `rho_max` is in px of a 256 px image.

    `teacher` replaces the settings of the teacher in a variant that has one, `reading` what its structure tokenizer
    codes, `kernel` that of both tokenizers' pyramids, `steps` those of the transformer's training. A teacher that
    learns "frozen" is that of the same variant and seed, trained online beforehand.
    """
    asked = VARIANTS[variant]
    changed = reading or kernel
    kind = replace(asked, reading=reading or asked.reading, kernel=kernel or asked.kernel) if changed else asked
    taught_by = (teacher or TeacherConfig()) if kind.teacher else None
    reads_alias = taught_by is not None and taught_by.reads_alias
    inputs = _token_stores(preset, kind, rho_max, preset.tokenizer_seed(seed), reads_alias)
    if taught_by and taught_by.learns == "frozen":
        online = preset.var(replace(taught_by, learns="online"), seed, distill, depth, mixer)
        inputs = inputs | {"teacher": Stage(online, inputs)}
    config = preset.var(taught_by, seed, distill, depth, mixer)
    var = Stage(replace(config, train=replace(config.train, steps=steps)) if steps else config, inputs)
    samples = Stage(preset.samples(seed), {"var": var})
    return Stage(preset.scores(), {"samples": samples})


@functools.cache  # one object for all seeds, whose signature is computed once: that is what a large plan costs
def _token_stores(
    preset: Preset, kind: Variant, rho_max: float | None, seed: int, reads_alias: bool
) -> dict[str, Stage]:
    """What a variant's transformer reads, by role."""
    structure = Stage(preset.tokenizer("structure", kind.kernel, kind.reading, rho_max, seed))
    inputs = {"tokens": Stage(preset.tokens("structure"), {"tokenizer": structure})}
    if reads_alias:
        coder = Stage(preset.tokenizer("alias", kind.kernel, rho_max=rho_max, seed=seed)) if kind.dual else structure
        inputs["alias"] = Stage(preset.tokens("alias"), {"tokenizer": coder})
    return inputs
