"""Stage `var`: trains the deployment network, alone or beside its high-frequency residual teacher.

model.safetensors     the student under the original VAR's keys: all that is deployed
teacher.safetensors   the teacher, where it learned in this run; another run may use it frozen (its input `teacher`)
"""

from __future__ import annotations

from collections.abc import Container, Mapping

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fvar.config import CurveConfig, TeacherConfig, VarConfig
from fvar.data.token_store import TokenStore
from fvar.errors import UserError
from fvar.estimate import estimate, stage_of
from fvar.machine import atomic, distributed
from fvar.machine.seeds import seed_for
from fvar.machine.weights import load_strictly
from fvar.models.loading import MODEL_FILE
from fvar.models.teacher import Teacher
from fvar.models.var import VAR
from fvar.rundir import RunDir
from fvar.tasks.var import TokenSet, VarTask
from fvar.tokenizer.bundle import load_tokenizer
from fvar.tokenizer.vqvae import VQVAE
from fvar.training import sharding
from fvar.training.loop import train
from fvar.training.probes import Measure, Probe

TEACHER_FILE = "teacher.safetensors"


def run(run: RunDir) -> None:
    """Train, or continue training, the networks of `run`; write their weights at the end."""
    task = build_task(run)
    train(task, run, run.config_as(VarConfig).train)
    weights = {name: sharding.whole(module.state_dict()) for name, module in task.state_modules().items()}
    if distributed.rank() == 0:
        for file, name in ((MODEL_FILE, "student"), (TEACHER_FILE, "teacher")):
            if name in weights:
                _save(run, file, weights[name])
        print(_summary(run))


def build_task(run: RunDir) -> VarTask:
    """The networks, seeded, and the data of a var run.

    Raises `UserError` where its inputs are missing or do not fit each other.
    """
    config = run.config_as(VarConfig)
    device = distributed.pick_device(run.runtime.device)
    store = TokenStore.open(run.input("tokens"))
    alias = _alias_store(run, config, store)
    vqvae = load_tokenizer(run.input("tokens").input("tokenizer"), device).vqvae

    torch.manual_seed(seed_for(config.train.seed, "init"))
    shape = (store.num_classes, store.vocab_size, vqvae.z_channels, store.patch_nums)
    student = VAR(config.transformer, *shape)
    teacher: Teacher | None = None
    if config.teacher:
        require_fit(config, config.teacher)
        coded = (alias.vocab_size, alias.silent) if alias else (0, ())
        # Drawn after the student, which so starts alike in every variant of a seed.
        teacher = Teacher(config.transformer, config.teacher, *shape, *coded).to(device)
        teacher.copy_deployment(student)
        if config.teacher.learns == "frozen":
            _load_frozen(teacher, run, config.teacher)
    task = VarTask(
        student.to(device),
        vqvae.quantize,  # without encoder and decoder, which then need no memory
        TokenSet(store.train, alias.train if alias else None),
        TokenSet(store.heldout, alias.heldout if alias else None),
        teacher=teacher,
        frozen=config.teacher is not None and config.teacher.learns == "frozen",
        exchanged=config.teacher is not None and config.teacher.alias == "other",
        distill=config.distill,
        eval_images=config.train.eval_images,
        eval_batch=config.train.batch_size,
        flops_per_item=estimate(stage_of(run)).model_flops_per_image,
    )
    if config.curve.every:
        task.probe = Probe(config.curve.every, "student", lambda: _curve(run, config.curve, task.student, vqvae))
    return task


def _curve(run: RunDir, config: CurveConfig, student: VAR, vqvae: VQVAE) -> Measure:
    # The packages that score take seconds to import.
    from fvar.stages.scores import feature_cache, reference
    from fvar.tasks.sample_curve import SampleCurve

    return SampleCurve(config, student, vqvae, reference(config.scores, run.runtime.workers), feature_cache(run))


def _alias_store(run: RunDir, config: VarConfig, store: TokenStore) -> TokenStore | None:
    if config.teacher is None or not config.teacher.reads_alias:
        return None
    alias = TokenStore.open(run.input("alias"))
    store.require_same_items(alias)
    if alias.patch_nums != store.patch_nums:
        raise UserError(f"{run.name}: alias tokens have scales {alias.patch_nums}, structure tokens {store.patch_nums}")
    return alias


def require_fit(config: VarConfig, teacher: TeacherConfig) -> None:
    """Raise `UserError` where the features that are distilled are more than the teacher has."""
    own = teacher.blocks if teacher.trunk == "shared" else config.transformer.depth
    if config.distill.lambda_feat and config.distill.feature_blocks > own:
        raise UserError(
            f"distill.feature_blocks is {config.distill.feature_blocks}, but the teacher (trunk {teacher.trunk}) has "
            f"{own} blocks of its own; lower it or raise {'teacher.blocks' if own == teacher.blocks else 'depth'}"
        )


def require_frozen(config: TeacherConfig, inputs: Container[str]) -> None:
    """Raise `UserError` where a frozen teacher cannot be another run's."""
    if config.trunk == "shared":
        raise UserError("teacher.learns frozen needs teacher.trunk separate: a shared trunk is the student's and moves")
    if "teacher" not in inputs:
        raise UserError(
            "teacher.learns is frozen, so the stage needs an input 'teacher': a var run whose teacher learned online"
        )


def _load_frozen(teacher: Teacher, run: RunDir, config: TeacherConfig) -> None:
    """Take the teacher another run trained on the same tokens."""
    require_frozen(config, run.input_names)
    source = run.input("teacher")
    for role in ("tokens", "alias"):
        if source.input_names.get(role) != run.input_names.get(role):
            raise UserError(f"{source.name} learned from other {role} than {run.name}; name a teacher of the same")
    path = source.path / TEACHER_FILE
    if not path.exists():
        raise UserError(f"{path} does not exist: {source.name} trained without a teacher of its own")
    load_strictly(teacher, load_file(path), str(path))


def _save(run: RunDir, file: str, weights: Mapping[str, Tensor]) -> None:
    with atomic.replacing(run.path / file) as temporary:
        save_file({key: value.detach().cpu().contiguous() for key, value in weights.items()}, temporary)


def _summary(run: RunDir) -> str:
    records = run.metrics("heldout")
    if not records:
        return f"{run.name}: no held-out evaluation"
    last = records[-1]
    return f"{run.name}: held-out cross-entropy {last['cross_entropy']:.4f} nats, accuracy {last['accuracy']:.1%}"
