"""Stage `tokenizer`: trains one tokenizer.

model.safetensors       the VQVAE under the original VAR's keys
companion.safetensors   the signal's scale and the codebook's statistics
reconstruction.png      held-out images, what each prefix of scales decodes to, the reconstruction
metrics.jsonl           besides the training's: PSNR, SSIM, L1 and rFID after every scale (split "reconstruction")
"""

from __future__ import annotations

from safetensors.torch import save_file
from torch import Tensor, nn

from fvar.config import TokenizerConfig
from fvar.errors import spared
from fvar.estimate import estimate, stage_of
from fvar.machine import atomic, distributed
from fvar.rundir import RunDir
from fvar.tasks.tokenizer import TokenizerTask
from fvar.tokenizer.bundle import COMPANION_FILE, MODEL_FILE, load_tokenizer
from fvar.tokenizer.figure import reconstruction_sheet
from fvar.training.loop import train


def run(run: RunDir) -> None:
    """Train, or continue training, the tokenizer of `run`; write its files at the end."""
    config = run.config_as(TokenizerConfig)
    device = distributed.pick_device(run.runtime.device)
    task = TokenizerTask(config, device, run.runtime.workers, estimate(stage_of(run)).model_flops_per_image)
    train(task, run, config.train)
    if distributed.rank() > 0:
        return
    modules = task.state_modules()
    save(run, modules)
    tokenizer = load_tokenizer(run, device)
    with spared("reconstruction.png is not drawn"), atomic.replacing(run.path / "reconstruction.png") as temporary:
        reconstruction_sheet(tokenizer, task.heldout).save(temporary)
    if config.rfid_images and config.signal == "structure":
        with spared("the reconstruction is not measured"):
            log_reconstruction(run, config)
    print(summary(run))


def log_reconstruction(run: RunDir, config: TokenizerConfig) -> None:
    """Record what the finished tokenizer keeps of held-out images; a value not defined or not measured is left out."""
    from fvar.metrics.reconstruction import measure  # the packages that score take seconds to import

    body = measure(run, "heldout", config.rfid_images, device=run.runtime.device)
    values: dict[str, float] = {}
    for row in body["scales"]:
        found = {key: row[key] for key in ("psnr", "psnr_view", "ssim", "l1")}
        found |= {f"{key}_{body['count']}": row[key]["value"] for key in ("rfid", "rkid")}
        values |= {f"{key}/scale{row['scale']}": value for key, value in found.items() if value is not None}
    run.log_metrics(config.train.steps, values, split="reconstruction")
    if reason := body["scales"][-1]["rfid"]["reason"]:
        print(f"rFID is not logged: {reason}")


def save(run: RunDir, modules: dict[str, nn.Module]) -> None:
    """Write the weights of a task's modules (`vqvae`, `scaler`, and `codebook` where it has one)."""
    companions = {
        f"{name}.{key}": value
        for name in ("scaler", "codebook")
        if name in modules
        for key, value in modules[name].state_dict().items()
    }
    files: dict[str, dict[str, Tensor]] = {MODEL_FILE: modules["vqvae"].state_dict(), COMPANION_FILE: companions}
    for file, tensors in files.items():
        with atomic.replacing(run.path / file) as temporary:
            save_file({key: value.contiguous() for key, value in tensors.items()}, temporary)


def summary(run: RunDir) -> str:
    """One line about the last held-out evaluation."""
    records = run.metrics("heldout")
    if not records:
        return f"{run.name}: no held-out evaluation"
    last = records[-1]
    quality = "no scale carries a signal"  # as an alias residual at rho_max = 0
    if "psnr" in last:
        quality = f"held-out PSNR {last['psnr']:.1f} dB, explained variance {last['explained']:.3f}"
    book = f"codebook usage {last['usage']:.1%}, perplexity {last['perplexity']:.0f}"
    return f"{run.name}: {quality}, {book}; see {run.path}/reconstruction.png"
