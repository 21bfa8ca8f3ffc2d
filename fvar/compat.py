"""Checkpoints of the originals, in and out, and proof that they and fvar compute the same.

The originals are VAR (FoundationVision/VAR) and M-VAR (OliverRensu/MVAR), whose tokenizer is VAR's.

    python -m fvar.compat verify FILE.safetensors
    python -m fvar.compat export RUN_DIR --vae vae.pth --var var.pth
    python -m fvar.compat import --vae vae.pth --var var.pth RUN_DIR

`verify` recomputes every `out.*` tensor of a golden file (see fvar.golden) from its inputs and weights; status 1 on any
difference above tolerance. `import` makes run directories of the original's weights beside RUN_DIR, which becomes a
link to the transformer's: `python -m fvar.sample RUN_DIR` works on it. Both may be parts of larger checkpoints, such as
VAR's trainer writes, and both may lie in one file. Pickled files are read with weights_only.
"""

from __future__ import annotations

import argparse
import contextlib
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fvar.errors import UserError, one_line, run_main

if TYPE_CHECKING:
    from torch import Tensor

VQVAE_MARKS = ("encoder.conv_in.weight", "quantize.embedding.weight")  # tensors by which each network is known
VAR_MARKS = ("head.weight", "lvl_1L")


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
    if (patch := tokenizer.config.autoencoder.patch) > 1:
        print(
            f"note: this tokenizer takes {patch} x {patch} pixels as one, which the original code cannot; ours reads it"
        )


def import_(vae: Path, var: Path, link: Path) -> None:
    """Make run directories of the original's checkpoints beside `link`, and `link` a link to the transformer's.

    Their configurations name the weights by hash, so no study mistakes them for something it trained.
    """
    import hashlib

    from safetensors.torch import save_file

    from fvar.config import DataConfig, PyramidConfig, RuntimeConfig, Stage, TokenizerConfig, TokensConfig, VarConfig
    from fvar.machine import atomic, foreign
    from fvar.models.loading import MODEL_FILE, VarShape, build_var
    from fvar.rundir import RunDir
    from fvar.tokenizer.bundle import COMPANION_FILE
    from fvar.tokenizer.bundle import MODEL_FILE as TOKENIZER_FILE
    from fvar.tokenizer.dual import SignalScaler
    from fvar.tokenizer.loading import build_vqvae, read_configs

    if link.is_symlink() or link.exists():
        raise UserError(f"{link} exists already; name a new place, such as results/runs/original-d16")
    states = [
        foreign.network(foreign.read(vae), VQVAE_MARKS, "VQVAE", str(vae)),
        foreign.network(foreign.read(var), VAR_MARKS, "VAR", str(var)),
    ]
    _mend(states[1], str(var))
    with _fitting(var):
        shape = VarShape.of(states[1], str(var))
    with _fitting(vae):
        vqvae = build_vqvae(states[0], shape.patch_nums, str(vae))
    with _fitting(var):
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
    print(f"imported as {run.path}; next: python -m fvar.sample {shlex.quote(str(link))} --class 0 --out samples")


def _mend(state: dict[str, Tensor], where: str) -> None:
    """Bring the two tensors that tell a VAR's shape into their usual form. Raises `UserError` where that cannot be."""
    import torch

    head, levels = state["head.weight"], state["lvl_1L"].flatten()
    if head.ndim > 2 and head.shape[2:].numel() == 1:  # a 1x1 convolution
        head = head.flatten(1)
    if head.ndim != 2:
        raise UserError(
            f"{where}: the classifier head.weight must be (vocabulary, width), found {list(head.shape)}; "
            "pass a checkpoint whose classifier is a linear layer"
        )
    whole = levels.long()
    rising = bool(len(whole)) and bool((whole[0] == 0) & whole.diff().ge(0).all() & whole.diff().le(1).all())
    sides = torch.bincount(whole).sqrt().tolist() if rising else [0.5]
    if not torch.equal(whole.to(levels), levels) or not all(side.is_integer() for side in sides):
        raise UserError(
            f"{where}: lvl_1L must number the scale of each token, 0, 1 1 1 1, 2 ..., each scale a square of tokens, "
            f"found {levels.numel()} values from {levels.min():g} to {levels.max():g}; pass VAR's own buffer"
            if len(levels)
            else f"{where}: lvl_1L, which numbers the scale of each token, is empty; pass VAR's own buffer"
        )
    state |= {"head.weight": head, "lvl_1L": whole.view(1, -1)}


@contextlib.contextmanager
def _fitting(path: Path) -> Iterator[None]:
    """Whatever tensors of unexpected shapes lead to, as one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path} does not have the shapes of the original's networks ({one_line(error)})") from error


if __name__ == "__main__":
    run_main(main)
