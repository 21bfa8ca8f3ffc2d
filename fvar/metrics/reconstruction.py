"""What a tokenizer keeps of images, scale by scale: PSNR, SSIM, L1, and FID of the reconstructions (rFID).

    python -m fvar.metrics.reconstruction results/runs/tokenizer-0123456789abcdef
    python -m fvar.metrics.reconstruction RUN_DIR --split train --count 500 --extractor none --json

Images are coded, and decoded from the scales 1 to k for every k. What comes out is compared with the image x, and by
"PSNR to L_k" with what scale k was trained to show: the focused view L_k, enlarged to the image as in training. (VAR's
own tokenizer has no views: there only the last scale has such a target, x.) PSNR and SSIM are means over images, L1 is
the mean difference of values in 0 to 1, all of 8-bit images. rFID is the FID of the reconstructions against the very
images they were made from; rKID likewise. An alias tokenizer makes residuals, no pictures: it has the PSNR to A_k only,
at the residual's own size and with the peak of an image.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fvar.config import TokenizerConfig
from fvar.errors import UserError, run_main, unknown
from fvar.plain import finite

if TYPE_CHECKING:
    from fvar.data import Split
    from fvar.rundir import RunDir

NO_EXTRACTOR = "none"
SPLITS = ("heldout", "train", "all")
COLUMNS = (  # heading, key, digits, factor
    ("PSNR to x", "psnr", 2, 1),
    ("PSNR to L_k", "psnr_view", 2, 1),
    ("SSIM", "ssim", 4, 1),
    ("L1", "l1", 4, 1),
    ("rFID", "rfid", 2, 1),
    ("rKID x10^3", "rkid", 2, 1e3),
)


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m fvar.metrics.reconstruction",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("run", type=Path, metavar="RUN_DIR", help="of a tokenizer stage")
    add("--split", default="heldout", help=f"{', '.join(SPLITS)} (%(default)s)")
    add("--count", type=int, default=0, help="number of images, balanced over classes; 0: all (%(default)s)")
    add("--extractor", default="inception-torchscript", help="as in fvar.metrics, or none (%(default)s)")
    add("--batch-size", type=int, default=32, help="(%(default)s)")
    add("--device", default="auto", help="cpu, cuda, ... (%(default)s)")
    add("--json", action="store_true", help="print JSON")
    args = parser.parse_args(argv)
    if args.split not in SPLITS:
        raise unknown("split", args.split, SPLITS)
    if args.batch_size < 1 or args.count < 0:
        raise UserError("--batch-size must be at least 1 and --count at least 0")
    from fvar.rundir import RunDir

    run = RunDir.open(args.run)
    body = measure(run, args.split, args.count, args.extractor, args.batch_size, args.device)
    print(json.dumps(finite(body), indent=1, allow_nan=False) if args.json else table(body))


def measure(
    run: RunDir,
    split: Split = "heldout",
    count: int = 0,
    extractor: str = "inception-torchscript",
    batch_size: int = 32,
    device: str = "auto",
) -> dict[str, Any]:
    """Quality of a finished tokenizer run after every scale, as plain values.

    Keys: what was measured (`run`, `signal`, `dataset`, `split`, `count`, `image_size`), and `scales`, a list of
    `fvar.metrics.scale_quality.ScaleQuality`. Raises `UserError` if the run is not a tokenizer's or not finished.
    """
    if not isinstance(run.config, TokenizerConfig):
        raise UserError(f"{run.path} holds a {run.kind} run; name one of a tokenizer, results/runs/tokenizer-...")
    # Importing torch takes seconds: what is above answers without it.
    from fvar.data import open_dataset
    from fvar.machine.distributed import pick_device
    from fvar.metrics.features import load_extractor
    from fvar.metrics.scale_quality import reconstruct
    from fvar.tokenizer.bundle import load_tokenizer

    where = pick_device(device)
    tokenizer = load_tokenizer(run, where)
    images = open_dataset(run.config.data, split)
    if count:
        images = images.balanced(count, run.config.data.split_seed)
    named = extractor != NO_EXTRACTOR
    found = load_extractor(extractor, device=where) if named else "left out by --extractor none"
    scales = reconstruct(tokenizer, images, found, batch_size, _progress)
    return {
        "run": run.name,
        "signal": run.config.signal,
        "reading": run.config.quantiser.reading,
        "dataset": run.config.data.dataset,
        "split": split,
        "count": len(images),
        "image_size": images.image_size,
        "scales": [{**asdict(scale), "rfid": scale.rfid.as_dict(), "rkid": scale.rkid.as_dict()} for scale in scales],
    }


def table(body: dict[str, Any]) -> str:
    """One row per scale, and below it what must be known."""
    name = "PSNR to A_k" if body["signal"] == "alias" else "PSNR to L_k"
    headings = ["scales", "tokens", *(name if key == "psnr_view" else heading for heading, key, *_ in COLUMNS)]
    rows = [[f"1..{row['scale']}", str(row["tokens"]), *_cells(row)] for row in body["scales"]]
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    lines = [
        "   ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in (headings, *rows)
    ]
    last = body["scales"][-1]["rfid"]
    lines.append(
        f"{body['run']}: {body['count']:,} images of {body['dataset']}:{body['split']} at {body['image_size']} px; dB"
        + (f"; {last['label']} by {last['extractor']}" if last["value"] is not None else "")
    )
    lines += [f"note: {text}" for text in (last.get("note"),) if text]
    if last["reason"]:
        lines.append(f"rFID and rKID are blank: {last['reason']}")
    if body["reading"] == "latent_area":
        lines.append("PSNR to L_k is blank but for the last scale: VAR's own tokenizer has no views")
    return "\n".join(lines)


def _cells(row: dict[str, Any]) -> list[str]:
    values = [row[key]["value"] if isinstance(row[key], dict) else row[key] for _, key, *_ in COLUMNS]
    return [
        "" if value is None else f"{value * factor:.{digits}f}"
        for value, (*_, digits, factor) in zip(values, COLUMNS, strict=True)
    ]


def _progress(done: int, total: int, rate: float) -> None:
    if sys.stderr.isatty():
        end = "\n" if done == total else ""
        print(f"\r{done:,} of {total:,} images, {rate:.1f} images/s ", end=end, file=sys.stderr, flush=True)


if __name__ == "__main__":
    run_main(main)
