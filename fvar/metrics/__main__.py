"""Compare generated with real images.

    python -m fvar.metrics results/runs/samples-0123456789abcdef emoji:train
    python -m fvar.metrics samples/ reference.npz --metrics fid --json
    python -m fvar.metrics samples.npz VIRTUAL_imagenet256_labeled.npz --extractor inception
    python -m fvar.metrics samples/ emoji:train --metrics aliasing                   of the pixels: needs no network

GENERATED and REAL: a folder of images, an .npz with arr_0 (N, H, W, 3) uint8, a samples run directory, or a data set
DATASET[:SPLIT] (emoji, cifar10, folder, webdataset; train, heldout, all). REAL may also be an .npz with statistics mu
and sigma, as ADM publishes them: FID is then that to the whole set they describe, sFID comes from mu_s and sigma_s, and
all else from the images in arr_0. Features are kept in fvar's cache by content: a second comparison is quick.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fvar.errors import UserError, run_main, unknown

if TYPE_CHECKING:
    from torch import Tensor

    from fvar.metrics.compare import Score
    from fvar.metrics.features import Extractor, Images


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m fvar.metrics", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("generated", metavar="GENERATED")
    add("real", metavar="REAL")
    add(
        "--metrics",
        default="fid,kid,prc,is,aliasing",
        help="some of fid (with kid below 10,000 images, and sfid where REAL has statistics), kid, prc (precision and "
        "recall), is, sfid, aliasing (of spectra) (%(default)s)",
    )
    add("--extractor", default="inception-torchscript", help="also: inception, vgg16, dinov2, clip (%(default)s)")
    add("--weights", type=Path, metavar="FILE", help="torch-fidelity's weights for --extractor inception")
    add("--root", default="", metavar="DIR", help="where the files of a data set lie")
    add("--size", type=int, metavar="PX", help="size at which a data set is opened (that of the other side)")
    add("--batch-size", type=int, default=64, help="(%(default)s)")
    add("--seed", type=int, default=0, help="of KID's subsets (%(default)s)")
    add("--device", default="auto", help="cpu, cuda, ... (%(default)s)")
    add("--json", action="store_true", help="print JSON")
    args = parser.parse_args(argv)
    if args.batch_size < 1 or (args.size is not None and args.size < 1):
        raise UserError("--batch-size and --size must be at least 1")
    body = compare(args)
    print(json.dumps(body, indent=1, allow_nan=False) if args.json else _lines(body))


def compare(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Open both sides, extract, score: metric -> entry as in scores.json."""
    from fvar.machine import cache
    from fvar.machine.distributed import pick_device
    from fvar.metrics.against import score_against
    from fvar.metrics.compare import METRICS
    from fvar.metrics.features import extract_cached, load_extractor
    from fvar.metrics.sources import DATASETS, Published, open_source
    from fvar.metrics.spectra import aliasing_scores

    known = (*METRICS, "sfid", "aliasing")
    metrics = [name.strip() for name in args.metrics.split(",") if name.strip()]
    if not metrics or (wrong := [name for name in metrics if name not in known]):
        raise unknown("metric", wrong[0] if metrics else args.metrics, known)
    of_features = [name for name in metrics if name != "aliasing"]
    sides: dict[str, Images | Published] = {}
    # A data set is opened at the size of the other side, so that one is opened first.
    size = args.size
    for text in sorted((args.generated, args.real), key=lambda text: text.partition(":")[0] in DATASETS):
        sides[text] = source = open_source(text, size, args.root)
        if size is None and (some := source.images if isinstance(source, Published) else source):
            size = int(some.batch(range(1)).shape[-1])
    generated, real = sides[args.generated], sides[args.real]
    if isinstance(generated, Published):
        if generated.images is None:
            raise UserError(f"{args.generated} holds statistics; GENERATED must be images")
        generated = generated.images
    real_images = real.images if isinstance(real, Published) else real
    device = pick_device(args.device)
    folder = cache.directory() / "features"
    names = {id(real_images): args.real, id(generated): args.generated}

    def features(extractor: Extractor, images: Images) -> Tensor:
        text = names[id(images)]
        return extract_cached(extractor, images, folder, args.batch_size, lambda *state: _progress(text, *state))

    scores: dict[str, Score] = {}
    if of_features:
        extractor = load_extractor(args.extractor, args.weights, device)
        scores |= score_against(generated, real, extractor, features, of_features, args.seed)
    if "aliasing" in metrics:
        scores |= aliasing_scores(generated, real_images, features, device, args.seed)
    return {key: entry.as_dict() for key, entry in scores.items()}


def _lines(body: dict[str, dict[str, Any]]) -> str:
    """One line per metric."""
    lines = []
    for entry in body.values():
        value = "-" if entry["value"] is None else f"{entry['value']:.6g}"
        if entry.get("spread") is not None:
            value += f" +- {entry['spread']:.2g}"
        lines.append(f"{entry['label']:<16}{value:<24}{entry['reason'] or entry.get('note', '')}".rstrip())
    first = next(iter(body.values()))
    measured = [entry for entry in body.values() if entry["value"] is not None]
    whole = [entry["label"].partition("@")[0] for entry in measured if entry["reference_count"] is None]
    counts = {entry["reference_count"] for entry in measured} - {None}
    real = f"{max(counts):,} real images" if counts else "statistics"
    if counts and whole:
        real += f" ({', '.join(whole)}: against the reference's own statistics)"
    by = f", features by {first['extractor']}" if first["extractor"] else ""
    lines.append(f"{first['count']:,} generated images against {real}{by}")
    return "\n".join(lines)


def _progress(text: str, done: int, total: int, rate: float) -> None:
    if sys.stderr.isatty():
        end = "\n" if done == total else ""
        print(f"\r{text}: {done:,} of {total:,} images, {rate:.1f} images/s ", end=end, file=sys.stderr, flush=True)


if __name__ == "__main__":
    run_main(main)
