"""What each variant's structure tokenizer keeps of an image: the bound of what generation on its tokens can reach."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from analysis.results import CellResult, StudyResults
from analysis.stats import spread
from fvar.config import TokenizerConfig
from fvar.rundir import RunDir


@dataclass(frozen=True)
class Quality:
    """A column about tokenizers; its values stand under `key` in what `measured` returns."""

    key: str
    heading: str
    digits: int


QUALITIES = (
    Quality("rfid", "rFID ↓", 2),
    Quality("psnr", "PSNR dB ↑", 2),
    Quality("bits", "Bits per image", 0),
    Quality("perplexity", "Codebook perplexity", 0),
)


def letters(results: StudyResults) -> dict[str, str]:
    """Variant -> A, B, ...; variants of the same tokenizers have the same letter, and "" those without."""
    sets = dict.fromkeys(found for variant in results.variants() if (found := results.tokenizers(variant)))
    names = {found: _letter(index) for index, found in enumerate(sets)}
    return {variant: names.get(results.tokenizers(variant), "") for variant in results.variants()}


def _letter(index: int) -> str:
    round_, place = divmod(index, len(ascii_uppercase))
    return ascii_uppercase[place] + str(round_ or "")


def columns(cells: list[CellResult]) -> dict[str, float | int | str]:
    """`tokenizer_<quality>_mean`, `_half` and `_n` over the distinct tokenizers of a variant's seeds, and `_reason`."""
    runs = {run.name: run for cell in cells if (run := cell.chain.get("tokens.tokenizer"))}
    values = [measured(run) for run in runs.values()]
    row: dict[str, float | int | str] = {}
    for quality in QUALITIES:
        summary = spread(value.get(quality.key) for value in values)
        half = summary.half_width if summary else None
        row[f"tokenizer_{quality.key}_mean"] = summary.mean if summary else math.nan
        row[f"tokenizer_{quality.key}_half"] = math.nan if half is None else half
        row[f"tokenizer_{quality.key}_n"] = summary.n if summary else 0
    return row


def measured(run: RunDir) -> Mapping[str, float]:
    """What a tokenizer's run directory says: held-out PSNR and perplexity, rFID where it was measured, and its bits."""
    config = run.config
    assert isinstance(config, TokenizerConfig)
    tokens = sum(side * side for side in config.pyramid.patch_nums)
    found: dict[str, float] = {"bits": tokens * math.log2(config.quantiser.vocab_size)}
    heldout = _last(run.metrics("heldout"))
    found |= {key: heldout[key] for key in ("psnr", "perplexity") if key in heldout}
    reconstruction = _last(run.metrics("reconstruction"))
    whole = f"/scale{len(config.pyramid.patch_nums)}"
    rfid = [value for key, value in reconstruction.items() if key.startswith("rfid_") and key.endswith(whole)]
    found |= {"rfid": rfid[0]} if rfid else {}
    return {key: value for key, value in found.items() if math.isfinite(value)}


def _last(records: list[dict[str, Any]]) -> dict[str, Any]:
    return records[-1] if records else {}
