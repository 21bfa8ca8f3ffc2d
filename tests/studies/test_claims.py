"""The ledger of claims: invented results of every outcome, each claim by its own, and the page that tells them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from analysis.plot_readability import Readings
from fvar.errors import UserError
from fvar.machine import atomic
from fvar.rundir import RunDir
from studies.__main__ import main
from studies.claims import CLAIMS, ablation, bill, optics, sizes, tokens
from studies.claims.claim import Claim, Evidence, Finding, NotMeasured, needed, started
from studies.claims.page import ledger, markdown
from studies.cost import Row, rows
from studies.study import STUDIES
from tests import fakes

BY_KEY = {claim.key: claim for claim in CLAIMS}
NOISE = (0.0, 0.3, -0.3)
OUTCOMES = {"supported": 5.0, "refuted": -5.0, "undecided": 0.1}  # by how much what the claim favours is better
Values = Mapping[str, Sequence[float]]


def write(results: Path, study: str, values: Values, metric: str = "kid", scale: float = 1e-3) -> Evidence:
    """A study of which one score is as given, seed by seed; KID in its column's unit."""
    cells = []
    for (variant, numbers), stands_for in zip(values.items(), fakes.VARIANTS, strict=False):
        for seed, value in enumerate(numbers):
            stage = fakes.chain(stands_for, seed)
            cells.append(fakes.cell(variant, seed, stage))
            fakes.finish(results, stage, 0.5, seed)
            score = {"value": value * scale, "reason": "", "count": 36, "reference_count": 99, "extractor": "x"}
            atomic.write_json(results / "runs" / stage.name / "scores.json", {metric: score})
    fakes.write_cells(results, study, cells)
    return Evidence(results, "smoke")


def around(mean: float) -> list[float]:
    return [mean + noise for noise in NOISE]


def verdict(key: str, evidence: Evidence) -> str:
    return BY_KEY[key].find(evidence).verdict


# -------------------------------------------------------------------------------------------------------- Table 2, 1


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize(
    ("key", "winner", "loser"),
    [
        ("full", "full", "baseline"),
        ("refocusing", "full", "no_refocusing"),
        ("antialiasing", "gaussian", "baseline"),
        ("disk", "full", "gaussian"),
        ("dual", "full", "no_dual"),
    ],
)
def test_a_row_of_table_2_is_decided_by_its_paired_difference(
    tmp_path: Path, key: str, winner: str, loser: str, outcome: str
) -> None:
    values = {winner: around(50.0), loser: [v + OUTCOMES[outcome] * (1 + 0.01 * v) for v in around(50.0)]}
    if outcome == "undecided":
        values[loser] = [50.4, 49.9, 50.2]
    finding = BY_KEY[key].find(write(tmp_path, "ablation_table2", values))
    assert finding.verdict == outcome
    assert "KID" in finding.effect
    assert finding.interval.startswith("[")
    assert "paper: FID" in finding.note


def test_a_teacher_that_helps_is_found_too(tmp_path: Path) -> None:
    evidence = write(tmp_path, "ablation_table2", {"full": [50.0, 50.3, 49.7]})
    with pytest.raises(NotMeasured, match="has no no_teacher beside full"):
        ablation.loses_to_full("no_teacher", evidence)
    assert BY_KEY["teacher"].judge.args == ("no_teacher",)  # type: ignore[attr-defined]


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_aliasing_of_the_samples_is_their_spectral_distance(tmp_path: Path, outcome: str) -> None:
    by = OUTCOMES[outcome]
    values = {"full": around(5.0), "baseline": [5.2, 4.9, 5.3] if outcome == "undecided" else around(5.0 + by)}
    values["baseline"] = [v + 0.01 * i for i, v in enumerate(values["baseline"])]
    evidence = write(tmp_path, "ablation_table2", values, "spectral_distance", 1.0)
    assert verdict("less-aliasing", evidence) == outcome


