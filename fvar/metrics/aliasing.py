"""How much a tokenizer aliases: shift consistency and the staircase on slanted edges.

    python -m fvar.metrics.aliasing results/runs/tokenizer-0123456789abcdef
    python -m fvar.metrics.aliasing results/runs/tokenizer-0123456789abcdef --count 256 --json

RUN_DIR holds a structure tokenizer (alias tokenizers code residuals, not pictures). The shifted images are the held-out
ones of its data set; the edges are drawn. fvar.metrics.shift and fvar.metrics.edges define both numbers.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fvar.config import TokenizerConfig
from fvar.errors import UserError, run_main
from fvar.plain import finite

if TYPE_CHECKING:
    from fvar.rundir import RunDir


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m fvar.metrics.aliasing",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("run", type=Path, metavar="RUN_DIR")
    add("--count", type=int, default=64, help="images to shift, equally many of every class (%(default)s)")
    add("--batch-size", type=int, default=16, help="(%(default)s)")
    add("--device", default="auto", help="cpu, cuda, ... (%(default)s)")
    add("--json", action="store_true", help="print JSON")
    args = parser.parse_args(argv)
    if args.count < 1 or args.batch_size < 1:
        raise UserError("--count and --batch-size must be at least 1")
    from fvar.rundir import RunDir

    body = measure(RunDir.open(args.run), args.count, args.batch_size, args.device)
    print(json.dumps(finite(body), indent=1, allow_nan=False) if args.json else _lines(body))


def measure(run: RunDir, count: int, batch_size: int = 16, device: str = "auto") -> dict[str, Any]:
    """Both numbers of a tokenizer run, with what they were measured on; dB and px.

    Raises `UserError` if the run holds no structure tokenizer or is not finished.
    """
    from torch import Tensor

    from fvar.data import open_dataset, to_float
    from fvar.machine.distributed import pick_device
    from fvar.metrics.edges import staircase
    from fvar.metrics.shift import shift_consistency, shifts_within
    from fvar.tokenizer.bundle import load_tokenizer

    config = run.config
    if isinstance(config, TokenizerConfig) and config.signal != "structure":
        raise UserError(f"{run.path} codes alias residuals, which are not pictures; name a structure tokenizer's run")
    tokenizer = load_tokenizer(run, pick_device(device))

    def reconstruct(x: Tensor) -> Tensor:
        return tokenizer.vqvae.decode(tokenizer.vqvae.indices_to_f_hat(tokenizer.encode_images(x))[-1])

    data = tokenizer.config.data
    images = open_dataset(data, "heldout").balanced(count, data.split_seed)
    shifts = shifts_within(tokenizer.config.pyramid.downsample_factor)
    found = shift_consistency(reconstruct, to_float(images.batch(range(len(images)))), shifts, batch_size)
    edges = staircase(reconstruct, data.image_size)
    return {
        "images": len(images),
        "data": f"{data.dataset} at {data.image_size} px",
        "reconstruction_db": found.reconstruction,
        "shift_consistency_db": found.psnr,
        "shift_consistency_db_by_shift": {
            f"{down} down, {right} right": value for (down, right), value in found.by_shift.items()
        },
        "staircase_px": None if math.isnan(edges.jitter) else edges.jitter,
        "edges_found": edges.found,
    }


def _lines(body: dict[str, Any]) -> str:
    shifts = body["shift_consistency_db_by_shift"]
    worst = min(shifts, key=shifts.__getitem__)
    jitter, found = body["staircase_px"], f"edges found in {body['edges_found']:.0%} of the rows"
    return "\n".join(
        (
            f"Reconstruction    {body['reconstruction_db']:6.2f} dB   {body['images']} held-out images, {body['data']}",
            f"Shift consistency {body['shift_consistency_db']:6.2f} dB   least {shifts[worst]:.2f} dB, {worst}",
            f"Staircase         {'     -' if jitter is None else f'{jitter:6.3f}'} px   {found}",
        )
    )


if __name__ == "__main__":
    run_main(main)
