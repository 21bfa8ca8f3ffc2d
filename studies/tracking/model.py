"""A student as a folder that MLflow loads by itself, in any process, with or without fvar installed.

    results/models/NAME/<digest of the weights>/
        MLmodel  README.md                           signature and sampling settings; the card
        artifacts/runs/{var,tokens,tokenizer}-...    configurations and safetensors, as `fvar.sample` reads them
        sampler.py  code/fvar/                       what loads and runs them: sources, nothing is pickled

The sources are carried since fvar is in no package index, and since what was promoted must stay what it was.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fvar
from analysis.cells import StudyRecord
from analysis.results import CellResult
from fvar.config import SamplesConfig, TokenizerConfig
from fvar.errors import UserError, one_line
from fvar.machine import atomic
from fvar.rundir import RunDir
from studies.tracking import card
from studies.tracking.store import QUIET

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

MODELS = "models"  # the folder of all models, beside those of the studies
CARD = "README.md"
FACTS = "fvar"  # key of the metadata in MLmodel: the tags of the model's version
FILES = {
    "var": ("config.json", "model.safetensors"),
    "tokens": ("config.json", "manifest.json"),  # the names of the classes
    "tokenizer": ("config.json", "model.safetensors", "companion.safetensors"),
}
REQUIRED = ("mlflow", "numpy", "pillow", "safetensors", "torch", "tqdm")  # by the part of fvar that samples
PICTURES = "emoji"  # in the sources of fvar: a data set
EXAMPLE = {"class": [0], "count": 1}


def make(results: Path, name: str, study: StudyRecord, cell: CellResult) -> Path:
    """The folder of a finished cell's student, made where it is missing: as a whole, or not at all.

    Raises `UserError` where weights are gone, or where MLflow or the disk fails.
    """
    runs = [cell.chain["var"], cell.chain["tokens"], card.tokenizer_of(cell)]
    folder = results.resolve() / MODELS / name / digest(runs)
    if (folder / CARD).exists():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".making-", dir=folder.parent) as temporary:
            made = Path(temporary, folder.name)
            _save(made, _carried(Path(temporary), runs), cell, card.facts(study, cell))
            atomic.write_text(made / CARD, card.write(name, study, cell))
            os.replace(made, folder)
    except Exception as error:
        raise UserError(f"the model cannot be written to {folder} ({one_line(error)})") from error
    return folder


def digest(runs: Sequence[RunDir]) -> str:
    """Of the weights of these runs. Raises `UserError` where one is gone."""
    whole = hashlib.sha256()
    for run in runs:
        for name in FILES[run.kind]:
            if not name.endswith(".safetensors"):
                continue
            try:
                with open(run.path / name, "rb") as file:
                    whole.update(hashlib.file_digest(file, "sha256").digest())
            except FileNotFoundError:
                heal = f"repeat the study's command with --recompute {run.kind}"
                raise UserError(f"{run.path / name} is gone; {heal}") from None
    return whole.hexdigest()[:16]


def _carried(folder: Path, runs: Sequence[RunDir]) -> tuple[Path, Path]:
    """What the model takes along, linked or copied: its run directories, and the sources of fvar."""
    carried, code = folder / "runs", folder / "fvar"
    for run in runs:
        (carried / run.name).mkdir(parents=True)
        for name in FILES[run.kind]:
            with contextlib.suppress(FileNotFoundError):  # imported tokens have no manifest
                _link((run.path / name).resolve(), carried / run.name / name)
    shutil.copytree(Path(fvar.__file__).parent, code, ignore=shutil.ignore_patterns("__pycache__", PICTURES))
    return carried, code


def _link(source: Path, target: Path) -> None:
    """One file under two names, or a copy where the disk has no such links: MLflow copies it, and takes no symlinks."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, target)


def _save(folder: Path, carried: tuple[Path, Path], cell: CellResult, facts: Mapping[str, str]) -> None:
    """Have MLflow write its model folder."""
    runs, code = carried
    os.environ.update(QUIET)
    from mlflow import pyfunc

    logging.getLogger("mlflow").setLevel(logging.ERROR)  # its hints on saving are not for whoever promotes a cell
    pyfunc.save_model(
        folder,
        python_model=str(Path(__file__).with_name("sampler.py")),
        artifacts={"runs": str(runs)},
        code_paths=[str(code)],
        signature=signature(card.tokenizer_of(cell).config_as(TokenizerConfig).pyramid.image_size),
        input_example=EXAMPLE,
        pip_requirements=[f"{package}=={version(package)}" for package in REQUIRED],
        model_config=settings(cell),
        metadata={FACTS: dict(facts)},
    )


def settings(cell: CellResult) -> dict[str, Any]:
    """How the cell's samples were drawn, which the model does, too, unless a request says otherwise."""
    run = cell.chain.get("samples")
    config = run.config_as(SamplesConfig) if run else SamplesConfig()
    keys = ("guidance", "top_k", "top_p", "batch_size", "precision", "seed")
    return {key: getattr(config, key) for key in keys} | {"device": "auto"}


def signature(size: int) -> ModelSignature:
    """What a request holds, and what it is answered: images of `size` px."""
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec
    from mlflow.types.schema import Array

    whole, real = DataType.long, DataType.double
    options = {"count": whole, "seed": whole, "guidance": real, "top_k": whole, "top_p": real}
    request: list[ColSpec | TensorSpec] = [ColSpec(Array(whole), "class")]
    request += [ColSpec(kind, key, required=False) for key, kind in options.items()]
    images = TensorSpec(np.dtype(np.uint8), (-1, size, size, 3))
    return ModelSignature(Schema(request), Schema([images]))
