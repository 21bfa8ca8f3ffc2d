"""table.md, table.tex and table.csv: what they claim, and that they claim the same."""

from __future__ import annotations

import csv
import json
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import latex, render, table
from analysis.metrics import METRICS
from analysis.results import StudyResults
from analysis.stats import Spread, spread
from fvar.config import RuntimeConfig
from fvar.errors import UserError
from fvar.rundir import RunDir
from tests import fakes

finite = st.floats(-1e6, 1e6)


@pytest.fixture(scope="module")
def ablation(tmp_path_factory: pytest.TempPathFactory) -> StudyResults:
    return fakes.ablation(tmp_path_factory.mktemp("results"), seeds=3)


def body_rows(markdown: str) -> list[list[str]]:
    """The rows of the first grid, without the marks of what is bold."""
    return grid_rows(markdown.partition("\n## ")[0])


def grid_rows(markdown: str) -> list[list[str]]:
    lines = [line for line in markdown.splitlines() if line.startswith("| ")]
    return [[cell.strip().strip("*") for cell in line.strip("|").split(" | ")] for line in lines[2:]]


# -------------------------------------------------------------------------------------------------------------- spread


@given(st.lists(finite, min_size=2, max_size=8))
def test_spread_is_mean_and_sample_standard_deviation(values: list[float]) -> None:
    summary = spread(values)
    assert summary is not None
    assert summary.n == len(values)
    assert summary.mean == pytest.approx(statistics.fmean(values))
    expected = (sum((v - summary.mean) ** 2 for v in values) / (len(values) - 1)) ** 0.5
    assert summary.sd == pytest.approx(expected, abs=1e-4)


def test_one_seed_has_no_spread_and_none_is_not_a_number() -> None:
    assert spread([3.0, None]) == Spread(3.0, None, 1)
    assert spread([3.0]).text(2) == "3.00"  # type: ignore[union-attr]
    assert spread([None]) is None
    with pytest.raises(ValueError, match="non-finite"):
        spread([1.0, float("nan")])


# ------------------------------------------------------------------------------------------------------------- content


def test_every_published_number_of_table_2_is_the_papers() -> None:
    """Typed a second time, from the paper's page."""
    rows = table.published("ablation_table2")
    printed = {
        "baseline": ("3.55", "280.4"),
        "full": ("2.89", "298.1"),
        "no_refocusing": ("3.51", "282.1"),
        "gaussian": ("3.32", "286.7"),
        "no_teacher": ("3.06", "294.8"),
        "no_dual": ("3.14", "292.1"),
    }
    assert {variant: (row["fid"], row["is"]) for variant, row in rows.items()} == printed
    assert all(row["source"] == "cited: ReFocus-VAR, Table 2" for row in rows.values())
    assert "3.30" in rows["baseline"]["note"]


def test_table_1_has_the_papers_27_rows_in_five_families() -> None:
    rows = table.published("table1")
    families = [row["family"] for row in rows.values()]
    assert len(rows) == 27
    assert [families.count(name) for name in dict.fromkeys(families)] == [3, 6, 2, 4, 12]
    assert rows["fvar-d24"] | {"source": "", "note": ""} == {
        "study": "table1", "variant": "fvar-d24", "family": "Scale-wise autoregressive", "model": "ReFocus-VAR-d24",
        "fid": "1.75", "is": "325.8", "precision": "0.84", "recall": "0.61", "parameters": "1.0B", "steps": "10",
        "relative_time": "0.5", "source": "", "note": "",
    }  # fmt: skip
    assert rows["vitvq"]["relative_time"] == ">17"
    assert rows["cdm"]["precision"] == ""