@pytest.mark.parametrize(
    ("outcome", "full", "baseline"),
    [
        ("supported", [0.9, 0.95, 0.92], [0.2, 0.22, 0.21]),  # nearer to 1 from below
        ("supported", [1.05, 1.1, 1.02], [4.0, 4.4, 4.2]),  # and from above
        ("refuted", [0.2, 0.22, 0.21], [0.9, 0.95, 0.92]),
        ("undecided", [0.5, 0.9, 0.3], [0.6, 0.4, 0.7]),
    ],
)
def test_detail_is_kept_where_the_top_octave_is_near_the_images(
    tmp_path: Path, outcome: str, full: list[float], baseline: list[float]
) -> None:
    evidence = write(tmp_path, "ablation_table2", {"full": full, "baseline": baseline}, "top_octave", 1.0)
    assert verdict("detail", evidence) == outcome


@pytest.mark.parametrize(
    ("outcome", "rival"), [("supported", 100.0), ("refuted", 20.0), ("undecided", None)], ids=lambda value: str(value)
)
def test_convergence_is_the_mean_score_over_the_curve(tmp_path: Path, outcome: str, rival: float | None) -> None:
    evidence = write(tmp_path, "ablation_table2", {"full": around(1.0), "baseline": around(1.0)})
    for cell in evidence.study("ablation_table2").cells:
        start = 60.0 if cell.variant == "full" else rival or (55.0, 64.0, 61.0)[cell.seed]
        for step, factor in ((100, 1.0), (200, 0.5)):
            record = {"fid_36": 2 * start, "kid_36": factor * (start + 0.1 * cell.seed**2 * (cell.variant == "full"))}
            cell.chain["var"].log_metrics(step, record, split="sampled")
    assert verdict("convergence", evidence) == outcome


def test_without_scores_while_training_convergence_is_not_measured_and_told_how_to(tmp_path: Path) -> None:
    evidence = write(tmp_path, "ablation_table2", {"full": around(1.0), "baseline": around(1.0)})
    assert verdict("convergence", evidence) == "not measured"
    (line,) = [line for line in ledger(tmp_path, "smoke") if line.claim.key == "convergence"]
    assert "--set var.curve.every=100" in line.command


@pytest.mark.parametrize("size", sizes.SIZES)
@pytest.mark.parametrize(
    ("outcome", "var", "mvar"),
    [("supported", 60.0, 55.0), ("refuted", 60.0, 40.0), ("undecided", 60.0, None), ("refuted", 40.0, None)],
)
def test_a_size_of_table_1_must_beat_both_rivals(
    tmp_path: Path, size: int, outcome: str, var: float, mvar: float | None
) -> None:
    values = {f"fvar-d{size}": around(50.0), f"var-d{size}": [var, var + 0.1, var - 0.2]}
    values[f"m-var-d{size}"] = [50.4, 49.9, 50.2] if mvar is None else [mvar, mvar + 0.1, mvar - 0.2]
    evidence = write(tmp_path, "table1", values)
    assert verdict(f"d{size}", evidence) == outcome


@pytest.mark.parametrize(
    ("outcome", "ratios"),
    [
        ("supported", {"d12": [1.0, 1.01, 0.99], "d16": [1.0, 1.0, 1.01]}),
        ("refuted", {"d12": [1.0, 1.01, 0.99], "d16": [1.2, 1.21, 1.19]}),
        ("undecided", {"d12": [1.0, 1.3, 0.8]}),
        ("undecided", {"d12": [1.0]}),
    ],
)
def test_speed_is_the_same_where_every_interval_is_within_five_per_cent(
    outcome: str, ratios: dict[str, list[float]]
) -> None:
    assert sizes.judge_speed(ratios).verdict == outcome


