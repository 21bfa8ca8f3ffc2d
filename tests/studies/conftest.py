"""Shared by the tests of studies."""

from __future__ import annotations

import pytest

from studies.engine.search.store import Store
from studies.tracking import local


@pytest.fixture(scope="session")
def blank(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An initialised store, made once: its migrations take seconds."""
    database = tmp_path_factory.mktemp("mlflow") / local.DATABASE
    local.make(database)
    return database.read_bytes()


@pytest.fixture(scope="session")
def blank_optuna(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An initialised store of Optuna's, likewise."""
    folder = tmp_path_factory.mktemp("optuna")
    store = Store(folder)
    store.require_reachable()
    store.storage.engine.dispose()
    return (folder / "optuna.db").read_bytes()
