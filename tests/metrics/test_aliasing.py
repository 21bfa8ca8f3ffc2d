"""python -m fvar.metrics.aliasing: what it measures of a run directory, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fvar.config import (
    AutoencoderConfig,
    DataConfig,
    PyramidConfig,
    QuantiserConfig,
    RuntimeConfig,
    Signal,
    Stage,
    TokenizerConfig,
    TokensConfig,
)
from fvar.errors import UserError
from fvar.metrics.aliasing import main
from fvar.rundir import RunDir
from fvar.tokenizer.bundle import COMPANION_FILE, MODEL_FILE
from fvar.tokenizer.dual import SignalScaler
from fvar.tokenizer.vqvae import VQVAE

DATA = DataConfig(dataset="emoji", image_size=32)


def tokenizer(signal: Signal = "structure") -> TokenizerConfig:
    return TokenizerConfig(
        signal=signal,
        data=DATA,
        pyramid=PyramidConfig(patch_nums=(2, 4, 8), downsample_factor=4),
        autoencoder=AutoencoderConfig(ch=8, ch_mult=(1, 1, 2), num_res_blocks=1, z_channels=4, norm_groups=4),
        quantiser=QuantiserConfig(vocab_size=40),
    )


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A tokenizer of random weights."""
    config = tokenizer()
    run = RunDir.create(tmp_path, Stage(config), RuntimeConfig(device="cpu"))
    torch.manual_seed(0)
    vqvae = VQVAE(config.autoencoder, config.quantiser, config.pyramid.patch_nums)
    torch.nn.init.normal_(vqvae.quantize.embedding.weight)
    save_file({key: value.contiguous() for key, value in vqvae.state_dict().items()}, run.path / MODEL_FILE)
    scaler = {f"scaler.{key}": value for key, value in SignalScaler(3).state_dict().items()}
    save_file(scaler, run.path / COMPANION_FILE)
    return run


def test_it_prints_the_numbers_and_what_they_were_measured_on(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(run.path), "--count", "9", "--device", "cpu", "--json"])
    body = json.loads(capsys.readouterr().out)
    assert (body["images"], body["data"]) == (9, "emoji at 32 px")
    assert set(body["shift_consistency_db_by_shift"]) == {
        "1 down, 0 right", "0 down, 1 right", "2 down, 0 right", "0 down, 2 right",
    }  # fmt: skip
    assert 0 < body["reconstruction_db"] < 30
    assert 0 < body["shift_consistency_db"] < 60
    main([str(run.path), "--count", "9", "--device", "cpu"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["Reconstruction", "Shift", "Staircase"]
    assert "9 held-out images, emoji at 32 px" in lines[0]


def test_edges_that_a_random_tokenizer_loses_are_a_dash(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(run.path), "--count", "2", "--device", "cpu"])
    staircase = capsys.readouterr().out.splitlines()[2]
    assert "- px" in staircase
    assert "of the rows" in staircase


def test_what_is_no_structure_tokenizer_is_refused(tmp_path: Path) -> None:
    alias = RunDir.create(tmp_path, Stage(tokenizer(signal="alias")), RuntimeConfig())
    with pytest.raises(UserError, match="codes alias residuals"):
        main([str(alias.path)])
    tokens = RunDir.create(tmp_path, Stage(TokensConfig(data=DATA), {"tokenizer": Stage(tokenizer())}), RuntimeConfig())
    with pytest.raises(UserError, match="holds a tokens run, not a tokenizer"):
        main([str(tokens.path)])
    with pytest.raises(UserError, match="is missing; first"):
        main([str(tokens.input("tokenizer").path)])
    with pytest.raises(UserError, match="--count"):
        main([str(tokens.path), "--count", "0"])


def test_help_needs_no_torch() -> None:
    code = "import sys\nfrom fvar.metrics import aliasing\n"
    code += "try: aliasing.main(['--help'])\nexcept SystemExit: print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.endswith("False\n")


def test_the_command_answers_to_its_former_name() -> None:
    for name in ("aliasing", "tokenizer"):
        command = [sys.executable, "-m", f"fvar.metrics.{name}", "--help"]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert out.startswith("usage: python -m fvar.metrics.aliasing ")