def test_speed_is_read_off_the_samples_of_one_device(tmp_path: Path) -> None:
    evidence = write(tmp_path, "table1", {"fvar-d12": around(50.0), "var-d12": around(50.0)})
    assert verdict("speed", evidence) == "not measured"
    for cell in evidence.study("table1").cells:
        cell.chain["samples"].log_metrics(36, {"seconds_per_image": 2.0 + 0.01 * cell.seed}, split="speed")
    assert verdict("speed", evidence) == "supported"


@pytest.mark.parametrize(("outcome", "shift"), [("supported", 0.3), ("refuted", -0.3), ("undecided", 0.0)])
def test_m_var_is_timed_against_by_the_median_of_the_rounds(outcome: str, shift: float) -> None:
    rounds = [0.9 + shift, 0.95 + shift, 1.0 + shift, 1.02 + shift, 1.05 + shift, 1.1 + shift]
    finding = sizes.judge_mvar(
        {"d12, batch 1": rounds, "d16, batch 1": [value + 0.01 for value in rounds]}, "a machine"
    )
    assert finding.verdict == outcome
    assert "on a machine" in finding.note
    with pytest.raises(NotMeasured, match="takes 6 rounds"):
        sizes.judge_mvar({"d12, batch 1": rounds[:5]}, "a machine")


@pytest.mark.parametrize(
    ("outcome", "correlations"),
    [("supported", [0.5, 0.6, 0.55]), ("refuted", [-0.5, -0.6, -0.55]), ("undecided", [0.1, -0.2, 0.3])],
)
def test_the_gate_is_a_wiener_filter_where_its_curve_follows_the_gain(outcome: str, correlations: list[float]) -> None:
    assert tokens.judge_gate(dict(enumerate(correlations))).verdict == outcome


def test_the_interval_of_a_correlation_is_one_of_correlations() -> None:
    found = tokens.judge_gate({0: -0.9, 1: -0.5, 2: -0.55})
    assert found.effect == "Correlation -0.71"  # tanh of the mean of artanh; the plain mean is -0.65
    assert found.interval == "[-0.97, 0.38]"
    assert tokens.judge_gate({0: -1.0, 1: -0.9, 2: -0.8}).verdict in ("refuted", "undecided")


@pytest.mark.parametrize(
    ("outcome", "change"),
    [
        ("supported", {}),
        ("refuted", {"fvar-d16": 400e6}),
        ("undecided", {"m-var-d16": 400e6}),
    ],
)
def test_parameters_are_those_printed(outcome: str, change: dict[str, float]) -> None:
    assert sizes.judge_parameters(sizes.counted() | change).verdict == outcome


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize(("key", "control"), [("information", "placebo"), ("not-cost", "equal_cost")])
def test_a_control_must_lose_to_the_full_method(tmp_path: Path, key: str, control: str, outcome: str) -> None:
    rival = [50.4, 49.9, 50.2] if outcome == "undecided" else [v + OUTCOMES[outcome] + 0.01 * v for v in around(50.0)]
    evidence = write(tmp_path, "ablation_controls", {"full": around(50.0), control: rival})
    assert verdict(key, evidence) == outcome


@pytest.mark.parametrize(
    ("outcome", "rivals"),
    [
        ("supported", [[60.0, 60.1, 59.9], [61.0, 61.1, 60.8], [62.0, 62.1, 61.9]]),
        ("refuted", [[60.0, 60.1, 59.9], [40.0, 40.1, 39.9], [62.0, 62.1, 61.9]]),
        ("undecided", [[60.0, 60.1, 59.9], [50.4, 49.9, 50.2], [62.0, 62.1, 61.9]]),
    ],
)
def test_optics_matter_where_every_other_low_pass_loses(
    tmp_path: Path, outcome: str, rivals: list[list[float]]
) -> None:
    values = {"full": [50.0, 50.3, 49.7]} | dict(zip(("area", "bicubic", "ideal"), rivals, strict=True))
    assert verdict("optics", write(tmp_path, "ablation_controls", values)) == outcome


