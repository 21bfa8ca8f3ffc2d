"""A search kept on a server: PostgreSQL on 127.0.0.1."""

from __future__ import annotations

from pathlib import Path

import pytest

from fvar.errors import UserError
from studies.engine.backends.answers import NotNow
from studies.engine.search.judge import Judge
from studies.engine.search.space import Uniform
from studies.engine.search.store import Store
from studies.run import main
from tests.studies.test_run import toys
from tests.studies.tracking.serving import free_port
from tests.studies.tracking.test_server import postgres

__all__ = ["postgres", "toys"]
pytestmark = pytest.mark.postgres


def open_search(results: Path, url: str) -> Judge:
    return Judge(Store(results, url), "s", {"x": Uniform(0.0, 1.0)}, [{"x": 0.5}], "sig", owner=f"here:{results}")


def test_a_search_goes_on_over_a_connection_that_was_cut(
    postgres: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sqlalchemy import text

    url, driver = postgres
    monkeypatch.syspath_prepend(driver)
    search = open_search(tmp_path, url.replace("+psycopg2", ""))
    first = search.ask()
    assert first is not None
    with Store(tmp_path, url).storage.engine.connect() as other:
        other.execute(text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"))
    search.report(0, {1: 2.0})
    search.tell(0, [1.0])
    again = open_search(tmp_path, url)
    assert [(trial.state, trial.values, trial.curve) for trial in again.trials()] == [("done", (1.0,), {1: 2.0})]
    with pytest.raises(UserError, match="continue it there"):
        open_search(tmp_path / "other", url).trials()


def test_a_server_that_is_away_is_waited_for_but_not_at_the_start(
    postgres: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(postgres[1])
    url = f"postgresql://u:secret@127.0.0.1:{free_port()}/none"
    with pytest.raises(NotNow, match="does not answer"):
        open_search(tmp_path, url).trials()
    with pytest.raises(UserError, match="does not answer") as caught:
        Store(tmp_path, url).require_reachable()
    assert "secret" not in str(caught.value)


def test_a_study_keeps_its_trials_there(
    postgres: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toys: None
) -> None:
    url, driver = postgres
    monkeypatch.syspath_prepend(driver)
    command = ["search_training", "--storage", url.replace("+psycopg2", ""), "--results", str(tmp_path)]
    assert main([*command, "--trials", "2"]) == 0
    assert main([*command, "--trials", "3"]) == 0
    assert not (tmp_path / "optuna.db").exists()
    import optuna

    (summary,) = optuna.get_all_study_summaries(Store(tmp_path, url).storage)
    assert summary.n_trials == 3
