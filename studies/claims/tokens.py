"""Claims about tokens and the teacher that reads them: readable text, sparse codes, alias as evidence."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import replace

from analysis.metrics import BY_KEY, Metric
from analysis.plot_gate import agreements
from analysis.plot_readability import Readings
from analysis.results import CellResult
from analysis.stats import compare, pairs
from analysis.tokenizer_quality import measured
from fvar.config import TokenizerConfig
from fvar.rundir import RunDir
from studies.claims.claim import Claim, Evidence, Finding, NotMeasured, from_difference

TABLE2 = "ablation_table2"
MISREAD = Metric("misread", "Characters misread %", 1, "lower", 1e2)
USE = Metric("use", "Codebook in use %", 1, "", 1e2)  # perplexity over size
AGREEMENT = Metric("agreement", "Correlation", 2, "higher")
MOST = 1 - 1e-9  # of a correlation: that of 1 has no finite z
PSNR = Metric("psnr", "PSNR dB", 2, "higher")


def readable(evidence: Evidence) -> Finding:
    """That words are misread less often off FVAR's reconstructions: means over font sizes, learned on text if any."""
    found = Readings.of(evidence.study("text_readability"))
    pair = next((names for names in (("fvar-text", "var-text"), ("fvar", "var")) if set(names) <= set(found)), None)
    if pair is None:
        raise NotMeasured("text_readability has not read both pyramids")
    ours, theirs = (misread(found[name]) for name in pair)
    return _paired(ours, theirs, (found[pair[0]].label, found[pair[1]].label), MISREAD, lower=True)


def misread(readings: Readings) -> dict[int, float]:
    """Share of characters misread off the reconstruction from all scales, a mean over font sizes, by seed."""
    return {
        cell.seed: statistics.fmean(
            row["value"] for row in body["rates"] if (row["picture"], row["scale"]) == readings.last
        )
        for cell, body in zip(readings.cells, readings.bodies, strict=True)
    }


def sparse_codes(evidence: Evidence) -> Finding:
    """That alias tokens leave more of their codebook unused than structure tokens do, which is what sparse means."""
    cells = _done(evidence, "full")
    ours, theirs = (_by_tokenizer(cells, role, _use) for role in ("alias.tokenizer", "tokens.tokenizer"))
    return _paired(ours, theirs, ("alias tokenizer", "structure tokenizer"), USE, lower=True)


def well_conditioned(evidence: Evidence) -> Finding:
    """That a codebook learns better on focused views: held-out PSNR of the full method's structure tokenizer."""
    ours, theirs = (
        _by_tokenizer(_done(evidence, variant), "tokens.tokenizer", _psnr) for variant in ("full", "baseline")
    )
    return _paired(ours, theirs, ("FVAR's tokenizer", "VAR's"), PSNR, lower=False)


def predictive(evidence: Evidence) -> Finding:
    """That alias tokens help to predict structure tokens: the teacher's held-out cross-entropy beside the student's."""
    ours, theirs = {}, {}
    for cell in _done(evidence, "full"):
        taught = cell.heldout("teacher/cross_entropy")
        alone = cell.heldout("cross_entropy")
        if taught is None or alone is None:
            raise NotMeasured("no teacher was evaluated on held-out images")
        ours[cell.seed], theirs[cell.seed] = taught, alone
    return _paired(ours, theirs, ("teacher", "student"), BY_KEY["cross_entropy"], lower=True)


def wiener(evidence: Evidence) -> Finding:
    """That the gate follows the Wiener gain over frequency: the correlation of their curves (study `wiener`)."""
    found = agreements(evidence.study("wiener").folder)
    if not found:
        raise NotMeasured("no gate was measured")
    return judge_gate(found)


def judge_gate(correlations: Mapping[int, float]) -> Finding:
    """From a correlation per seed: supported where their mean is separated from 0 and positive.

    Mean and interval are those of z = artanh(r), whose spread does not depend on r and whose interval stays within
    [-1, 1] (Fisher 1915).
    """
    found = compare([math.atanh(max(-MOST, min(correlations[seed], MOST))) for seed in sorted(correlations)])
    low, high = (None if bound is None else math.tanh(bound) for bound in (found.low, found.high))
    told = replace(found, mean=math.tanh(found.mean), low=low, high=high)
    return from_difference(told, found.p, False, AGREEMENT, "gate with Wiener gain, over frequencies and scales")


# --------------------------------------------------------------------------------------------------------------- inside


def _paired(
    ours: Mapping[int, float], theirs: Mapping[int, float], names: tuple[str, str], metric: Metric, *, lower: bool
) -> Finding:
    found = compare(pairs(ours, theirs, names))
    return from_difference(found, found.p, lower, metric, " minus ".join(names))


def _done(evidence: Evidence, variant: str) -> list[CellResult]:
    """The finished cells of a variant of Table 2. Raises `NotMeasured` where there are none, or not all are done."""
    cells = evidence.study(TABLE2).variants().get(variant, [])
    if unfinished := [cell.name for cell in cells if cell.state[0] != "done"]:
        raise NotMeasured(f"{unfinished[0]} is not done")
    if not cells:
        raise NotMeasured(f"{TABLE2} has no {variant}")
    return cells


def _by_tokenizer(cells: Iterable[CellResult], role: str, of: object) -> dict[int, float]:
    """A number of each distinct tokenizer in this role, by the seed that trained it."""
    assert callable(of)
    found: dict[int, float] = {}
    for cell in cells:
        run = cell.chain.get(role)
        if run is None or (value := of(run)) is None:
            raise NotMeasured(f"the {role.partition('.')[0]} tokenizer of {cell.name} was not measured")
        found[run.config_as(TokenizerConfig).train.seed] = value
    return found


def _use(run: RunDir) -> float | None:
    perplexity = measured(run).get("perplexity")
    return None if perplexity is None else perplexity / run.config_as(TokenizerConfig).quantiser.vocab_size


def _psnr(run: RunDir) -> float | None:
    return measured(run).get("psnr")


CLAIMS = (
    Claim("text", "Abstract", "Text is more readable", readable, "text_readability"),
    Claim("sparse", "Sec. 3.3", "Residual codes are sparse", sparse_codes, TABLE2, by_tokenizer=True),
    Claim("stable", "Sec. 3.4", "Codebooks learn better on focused views", well_conditioned, TABLE2, by_tokenizer=True),
    Claim("wiener", "Eq. 12", "The gate acts as a Wiener filter", wiener, "wiener"),
    Claim("evidence", "Sec. 3.4", "Alias tokens help to predict the structure", predictive, TABLE2),
)