@pytest.mark.parametrize(
    ("outcome", "border"),
    [("supported", [40.0, 40.1, 39.9]), ("refuted", [70.0, 70.1, 69.9]), ("undecided", [60.4, 59.9, 60.2])],
)
def test_holes_are_filled_better_where_both_masks_are(tmp_path: Path, outcome: str, border: list[float]) -> None:
    values = {"baseline-center": around(60.0), "full-center": [40.0, 40.1, 39.9]}
    values |= {"baseline-border": around(60.0), "full-border": border}
    assert verdict("completion", write(tmp_path, "inpainting", values)) == outcome


# ------------------------------------------------------------------------------------------------------------- tokens


@pytest.mark.parametrize(
    ("outcome", "teacher"),
    [("supported", [3.0, 3.1, 2.9]), ("refuted", [5.0, 5.1, 4.9]), ("undecided", [4.1, 3.9, 4.2])],
)
def test_alias_tokens_are_evidence_where_the_teacher_predicts_better(
    tmp_path: Path, outcome: str, teacher: list[float]
) -> None:
    evidence = write(tmp_path, "ablation_table2", {"full": around(1.0)})
    for cell in evidence.study("ablation_table2").cells:
        record = {"cross_entropy": 4.0 + 0.01 * cell.seed, "teacher/cross_entropy": teacher[cell.seed]}
        cell.chain["var"].log_metrics(300, record, split="heldout")
    assert verdict("evidence", evidence) == outcome


@pytest.mark.parametrize(("outcome", "shift"), [("supported", -0.3), ("refuted", 0.3), ("undecided", 0.0)])
def test_sparse_and_stable_codes_compare_tokenizers_seed_by_seed(outcome: str, shift: float) -> None:
    theirs = {0: 0.6, 1: 0.62, 2: 0.58}
    ours = {seed: value + shift + (0.05, -0.04, 0.0)[seed] for seed, value in theirs.items()}
    paired = tokens._paired(ours, theirs, ("alias", "structure"), tokens.USE, lower=True)
    assert paired.verdict == outcome
    opposite = {"supported": "refuted", "refuted": "supported", "undecided": "undecided"}[outcome]
    assert tokens._paired(ours, theirs, ("a", "b"), tokens.PSNR, lower=False).verdict == opposite


def test_shared_tokenizers_leave_a_claim_about_tokenizers_undecided(tmp_path: Path) -> None:
    evidence = write(tmp_path, "ablation_table2", {"full": around(1.0), "baseline": around(1.0)})
    for cell in evidence.study("ablation_table2").cells:
        cell.chain["tokens.tokenizer"].log_metrics(300, {"psnr": 20.0}, split="heldout")
    finding = BY_KEY["stable"].find(evidence)
    assert (finding.verdict, finding.effect) == ("undecided", "PSNR dB +0.00")  # of seed 0 alone
    assert "1 pair, an interval takes 3" in finding.note


@pytest.mark.parametrize(
    ("outcome", "rates"),
    [("supported", [0.2, 0.22, 0.21]), ("refuted", [0.8, 0.82, 0.81]), ("undecided", [0.5, 0.4, 0.6])],
)
def test_text_is_readable_where_fewer_characters_are_misread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: str, rates: list[float]
) -> None:
    read = {"fvar-text": rates, "var-text": [0.5, 0.51, 0.49]}

    class Known:
        label = "x"

        def __init__(self, name: str) -> None:
            self.name = name

    monkeypatch.setattr(Readings, "of", lambda results: {name: Known(name) for name in read})
    monkeypatch.setattr(tokens, "misread", lambda known: dict(enumerate(read[known.name])))
    monkeypatch.setattr(Evidence, "study", lambda *_: None)
    assert verdict("text", Evidence(tmp_path, "smoke")) == outcome


# ------------------------------------------------------------------------------------------ mathematics and arithmetic


def cost(flops: float, attention: float) -> Row:
    return Row("a reading", 16, flops, flops, attention)