def test_csv_holds_mean_and_spread_over_seeds_of_the_scores_on_disk(ablation: StudyResults) -> None:
    table.write(ablation)
    frame = pd.read_csv(ablation.folder / "table.csv").set_index("variant")
    assert list(frame.index) == list(fakes.VARIANTS)
    for variant, cells in ablation.variants().items():
        values = [cell.score("fid") for cell in cells]
        assert frame.loc[variant, "fid_mean"] == pytest.approx(statistics.fmean(values))  # type: ignore[arg-type]
        assert frame.loc[variant, "fid_sd"] == pytest.approx(statistics.stdev(values))  # type: ignore[type-var]
    assert set(frame["sample_count"]) == {fakes.COUNT}
    assert set(frame["reference_count"]) == {1668}
    assert frame.loc["full", "cited_fid"] == 2.89


def tex_rows(typeset: str) -> list[list[list[str]]]:
    """The cells of every tabular."""
    bodies = [part.split("\\bottomrule")[0].strip() for part in typeset.split("\\midrule\n")[1:]]
    return [[row.removesuffix(" \\\\").split(" & ") for row in body.splitlines()] for body in bodies]


def test_markdown_latex_and_csv_show_the_same_numbers(ablation: StudyResults) -> None:
    table.write(ablation)
    rows = body_rows((ablation.folder / "table.md").read_text())
    typeset = (ablation.folder / "table.tex").read_text()
    plain, rest = (
        [[re.sub(r"\\textbf\{(.*)\}", r"\1", cell).replace("$\\pm$", "±").strip() for cell in row] for row in part]
        for part in tex_rows(typeset)[:2]
    )
    assert [[*row, *more[2:]] for row, more in zip(plain, rest, strict=True)] == rows
    with open(ablation.folder / "table.csv", newline="") as file:
        for row, record in zip(rows, csv.DictReader(file), strict=True):
            assert row[0] == record["label"]
            assert row[2] == f"{float(record['fid_mean']):.2f} ± {float(record['fid_half']):.2f}"
            assert row[3] == f"{1e3 * float(record['kid_mean']):.2f} ± {1e3 * float(record['kid_half']):.2f}"


def test_writing_again_from_the_files_writes_the_same_bytes(ablation: StudyResults) -> None:
    first = [path.read_bytes() for path in table.write(ablation)]
    again = StudyResults.read(ablation.folder.parent.parent, ablation.study, ablation.preset)
    assert [path.read_bytes() for path in table.write(again)] == first


def test_notes_name_counts_extractor_seeds_and_that_a_small_preset_is_not_the_papers(ablation: StudyResults) -> None:
    text = render.markdown(ablation, table.rows(ablation))
    for fact in (
        "preset `smoke` on emoji at 64 px",
        "36 samples against 1668 real images, inception-torchscript",
        "Seeds 0, 1, 2; ± is the half-width of the 95 % interval of the mean over seeds (Student's t).",
        "NOT comparable with the paper's",
        "FID: 36 images span no 2048 dimensions; see KID.",
        "IS is blank: inception-torchscript has no classifier head; IS needs one",
        "camera-ready says FID 3.30",
        "FID@36 ↓",
        "cited FID ↓",
    ):
        assert fact in text


def test_blank_inception_score_has_no_number_anywhere(ablation: StudyResults) -> None:
    frame = table.tidy(ablation)
    assert frame["is_mean"].isna().all()
    column = render.Layout.of(ablation, table.rows(ablation)).headings.index("IS@36 ↑")
    assert {row[column] for row in body_rows(render.markdown(ablation, table.rows(ablation)))} == {""}


def test_aliasing_stands_beside_fid_and_says_how_to_read_it(ablation: StudyResults) -> None:
    frame = table.tidy(ablation)
    rows = body_rows(render.markdown(ablation, table.rows(ablation)))
    headings = render.Layout.of(ablation, table.rows(ablation)).headings
    spectrum, top = (headings.index(name) for name in ("Spectral distance dB ↓", "Top octave / real (1)"))
    assert (rows[0][0], rows[0][spectrum], rows[0][top]) == ("VAR (baseline)", "3.00 ± 0.00", "1.80 ± 0.00")
    assert "more than 1 is aliasing or noise, less is blur." in render.markdown(ablation, table.rows(ablation))
    assert set(frame["extractor"]) == {"inception-torchscript"}  # spectra have none, which contradicts nothing


