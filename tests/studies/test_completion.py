"""What the shell offers while a command is typed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fvar.errors import UserError
from studies.completion import SHELLS, candidates, main
from studies.presets import PRESETS
from studies.study import STUDIES
from tests import fakes

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = "docs.examples.classifier_study"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("results")
    cells = [
        fakes.cell(variant, seed, fakes.chain(variant, seed)) for variant in ("full", "gaussian") for seed in (0, 1)
    ]
    fakes.write_cells(folder, "ablation_table2", cells, preset="desk-1f0c3a")
    return str(folder)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("studies.run abl", ["ablation_controls", "ablation_table2"]),
        ("studies.run ablation_table2 --preset ", sorted(PRESETS)),
        ("studies.run ablation_table2 --cluster s", ["slurm"]),
        ("studies.run ablation_table2 --only no_", ["no_dual", "no_refocusing", "no_teacher"]),
        ("studies.run --seeds 3 sweep_l", ["sweep_lambda"]),
        ("studies.run ablation_table2 --max-", ["--max-gpu-hours", "--max-seeds"]),
        ("studies.run ablation_table2 --recompute to", ["tokenizer", "tokens"]),
        ("studies.run ablation_table2 --profile ", ["a100"]),
        ("studies.run search_distillation --sampler gp --pruner me", ["median"]),
        ("studies re", ["report", "retry"]),
        ("studies report --html tab", ["table1", "table1_512"]),
        ("studies report ablation_table2 ", []),
        ("studies nonsense ", []),
        ("studies.run no_such_study --only ", []),
    ],
)  # fmt: skip
def test_what_may_follow(line: str, expected: list[str]) -> None:
    assert candidates(line.split(" ")) == expected


def test_cells_and_started_presets_come_from_the_results_that_the_line_names(results: str) -> None:
    line = ["studies", "logs", "--results", results, "ablation_table2"]
    assert candidates([*line, "f"]) == ["full", "full/seed0", "full/seed1"]
    assert candidates([*line, "full", ""]) == []
    assert candidates(["studies", "diff", "--results", results, "ablation_table2", "full", "g"])[0] == "gaussian"
    assert "desk-1f0c3a" in candidates([*line, "--preset", ""])
    assert candidates(["studies", "logs", "--results", results + "/none", "ablation_table2", ""]) == []


def test_studies_are_offered_without_torch_and_with_those_of_plugins() -> None:
    code = "import sys; from studies.completion import main; main(); sys.exit('torch' in sys.modules)"
    words = ["studies.run", "--plugin", EXAMPLE, ""]
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == sorted([*STUDIES, "digits"])


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_the_shell_asks_for_the_word_under_the_cursor_and_leaves_other_lines_alone(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    assert subprocess.run([shell, "-n"], input=SHELLS[shell], text=True).returncode == 0
    if shell == "bash":
        python, path = sys.executable, os.environ | {"PYTHONPATH": str(ROOT)}
        for words, expected in (
            (f"({python} -m studies.run ablation_ta)", "ablation_table2"),
            (f"({python} -m json.tool abl)", ""),
        ):
            script = f"{SHELLS[shell]}COMP_WORDS={words}; COMP_CWORD=3; COMPREPLY=(); _fvar; echo ${{COMPREPLY[@]}}"
            done = subprocess.run(["bash", "-c", script], env=path, capture_output=True, text=True)
            assert done.stdout.strip() == expected


def test_the_script_is_printed_for_a_shell_that_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["zsh"]) == 0
    assert "bashcompinit" in capsys.readouterr().out
    with pytest.raises(UserError, match="unknown shell 'fish'; valid: bash, zsh"):
        main(["fish"])
    with pytest.raises(UserError, match="name a shell"):
        main([])