@pytest.mark.parametrize(
    ("judge", "outcome", "numbers"),
    [
        (optics.judge_schedule, "supported", [12.0, 9.0, 3.0, 0.0]),
        (optics.judge_schedule, "refuted", [0.0, 3.0, 9.0, 12.0]),
        (optics.judge_schedule, "undecided", [12.0, 3.0, 9.0, 0.0]),
        (optics.judge_band, "supported", [0.001, 0.0]),
        (optics.judge_band, "refuted", [0.13, 0.05]),
        (optics.judge_band, "undecided", [0.13, 0.001]),
        (optics.judge_energy, "supported", [1.0, 0.995]),
        (optics.judge_energy, "refuted", [0.7, 0.4]),
        (optics.judge_energy, "undecided", [1.0, 0.4]),
        (bill.judge_flops, "supported", [cost(0.1, 0.01)]),
        (bill.judge_flops, "refuted", [cost(1.0, 0.01)]),
        (bill.judge_flops, "undecided", [cost(0.1, 0.01), cost(1.0, 0.01)]),
        (bill.judge_parameters, "supported", [cost(1.0, 0.01)]),
        (bill.judge_parameters, "refuted", [cost(1.0, 0.1)]),
        (bill.judge_parameters, "undecided", [cost(1.0, 0.01), cost(1.0, 0.1)]),
        (bill.judge_overhead, "supported", [(1.0, 1.0)]),
        (bill.judge_overhead, "refuted", [(1.0, 1.1)]),
        (bill.judge_overhead, "undecided", [(1.0, 1.0), (1.1, 1.1)]),
    ],
)
def test_a_computed_claim_follows_its_numbers(
    judge: Callable[[Sequence[object]], Finding], outcome: str, numbers: Sequence[object]
) -> None:
    assert judge(numbers).verdict == outcome


@pytest.mark.parametrize(
    ("outcome", "same", "own"),
    [
        ("supported", [1.0, 2.0, 3.0], [1.0, 1.5, 2.0]),
        ("undecided", [1.0, 2.0, 3.0], [1.0, 0.5, 2.0]),
        ("refuted", [2.0, 1.0, 3.0], [1.0, 0.5, 2.0]),
    ],
)
def test_information_must_rise_at_equal_noise_and_at_the_papers(
    outcome: str, same: list[float], own: list[float]
) -> None:
    assert optics.judge_information(same, own).verdict == outcome


@pytest.mark.parametrize(
    ("outcome", "disks"), [("supported", (0.1, 0.1)), ("undecided", (0.1, 0.9)), ("refuted", (0.9, 0.9))]
)
@pytest.mark.parametrize(("key", "rival"), [("source", "area"), ("realism", "gaussian")])
def test_a_pyramid_aliases_less_where_all_its_views_do(
    tmp_path: Path, key: str, rival: str, outcome: str, disks: tuple[float, float]
) -> None:
    lines = ["images,K,k,rho_max,recipe,aliasing"]
    for images, disk in zip(("emoji", "text"), disks, strict=True):
        lines += [f"{images},4,1,,area,0.5", f"{images},4,1,12,gaussian,0.5", f"{images},4,1,12,disk,{disk}"]
        lines += [f"{images},4,1,24,disk,0.001", f"{images},10,1,12,disk,0.001"]  # another radius, another pyramid
    (tmp_path / "spectral").mkdir()
    (tmp_path / "spectral" / "aliasing.csv").write_text("\n".join(lines))
    assert verdict(key, Evidence(tmp_path, "smoke")) == outcome


def test_what_is_computed_today_is_what_we_say_of_the_paper(tmp_path: Path) -> None:
    """The text's own words, checked: a disk is not band-limited, and the residual is not the alias alone."""
    found = {claim.key: claim.find(Evidence(tmp_path, "smoke")).verdict for claim in CLAIMS if not claim.study}
    assert found == {
        "parameters": "supported",
        "schedule": "refuted",
        "band-limited": "refuted",
        "monotone": "undecided",
        "energy": "refuted",
        "flops": "undecided",
        "three-percent": "supported",
        "zero-overhead": "supported",
    }
    assert {row.flops_as_claimed for row in rows()} == {True, False}