def test_one_seed_shows_the_mean_alone_and_says_so(tmp_path: Path) -> None:
    results = fakes.ablation(tmp_path, seeds=1)
    frame = table.tidy(results)
    rows = body_rows(render.markdown(results, table.rows(results)))
    assert all(row[1] == "1 seed" and re.fullmatch(r"\d+\.\d\d", row[2]) for row in rows)
    assert frame["fid_sd"].isna().all()


def test_failed_and_blocked_cells_are_rows_with_their_state_and_no_number(tmp_path: Path) -> None:
    results = fakes.ablation(tmp_path, seeds=1, unfinished=("gaussian", "no_dual"))
    for variant, kind in (("gaussian", "scores"), ("no_dual", "var")):
        stage = fakes.chain(variant, 0)
        RunDir.create(tmp_path / "runs", stage, RuntimeConfig())
        broken = next(part for part in stage.chain() if part.kind == kind)
        RunDir.open(tmp_path / "runs" / broken.name).update(state="failed", error="Traceback\nOSError: disk full")
    results = StudyResults.read(tmp_path, results.study, results.preset)
    text = render.markdown(results, table.rows(results))
    rows = {row[0]: row for row in body_rows(text)}
    ours = 2 + len(METRICS)
    assert rows["w/ Gaussian blur"][1:ours] == ["failed"] + [""] * len(METRICS)
    assert rows["w/o dual tokenizers"][1:ours] == ["blocked"] + [""] * len(METRICS)
    assert rows["w/o dual tokenizers"][ours] == "3.14"
    assert re.search(r"w/o dual tokenizers is blocked: var-[0-9a-f]{16}: OSError: disk full", text)


def test_unfinished_seeds_are_left_out_of_the_mean_and_counted(tmp_path: Path) -> None:
    fakes.ablation(tmp_path, seeds=2)
    stages = [fakes.chain("full", seed) for seed in (0, 1, 7)]
    results = fakes.write_cells(
        tmp_path,
        "ablation_table2",
        [fakes.cell("full", seed, stage) for seed, stage in zip((0, 1, 7), stages, strict=True)],
    )
    frame = table.tidy(results)
    assert (frame.loc[0, "seeds"], frame.loc[0, "seeds_done"], frame.loc[0, "fid_n"]) == (3, 2, 2)
    assert body_rows(render.markdown(results, table.rows(results)))[0][1] == "2 of 3 seeds, waiting"


def test_non_finite_heldout_loss_is_blank_with_the_reason(tmp_path: Path) -> None:
    results = fakes.ablation(tmp_path, seeds=1)
    cell = results.variants()["full"][0]
    cell.chain["var"].log_metrics(fakes.STEPS, {"cross_entropy": float("nan")}, split="heldout")
    frame = table.tidy(results).set_index("variant")
    assert frame["cross_entropy_mean"].isna()["full"]
    assert frame.loc["full", "cross_entropy_reason"] == "full/seed0 gave nan"


def test_published_models_that_were_not_run_follow_as_cited_rows(tmp_path: Path) -> None:
    stage = fakes.chain("full", 0)
    fakes.finish(tmp_path, stage, 0.5, 0)
    results = fakes.write_cells(tmp_path, "table1", [fakes.cell("fvar-d16", 0, stage, "FVAR-d16")], title="Table 1")
    rows = body_rows(render.markdown(results, table.rows(results)))
    assert len(rows) == 27
    assert rows[0][0] == "FVAR-d16"
    assert rows[0][-7:] == ["2.89", "298.1", "0.85", "0.54", "310M", "10", "0.2"]
    assert {row[1] for row in rows[1:]} == {"cited"}
    assert all(cell == "" for row in rows[1:] for cell in row[2:9])


