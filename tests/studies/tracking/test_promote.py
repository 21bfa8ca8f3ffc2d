"""`python -m studies promote`: a finished cell's network in MLflow's registry, for whoever has MLflow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from fvar import sample
from fvar.config import RuntimeConfig
from fvar.errors import UserError
from fvar.rundir import RunDir
from studies.__main__ import main as studies
from studies.tracking import local, registry
from tests import fakes
from tests.studies.tracking.serving import Served, free_port
from tests.studies.tracking.stores import client, runs
from tests.studies.tracking.trained import chain, train

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

pytest.importorskip("mlflow")

NAME = "toys-smoke-full"


@pytest.fixture
def toys(results: Path) -> Path:
    """A results folder with a study of two seeds, and a variant that failed."""
    stages = [chain(seed) for seed in range(2)]
    cells = [fakes.cell("full", seed, stage) for seed, stage in enumerate(stages)]
    for seed, stage in enumerate(stages):
        train(results, stage, seed)
    failed = chain(2)
    RunDir.create(results / "runs", failed, RuntimeConfig())
    RunDir.open(results / "runs" / failed.name).update(state="failed", error="no memory")
    cells.append(fakes.cell("broken", 0, failed))
    fakes.write_cells(results, "toys", cells, title="Toys")
    return results


def run(*words: object) -> int:
    return studies(["promote", *map(str, words)])


LOAD = """
import json, sys, mlflow
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
images = model.predict({"class": [3], "count": 4})
import fvar
print(json.dumps({"fvar": fvar.__file__, "images": images.tolist(), "kind": str(images.dtype)}))
"""


def load(folder: Path, store: str, model: str) -> dict[str, Any]:
    """What a new process gets from a model, told nothing but where the registry is."""
    quiet = {"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false", "OMP_NUM_THREADS": "1", "PATH": os.environ["PATH"]}
    command = [sys.executable, "-c", LOAD, store, model]
    done = subprocess.run(command, cwd=folder, env=quiet, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


def sampled(results: Path, folder: Path) -> list[Any]:
    """The same images by `python -m fvar.sample`."""
    (run,) = (results / "runs").glob(chain(0).inputs["samples"].inputs["var"].name)
    words = ["--class", "3", "--count", "4", "--guidance", "2", "--precision", "fp32", "--seed", "0"]
    sample.main([str(run), *words, "--out", str(folder)])
    return [np.asarray(Image.open(path)).tolist() for path in sorted(folder.glob("*.png"))]


def versions(found: MlflowClient, name: str = NAME) -> list[Any]:
    return sorted(found.search_model_versions(f"name = '{name}'"), key=lambda version: int(version.version))


def test_a_promoted_cell_samples_in_a_process_that_knows_only_mlflow(toys: Path, tmp_path: Path) -> None:
    assert run("full/seed0", "--results", toys) == 0
    away = tmp_path / "away"
    away.mkdir()
    got = load(away, registry.address_in(toys), f"models:/{NAME}/1")
    assert got["images"] == sampled(toys, tmp_path / "sampled")
    assert got["kind"] == "uint8"
    assert got["fvar"].startswith(str(toys / "models" / NAME))


def test_the_folder_is_a_model_by_itself_with_a_signature_and_without_a_pickle(toys: Path) -> None:
    from mlflow.models import Model

    run("full/seed0", "--results", toys)
    (folder,) = (toys / "models" / NAME).iterdir()
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    assert not [name for name in files if name.endswith((".pkl", ".pickle", ".pt", ".pth", ".pyc", ".png"))]
    assert sum(name.endswith(".safetensors") for name in files) == 3
    signature = Model.load(str(folder)).signature
    assert [(column.name, column.required) for column in signature.inputs.inputs][:2] == [
        ("class", True),
        ("count", False),
    ]
    assert signature.outputs.inputs[0].shape == (-1, 8, 8, 3)


def test_the_same_weights_are_one_version_and_others_the_next(toys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for cell in ("full/seed0", "toys/smoke/full/seed0", "full/seed1"):
        assert run(cell, "--results", toys) == 0
    out = capsys.readouterr().out
    assert out.count("is registered") == 2
    assert out.count("holds these weights already") == 1
    assert f"models:/{NAME}/2 is registered" in out
    assert [version.tags["seed"] for version in versions(client(toys))] == ["0", "1"]


def test_the_registry_names_the_run_the_scores_and_the_limits(toys: Path) -> None:
    run("full/seed0", "--name", "toys of mine", "--results", toys)
    (version,) = versions(client(toys), "toys of mine")
    assert version.run_id == runs(client(toys), "toys/smoke")["full/seed0"].info.run_id
    assert float(version.tags["FID"]) == pytest.approx(180 - 60 * 0.5, abs=10)  # of `fakes.write_scores`
    assert version.tags["cell"] == "full/seed0"
    card = version.description
    assert "small preset `smoke`" in card
    assert "| FID@36 | " in card
    assert "not measured: inception-torchscript has no classifier head" in card
    assert "`python -m studies.run toys --preset smoke --seeds 2`" in card
    assert "3 class 3" in card
    assert card == next((toys / "models" / "toys of mine").glob("*/README.md")).read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fill/seed0"], "there is no cell 'fill/seed0'; there are: toys/smoke/full/seed0, toys/smoke/full/seed1, "),
        (["full"], "may be any of toys/smoke/full/seed0, toys/smoke/full/seed1; give the whole name"),
        (
            ["broken"],
            "toys/smoke/broken/seed0 is not finished (failed: scores-",
        ),
        (["full/seed0", "--name", "a/b"], "'a/b' cannot be a model's name"),
        (["full/seed0", "--name", "../up"], "'../up' cannot be a model's name"),
        (["full/seed0", "--tracking-uri", "htp://host"], "is not the address of an MLflow server"),
    ],
)
def test_what_cannot_be_promoted_is_one_line(words: list[str], said: str, toys: Path) -> None:
    with pytest.raises(UserError) as caught:
        run(*words, "--results", toys)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (toys / "models").exists()


def test_a_cell_without_a_network_is_not_promoted(toys: Path) -> None:
    tokenizer = next(chain(0).chain())
    fakes.write_cells(toys, "codes", [fakes.cell("codes", 0, tokenizer)])
    with pytest.raises(UserError, match="trains no network that generates images"):
        run("codes", "--results", toys)


def test_weights_that_are_gone_are_named_with_what_brings_them_back(toys: Path) -> None:
    (path,) = (toys / "runs").glob("tokenizer-*/companion.safetensors")
    path.unlink()
    with pytest.raises(UserError, match=r"companion\.safetensors is gone; .* --recompute tokenizer"):
        run("full/seed0", "--results", toys)


def test_a_registry_that_fails_is_one_line_and_the_command_may_be_repeated(
    toys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no space\nleft")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "create_model_version", fail)
        with pytest.raises(UserError, match=r"did not register the model \(RuntimeError: no space\); repeat"):
            run("full/seed0", "--results", toys)
    assert run("full/seed0", "--results", toys) == 0
    assert len(versions(client(toys))) == 1


def test_models_are_registered_again_where_the_store_is_made_anew(
    toys: Path, blank: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for cell in ("full/seed0", "full/seed1"):
        run(cell, "--results", toys)
    moved = toys.rename(toys.with_name(f"{toys.name}-moved"))
    monkeypatch.setattr(local, "make", lambda database: database.write_bytes(blank))
    assert studies(["sync", "--results", str(moved)]) == 0
    assert f"registered again: models:/{NAME}/2" in capsys.readouterr().out
    found = versions(client(moved))
    assert [version.tags["seed"] for version in found] == ["0", "1"]
    assert found[0].run_id == runs(client(moved), "toys/smoke")["full/seed0"].info.run_id
    assert found[0].source.startswith(moved.as_uri())


def test_a_model_whose_study_is_not_synced_yet_is_registered_without_its_run(
    toys: Path, blank: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("full/seed0", "--results", toys)
    fakes.write_cells(toys, "other", [fakes.cell("full", 0, chain(0))])
    moved = toys.rename(toys.with_name(f"{toys.name}-moved"))
    monkeypatch.setattr(local, "make", lambda database: database.write_bytes(blank))
    assert studies(["sync", "other", "--results", str(moved)]) == 0
    (version,) = versions(client(moved))
    assert not version.run_id


# -------------------------------------------------------------------------------------------------------- on a server


def test_a_transfer_that_broke_off_goes_on_with_the_weights_that_did_not_arrive_whole(
    served: Served, toys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    once, sent = MlflowClient.log_artifact, list[str]()

    def lose(self: MlflowClient, run_id: str, path: str, place: str) -> None:
        if path.endswith(".safetensors") and sum(name.endswith(".safetensors") for name in sent) == 2:
            (torn := tmp_path / Path(path).name).write_bytes(Path(path).read_bytes()[:1000])
            once(self, run_id, str(torn), place)
            raise ConnectionResetError("lost")
        sent.append(path)
        once(self, run_id, path, place)

    words = ["full/seed0", "--results", toys, "--tracking-uri", served.uri]
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_artifact", lose)
        with pytest.raises(UserError, match=r"did not register the model \(ConnectionResetError: lost\); repeat"):
            run(*words)
    assert versions(served.client()) == []
    sent.clear()

    def note(self: MlflowClient, run_id: str, path: str, place: str) -> None:
        sent.append(path)
        once(self, run_id, path, place)

    monkeypatch.setattr(MlflowClient, "log_artifact", note)
    assert run(*words) == 0
    assert sum(path.endswith(".safetensors") for path in sent) == 1
    sent.clear()
    assert run(*words) == 0
    assert not sent
    (version,) = versions(served.client())
    assert version.source.startswith("mlflow-artifacts:/")
    away = tmp_path / "away"
    away.mkdir()
    assert load(away, served.uri, f"models:/{NAME}/1")["images"] == sampled(toys, tmp_path / "sampled")


def test_a_server_that_is_down_is_one_line(toys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("studies.tracking.server.PAUSE", 0.0)
    with pytest.raises(UserError, match=r"the MLflow server http://127\.0\.0\.1:\d+ does not answer"):
        run("full/seed0", "--results", toys, "--tracking-uri", f"http://127.0.0.1:{free_port()}")