def test_the_information_of_a_state_is_less_where_more_is_blurred_and_nothing_is_lost_of_a_sharp_one() -> None:
    bits = [optics._information(rho, 1e-3) for rho in (24.0, 12.0, 1.0, 0.0)]
    assert bits == sorted(bits)
    assert optics._information(0.0, 1e-3) - optics._information(0.0, 1e-2) < 3.33  # log2 10: a white spectrum's


# -------------------------------------------------------------------------------------------------------------- ledger


def test_nothing_measured_nothing_said(tmp_path: Path) -> None:
    """Without results only mathematics has a verdict, and every other claim has a command with its price."""
    lines = ledger(tmp_path, "smoke")
    assert len(lines) >= 20
    assert len({line.claim.key for line in lines}) == len(lines)
    for line in lines:
        if line.claim.study:
            assert line.finding.verdict == "not measured"
            assert not line.finding.effect
            assert line.command.startswith(f"python -m studies.run {line.claim.study}")
            assert line.claim.study in STUDIES
            assert "minutes of a processor" in line.price or line.price == "nothing to train"
        else:
            assert line.finding.verdict != "not measured"
            assert not line.command


def test_an_unmeasured_claim_at_the_papers_preset_is_priced_in_gpu_hours(tmp_path: Path) -> None:
    line = next(line for line in ledger(tmp_path, "paper") if line.claim.key == "full")
    assert "--preset paper --seeds 3" in line.command
    assert line.price.endswith("GPU hours")


def test_a_claim_about_tokenizers_asks_for_seeds_of_tokenizers_and_pays_for_them(tmp_path: Path) -> None:
    lines = {line.claim.key: line for line in ledger(tmp_path, "paper")}
    assert "--tokenizer-seeds" in lines["sparse"].command
    assert "--tokenizer-seeds" not in lines["full"].command
    hours = [float(lines[key].price.split()[0].replace(",", "")) for key in ("full", "sparse")]
    assert hours[1] > 1.05 * hours[0]


def test_one_seed_supports_nothing(tmp_path: Path) -> None:
    finding = BY_KEY["full"].find(write(tmp_path, "ablation_table2", {"full": [10.0], "baseline": [90.0]}))
    assert finding.verdict == "undecided"
    assert "1 pair, an interval takes 3" in finding.note


def test_a_failed_run_leaves_its_claim_not_measured(tmp_path: Path) -> None:
    evidence = write(tmp_path, "ablation_table2", {"full": around(50.0), "baseline": around(60.0)})
    stage = evidence.study("ablation_table2").cells[0].stages["scores"]
    RunDir.open(tmp_path / "runs" / stage).update(state="failed", error="out of memory")
    finding = BY_KEY["full"].find(Evidence(tmp_path, "smoke"))
    assert (finding.verdict, finding.note) == ("not measured", "full/seed0 is failed")


def test_seeds_that_differ_cost_a_claim_a_line_and_no_other_its_verdict(tmp_path: Path) -> None:
    write(tmp_path, "ablation_table2", {"full": around(50.0), "baseline": [60.0, 60.2]})
    found = {line.claim.key: line.finding for line in ledger(tmp_path, "smoke")}
    assert found["full"].verdict == "not measured"
    assert "only equal seeds are paired" in found["full"].note
    assert found["zero-overhead"].verdict == "supported"


def test_an_undecided_claim_says_how_many_seeds_would_decide_it(tmp_path: Path) -> None:
    values = {"full": [50.0, 50.0, 50.0], "baseline": [51.0, 50.0, 52.5]}
    write(tmp_path, "ablation_table2", values)
    line = next(line for line in ledger(tmp_path, "smoke") if line.claim.key == "full")
    assert line.finding.verdict == "undecided"
    assert 3 < line.finding.seeds < 30
    assert f"--seeds {line.finding.seeds}" in line.command