def test_sizes_and_times_over_var_d16s_are_columns_where_depths_differ(tmp_path: Path) -> None:
    made, cells = {"var-d16": 0.5, "m-var-d16": 0.75, "fvar-d16": None}, []
    for number, (variant, seconds) in enumerate(made.items()):
        stage = fakes.chain("full", number)
        fakes.finish(tmp_path, stage, 0.5, 0)
        cells.append(fakes.cell(variant, 0, stage, variant, depth=16, model=variant))
        if seconds:
            samples = RunDir.open(tmp_path / "runs" / stage.inputs["samples"].name)
            samples.log_metrics(36, {"seconds_per_image": seconds, "steps": 10, "parameters": 4.6e8}, split="speed")
    frame = table.tidy(fakes.write_cells(tmp_path, "table1", cells)).set_index("variant")
    assert list(frame["relative_time_mean"][:2]) == [1, 1.5]
    assert list(frame["steps_mean"][:2]) == [10, 10]
    assert frame.loc["fvar-d16", "relative_time_reason"] == "the sampling of fvar-d16 was not timed in this study"
    row = body_rows(render.markdown(results := fakes.write_cells(tmp_path, "table1", cells), table.rows(results)))[1]
    assert row[-10:-7] == ["460.00", "10", "1.50"]


def test_a_study_the_paper_does_not_have_has_no_cited_columns(tmp_path: Path) -> None:
    stage = fakes.chain("full", 0, rho_max=6.0)
    fakes.finish(tmp_path, stage, 0.5, 0)
    results = fakes.write_cells(tmp_path, "sweep_psf_radius", [fakes.cell("rho6", 0, stage, "ρ = 6 px", rho_max=6.0)])
    text = render.markdown(results, table.rows(results))
    assert "cited" not in text.lower()
    assert table.tidy(results).loc[0, "param_rho_max"] == 6.0


