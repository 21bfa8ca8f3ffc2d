"""Generate images with a trained model.

    python -m fvar.sample RUN_DIR --class 3 --count 16 --seed 0 --out DIR
    python -m fvar.sample RUN_DIR --class 3 --count 4 --show-focus --out DIR            blur turning to clarity
    python -m fvar.sample RUN_DIR --class 3 --inpaint image.png --mask mask.png --out DIR

RUN_DIR is a `var` run directory. DIR receives 000.png, 001.png, ..., so that `python -m fvar.metrics DIR ...` scores
it. Beside it stand DIR-grid.png, all images in one, and with --show-focus DIR-focus.png, one row per image and one
column per scale. A mask is white where to generate: a hole inpaints, a frame outpaints, and with another class the
object under it is edited. Image i depends on the seed and i, not on the count or the batch size.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

from fvar.config import SamplesConfig
from fvar.errors import UserError, run_main


def parse(argv: list[str] | None) -> argparse.Namespace:
    defaults = SamplesConfig()
    parser = argparse.ArgumentParser(
        prog="python -m fvar.sample", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("run", type=Path, metavar="RUN_DIR")
    add("--class", dest="label", type=int, help="class number; without it, the classes take turns")
    add("--count", type=int, default=16, help="images to generate (%(default)s)")
    add("--guidance", type=float, default=defaults.guidance, help="classifier-free guidance (%(default)s)")
    add("--top-k", type=int, default=defaults.top_k, help="likeliest tokens kept; 0 keeps all (%(default)s)")
    add("--top-p", type=float, default=defaults.top_p, help="probability mass kept, in (0, 1] (%(default)s)")
    add("--seed", type=int, default=defaults.seed, help="(%(default)s)")
    add("--batch-size", type=int, default=defaults.batch_size, help="images at a time (%(default)s)")
    add("--precision", choices=("fp32", "bf16", "fp16"), default=defaults.precision, help="(%(default)s)")
    add("--device", default="auto", help="cpu, cuda, cuda:1, ... (%(default)s)")
    add("--smooth", action="store_true", help="Gumbel-smoothed codes: smoother pictures, not for scores")
    add("--show-focus", action="store_true", help="also write DIR-focus.png, the image after every scale")
    add("--inpaint", type=Path, metavar="IMAGE", help="image to keep where the mask is black")
    add("--mask", type=Path, help="white where to generate")
    add("--out", type=Path, required=True, metavar="DIR")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    if args.count < 1 or args.batch_size < 1:
        raise UserError(f"--count and --batch-size must be at least 1, found {args.count} and {args.batch_size}")
    if not 0 < args.top_p <= 1:
        raise UserError(f"--top-p must be in (0, 1], found {args.top_p}")
    if args.top_k < 0 or args.seed < 0:
        raise UserError(f"--top-k and --seed must be at least 0, found {args.top_k} and {args.seed}")
    if (args.inpaint is None) != (args.mask is None):
        raise UserError("--inpaint and --mask go together: give both, or neither")
    generate(args)


def generate(args: argparse.Namespace) -> None:
    """Load, sample in batches, write."""
    import torch

    from fvar.data.images import to_uint8
    from fvar.editing import composite, known_tokens, read_image, read_mask, tile, write_png
    from fvar.machine.distributed import pick_device
    from fvar.machine.precision import computed, shortfall
    from fvar.models.loading import load_var
    from fvar.rundir import RunDir
    from fvar.sampling import decode, image_seeds, prepare, sample
    from fvar.tokenizer.bundle import load_tokenizer

    device = pick_device(args.device)
    run = RunDir.open(args.run)
    if run.kind != "var":
        raise UserError(f"{args.run} holds a {run.kind} run; sampling needs a var run, such as results/runs/var-...")
    tokenizer = load_tokenizer(run.input("tokens").input("tokenizer"), device)
    vqvae = tokenizer.vqvae
    var = load_var(run, vqvae)
    if args.label is not None and not 0 <= args.label < var.num_classes:
        raise UserError(f"--class must be 0 to {var.num_classes - 1}, found {args.label}")

    image = mask = known = None
    if args.inpaint is not None:
        side = tokenizer.config.pyramid.image_size
        image, mask = read_image(args.inpaint, side), read_mask(args.mask, side)
        known = known_tokens(tokenizer, image, mask)
    if computed(args.precision, device) != args.precision:
        print(shortfall(args.precision), file=sys.stderr)
    prepare(var, vqvae, args.precision, device)

    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {args.out} cannot be a folder ({error.strerror}); name another one") from error
    images: list[torch.Tensor] = []
    films: list[list[torch.Tensor]] = []

    def report(k: int) -> None:
        _progress(f"{len(images)}/{args.count} images, scale {k + 1}/{len(var.patch_nums)}")

    for start in range(0, args.count, args.batch_size):
        indices = range(start, min(start + args.batch_size, args.count))
        labels = torch.tensor([index % var.num_classes if args.label is None else args.label for index in indices])
        made = sample(
            var,
            vqvae,
            labels.to(device),
            guidance=args.guidance,
            top_k=args.top_k,
            top_p=args.top_p,
            seeds=image_seeds(args.seed, indices),
            known=known.repeat(len(indices)) if known is not None else None,
            smooth=args.smooth,
            on_scale=report,
        )
        batch = made.images.cpu()
        if image is not None and mask is not None:
            batch = composite(batch, image, mask, tokenizer.config.pyramid.downsample_factor)
        if args.show_focus:
            frames = torch.stack([to_uint8(decode(vqvae, f_hat)).cpu() for f_hat in made.f_hats], dim=1)
            films += [list(film) for film in frames]
        images += list(batch)

    for index, picture in enumerate(images):
        write_png(args.out / f"{index:03}.png", picture)
    _progress("")
    columns = math.ceil(math.sqrt(len(images)))
    grid, focus = overviews(args.out)
    try:
        write_png(grid, tile([images[i : i + columns] for i in range(0, len(images), columns)]))
        if films:
            write_png(focus, tile(films))
        print(f"{len(images)} images in {args.out}; all of them in {grid}")
    except OSError as error:  # the images are what was asked for
        print(f"{len(images)} images in {args.out}; no overview: {error.filename}: {error.strerror}")
    if others := sum(path.suffix == ".png" for path in args.out.iterdir()) - len(images):
        print(f"{args.out} also holds {others} older .png files, which would be scored with these", file=sys.stderr)


def overviews(out: Path) -> tuple[Path, Path]:
    """Where the grid and the film are written: beside the folder of images, which is scored as a whole."""
    whole = out.resolve()
    return whole.with_name(f"{whole.name}-grid.png"), whole.with_name(f"{whole.name}-focus.png")


def _progress(text: str) -> None:
    """Replace the terminal's current line; quiet where there is none."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    run_main(main)