def test_the_seeds_needed_give_a_power_of_eighty_per_cent() -> None:
    """Against a simulation of the paired t test."""
    import numpy as np
    from scipy.stats import ttest_1samp

    from analysis.stats import compare

    seen = compare([1.0, 0.0, 2.0, 1.5, -0.5])
    n = needed(seen)
    sd = float(np.std([1.0, 0.0, 2.0, 1.5, -0.5], ddof=1))
    drawn = np.random.default_rng(0).normal(0.8, sd, (20_000, n))
    assert (ttest_1samp(drawn, 0, axis=1).pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.05)


def test_where_seeds_were_added_the_verdict_is_the_rules(tmp_path: Path) -> None:
    """Three pairs that a fixed test calls separated at once: after 3 of at most 20 looks little alpha is spent."""
    write(tmp_path, "ablation_table2", {"full": around(50.0), "baseline": [52.0, 52.6, 51.9]})
    assert verdict("full", Evidence(tmp_path, "smoke")) == "supported"
    path = tmp_path / "ablation_table2" / "smoke" / "cells.json"
    rule = {"metric": "kid", "reference": "full", "max_seeds": 20, "margin": None}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"until": rule}))
    finding = BY_KEY["full"].find(Evidence(tmp_path, "smoke"))
    assert finding.verdict == "undecided"
    assert "--until" in finding.note
    line = next(line for line in ledger(tmp_path, "smoke") if line.claim.key == "full")
    assert line.command == f"python -m studies.run ablation_table2 --preset smoke --seeds 4 --results {tmp_path}-2"
    assert line.price not in ("", "nothing to train")  # the rule has had its last look: this starts over
    write(tmp_path, "ablation_table2", {"full": around(50.0), "baseline": around(52.0), "gaussian": around(51.0)})
    path.write_text(json.dumps(json.loads(path.read_text()) | {"until": rule}))
    other = BY_KEY["antialiasing"].find(Evidence(tmp_path, "smoke"))
    assert (other.verdict, other.interval) == ("undecided", "")
    assert "other comparisons" in other.note


def test_the_page_is_a_section_per_preset_with_the_mathematics_first(tmp_path: Path) -> None:
    page = markdown({name: ledger(tmp_path, name) for name in ("smoke", "paper")})
    titles = [line for line in page.splitlines() if line.startswith("## ")]
    assert titles == ["## Mathematics and arithmetic, at every preset", "## Preset `smoke`", "## Preset `paper`"]
    assert page.count("| Each focus state is band-limited by its PSF |") == 1
    assert "**refuted**" in page


def test_a_study_of_no_preset_makes_no_section(tmp_path: Path) -> None:
    fakes.write_cells(tmp_path, "spectral", [])
    assert started(tmp_path) == []
    fakes.write_cells(tmp_path, "wiener", [], preset="desk")
    assert started(tmp_path) == ["desk"]


def test_the_command_prints_the_table_and_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["claims", "--preset", "smoke", "--results", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "3 refuted" in shown
    assert "python -m studies.run ablation_table2 --preset smoke --seeds 3" in shown
    assert (tmp_path / "claims.md").exists()
    with pytest.raises(UserError, match=r"^[^\n]*preset 'smoky'[^\n]*$"):
        main(["claims", "--preset", "smoky", "--results", str(tmp_path)])


def test_a_claim_that_is_not_told_in_full_is_not_told(tmp_path: Path) -> None:
    def broken(evidence: Evidence) -> Finding:
        raise NotMeasured("half of it is missing")

    claim = replace(CLAIMS[0], judge=broken)
    assert isinstance(claim, Claim)
    assert claim.find(Evidence(tmp_path, "smoke")) == Finding("not measured", note="half of it is missing")