def test_settings_that_no_label_could_hold_get_columns(tmp_path: Path) -> None:
    settings = [
        {"lambda_feat": 1.0, "blocks": 2, "gate_bias": -4.0},
        {"lambda_feat": 0.123456, "blocks": 1, "gate_bias": 0.0},
    ]
    cells = [fakes.cell(f"t{i}", 0, fakes.chain("full", i), "", **params) for i, params in enumerate(settings)]
    results = fakes.write_cells(tmp_path, "search_distillation", cells)
    assert [row[1:5] for row in body_rows(render.markdown(results, table.rows(results)))] == [
        ["waiting", "1", "2", "-4"],
        ["waiting", "0.123", "1", "0"],
    ]
    columns = "ll" + "r" * ((3 + len(METRICS)) // 2)  # in two parts of equal width
    assert f"\\begin{{tabular}}{{{columns}}}" in render.latex(results, table.rows(results))


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_a_bare_article_with_booktabs_and_graphicx_takes_the_table(ablation: StudyResults, tmp_path: Path) -> None:
    table.write(ablation)
    (tmp_path / "article.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs,graphicx}\\begin{document}"
        f"\\input{{{ablation.folder / 'table.tex'}}}\\end{{document}}"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "article.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout


def test_scores_under_a_mask_have_fewer_originals_than_samples(tmp_path: Path) -> None:
    results = fakes.ablation(tmp_path, seeds=1)
    for cell in results.cells:
        path = cell.chain["scores"].path / "scores.json"
        body = json.loads(path.read_text())
        references = body["fid"]["reference_count"]
        # every sample has its original, of which some were completed twice
        body["masked_psnr"] = body["fid"] | {"value": 12.0, "reference_count": references + 5, "extractor": None}
        path.write_text(json.dumps(body))
    frame = table.tidy(StudyResults.read(tmp_path, results.study, results.preset))
    assert set(frame["reference_count"].dropna()) == {references}


def test_one_network_under_two_names_is_not_compared_with_itself(tmp_path: Path) -> None:
    """As in in- and outpainting: a loss per token beside another tokenizer's alone would pass for a comparison."""
    network, another = fakes.chain("full", 0), fakes.chain("full", 1)
    for chain in (network, another):
        fakes.finish(tmp_path, chain, 0.5, 0)
    for third, reason in ((network, "no other network shares its tokenizer"), (another, "")):
        cells = [fakes.cell(str(index), 0, chain) for index, chain in enumerate([network, network, third])]
        frame = table.tidy(fakes.write_cells(tmp_path, "inpainting", cells)).set_index("variant")
        assert frame.loc["0", "cross_entropy_reason"] == reason


def test_scores_of_one_variant_with_different_sample_counts_are_refused(tmp_path: Path) -> None:
    results = fakes.ablation(tmp_path, seeds=2)
    path = results.cells[0].chain["scores"].path / "scores.json"
    path.write_text(path.read_text().replace(f'"count": {fakes.COUNT}', '"count": 99'))
    with pytest.raises(UserError, match="differ in count: 36, 99"):
        table.tidy(results)


# --------------------------------------------------------------------------------------------------------- typesetting


@given(st.text(st.sampled_from("ab1 _&%$#{}~^\\|<>±×³↓ρλé漢—…"), max_size=30))
def test_tex_leaves_no_character_pdflatex_would_trip_over(text: str) -> None:
    typeset = latex.tex(text.replace("`", ""))
    assert typeset.isascii()
    bare = re.sub(r"\\[a-zA-Z]+\{\}|\\[&%$#_{}]|\$\^?[<>|0-9]\$|\$\\[a-z]+\$", "", typeset)
    assert not set(bare) & set("\\&%$#_{}^~")


def test_tex_rows_all_have_as_many_columns_as_declared(ablation: StudyResults) -> None:
    text = render.latex(ablation, table.rows(ablation))
    declared = re.search(r"\\begin\{tabular\}\{([lr]+)\}", text)
    assert declared
    body = text.split("\\midrule\n")[1].split("\\bottomrule")[0].strip().splitlines()
    assert {len(re.split(r"(?<!\\)&", row)) for row in body} == {len(declared.group(1))}


def test_pipes_in_a_label_do_not_split_a_markdown_cell() -> None:
    assert render.pipe_row(["a|b", "c"]) == "| a\\|b | c |"


def test_importing_the_projections_loads_neither_torch_nor_the_big_libraries() -> None:
    heavy = ["torch", "mlflow", "optuna", "matplotlib", "pandas"]
    ours = "analysis.table, studies.tracking.sync, studies.engine.search, analysis.gallery, analysis.plot_sweep"
    ours += ", analysis.style"
    code = f"import sys, {ours}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_table_and_a_page_are_written_without_pandas(ablation: StudyResults) -> None:
    """Importing it alone takes half a second of the processor."""
    code = "import sys; from pathlib import Path; sys.modules['pandas'] = None  # an import of it fails\n"
    code += "from analysis import table; from analysis.report import page; from analysis.results import StudyResults\n"
    code += f"results = StudyResults.read(Path({str(ablation.folder.parents[1])!r}), 'ablation_table2', 'smoke')\n"
    code += "print(*(path.name for path in table.write(results) + page.write(results)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["table.md", "table.tex", "table.csv", "index.html"]


@pytest.mark.parametrize(
    ("name", "values", "written"),
    [
        ("param_depth", [8, 16], ["8", "16"]),
        ("param_depth", [8, None], ["8.0", ""]),  # a cited row has none
        ("param_lr", [1, 1e-05], ["1.0", "1e-05"]),
        ("fid_n", [3, None], ["3", ""]),
        ("fid_best", [True, None], ["True", ""]),
        ("label", ['a, "b"', None], ['"a, ""b"""', ""]),
    ],
)
def test_a_column_of_numbers_is_of_one_kind_and_counts_stay_whole(
    name: str, values: list[object], written: list[str]
) -> None:
    found = [{name: value} for value in table._column(name, values)]
    assert table._csv(found).splitlines() == [
        name,
        *(text or '""' for text in written),
    ]  # alone in a line, "" is quoted
