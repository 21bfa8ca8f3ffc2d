"""Checkpoints of the originals, in and out, and proof that they and fvar compute the same.

The originals are VAR (FoundationVision/VAR) and M-VAR (OliverRensu/MVAR), whose tokenizer is VAR's.

    python -m fvar.compat verify FILE.safetensors
    python -m fvar.compat export RUN_DIR --vae vae.pth --var var.pth
    python -m fvar.compat import --vae vae.pth --var var.pth RUN_DIR

`verify` recomputes every `out.*` tensor of a golden file (see fvar.golden) from its inputs and weights; status 1 on any
difference above tolerance. `import` makes run directories of the original's weights beside RUN_DIR, which becomes a
link to the transformer's: `python -m fvar.sample RUN_DIR` works on it. Pickled files are read with weights_only.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from fvar.errors import UserError, run_main

if TYPE_CHECKING:
    from torch import Tensor


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m fvar.compat", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="verify | export | import")
    command = commands.add_parser("verify", help="compare with tensors the original computed")
    command.add_argument("file", type=Path)
    for name, what in (("export", "write a run's networks"), ("import", "make a run of the original's networks")):
        command = commands.add_parser(name, help=what)
        command.add_argument("run", type=Path, metavar="RUN_DIR")
        command.add_argument("--vae", type=Path, required=True, metavar="vae.pth")
        command.add_argument("--var", type=Path, required=True, metavar="var.pth")
    args = parser.parse_args(argv)
    if args.command == "verify":
        from fvar.golden import verify

        return verify(args.file)
    if args.command == "export":
        export(args.run, args.vae, args.var)
    else:
        import_(args.vae, args.var, args.run)
    return 0


# ------------------------------------------------------------------------------------------------------ export, import


def export(path: Path, vae: Path, var: Path) -> None:
    """Write a var run's student and its structure tokenizer as the original's two state dicts."""
    import torch

    from fvar.machine import atomic
    from fvar.models.loading import load_var
    from fvar.rundir import RunDir
    from fvar.tokenizer.bundle import load_tokenizer

    run = RunDir.open(path)
    if run.kind != "var":
        raise UserError(f"{path} holds a {run.kind} run; export needs a var run, such as results/runs/var-...")
    tokenizer = load_tokenizer(run.input("tokens").input("tokenizer"))
    network = load_var(run, tokenizer.vqvae)
    for target, module in ((vae, tokenizer.vqvae), (var, network)):
        with atomic.replacing(target) as temporary:
            torch.save(module.state_dict(), temporary)
        print(f"wrote {target}")
    if tokenizer.config.quantiser.reading == "independent":
        print("note: this tokenizer codes its scales independently; the original code would sum them when it samples")


def import_(vae: Path, var: Path, link: Path) -> None:
    """Make run directories of the original's checkpoints beside `link`, and `link` a link to the transformer's.

    Their configurations name the weights by hash, so no study mistakes them for something it trained.
    """
    import hashlib

    from safetensors.torch import save_file

    from fvar.config import DataConfig, PyramidConfig, RuntimeConfig, Stage, TokenizerConfig, TokensConfig, VarConfig
    from fvar.machine import atomic
    from fvar.models.loading import MODEL_FILE, VarShape, build_var
    from fvar.rundir import RunDir
    from fvar.tokenizer.bundle import COMPANION_FILE
    from fvar.tokenizer.bundle import MODEL_FILE as TOKENIZER_FILE
    from fvar.tokenizer.dual import SignalScaler
    from fvar.tokenizer.loading import build_vqvae, read_configs

    if link.is_symlink() or link.exists():
        raise UserError(f"{link} exists already; name a new place, such as results/runs/original-d16")
    states = [_read_pickled(vae), _read_pickled(var)]
    shape = VarShape.of(states[1], str(var))
    vqvae = build_vqvae(states[0], shape.patch_nums, str(vae))
    network = build_var(states[1], shape.transformer(), vqvae, str(var))
    names = [f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}" for file in (vae, var)]

    autoencoder, quantiser = read_configs(states[0], str(vae))
    pyramid = PyramidConfig(patch_nums=shape.patch_nums, downsample_factor=autoencoder.downsample_factor, kernel="none")
    data = DataConfig(image_size=pyramid.image_size)
    tokenizer_stage = Stage(
        TokenizerConfig(weights=names[0], data=data, pyramid=pyramid, autoencoder=autoencoder, quantiser=quantiser)
    )
    tokens_stage = Stage(TokensConfig(data=data), {"tokenizer": tokenizer_stage})
    stage = Stage(VarConfig(weights=names[1], transformer=network.cfg), {"tokens": tokens_stage})
    run = RunDir.create(link.absolute().parent, stage, RuntimeConfig())
    tokenizer = run.input("tokens").input("tokenizer")
    scaler = {f"scaler.{key}": value for key, value in SignalScaler(len(shape.patch_nums)).state_dict().items()}
    for target, state in (
        (tokenizer.path / TOKENIZER_FILE, vqvae.state_dict()),
        (tokenizer.path / COMPANION_FILE, scaler),
        (run.path / MODEL_FILE, network.state_dict()),
    ):
        with atomic.replacing(target) as temporary:
            save_file({key: value.contiguous() for key, value in state.items()}, temporary)
    for made in (tokenizer, run):
        made.update(state="done", note="imported")
    link.symlink_to(run.path.name)
    print(f"imported as {run.path}; next: python -m fvar.sample {link} --class 0 --out samples")


def _read_pickled(path: Path) -> dict[str, Tensor]:
    """A state dict saved by `torch.save`; anything but tensors is refused."""
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except Exception as error:  # what the unpickler raises on arbitrary bytes is arbitrary too
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{path} is not a checkpoint of plain tensors ({type(error).__name__}: {reason})") from None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"{path} must hold one state dict of tensors, found {type(state).__name__} of something else")
    return state


if __name__ == "__main__":
    run_main(main)
