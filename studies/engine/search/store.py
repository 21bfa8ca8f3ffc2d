"""Optuna's data base: `results/optuna.db`, or the server that `--storage` names. The driver alone writes it.

What fails at the start ends the command in a line. What fails later is waited for, as a cluster is: jobs go on without
the store, and their scores are told once it answers again.
"""

from __future__ import annotations

import importlib.util
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from fvar.errors import UserError, one_line
from fvar.machine import atomic
from studies.database import PATIENCE, address, complaint
from studies.engine.backends.answers import NotNow

if TYPE_CHECKING:
    import optuna

DATABASE = "optuna.db"
ARTIFACTS = "optuna-artifacts"  # folder of figures that optuna-dashboard shows
CONNECT_SECONDS = 10  # until a server that does not answer counts as unreachable
DRIVERS = ("psycopg", "psycopg2", "pg8000")  # of PostgreSQL, as Python packages; the first found is used
DAMAGED = ("not a database", "malformed")  # what no waiting heals


class Store:
    """A data base by its address; empty: the file beside the results. Connects when it is first used."""

    def __init__(self, results: Path, url: str = "") -> None:
        self.file = None if url else results.resolve() / DATABASE
        self.url = url or address(results.resolve() / DATABASE)

    @property
    def shown(self) -> str:
        """Its name for people, without a password."""
        if self.file:
            return str(self.file)
        from sqlalchemy.engine import make_url
        from sqlalchemy.exc import ArgumentError

        try:
            return make_url(self.url).render_as_string()
        except (ArgumentError, ValueError):
            return "--storage"

    def require_reachable(self) -> None:
        """Raise `UserError` where it does not answer now: nothing should be submitted for a search without a store."""
        try:
            with self.failing():
                self.storage.get_all_studies()
        except NotNow as error:
            raise UserError(f"{error}; repeat the command once it answers") from None

    @cached_property
    def storage(self) -> optuna.storages.RDBStorage:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        if self.file is None:
            return optuna.storages.RDBStorage(*_connection(self.url))
        if reason := complaint(self.file):
            raise self._failure(reason, self._is_damage(reason))
        if not self.file.exists():
            with atomic.replacing(self.file) as temporary:
                optuna.storages.RDBStorage(address(temporary))
        return optuna.storages.RDBStorage(self.url, {"connect_args": {"timeout": PATIENCE}})

    @contextmanager
    def failing(self) -> Iterator[None]:
        """Whatever the store fails at, in one line: `NotNow` where it may work later, `UserError` where it will not."""
        from sqlalchemy import exc

        try:
            yield
        except (UserError, NotNow):
            raise
        except Exception as error:
            cause = _root(error)
            passing = isinstance(cause, exc.OperationalError | exc.InterfaceError | exc.TimeoutError | OSError)
            reason = one_line(getattr(cause, "orig", None) or cause)
            raise self._failure(reason, self._is_damage(reason) or not passing) from error

    def _is_damage(self, reason: str) -> bool:
        """Whether this is about the file itself, or the folder it should be made in."""
        wrong = self.file is not None and not self.file.exists()
        return wrong or any(word in reason for word in DAMAGED)

    def _failure(self, reason: str, never: bool) -> Exception:
        if self.file is not None and not self.file.exists():
            return UserError(f"{self.shown} cannot be made ({reason}); the search needs it")
        if not never:
            held = "is held by another program" if "locked" in reason else "does not answer"
            return NotNow(f"the search's store {self.shown} {held} ({reason})")
        remedy = "move it away to start over" if self.file else "is its address right?"
        return UserError(f"the search's store {self.shown} cannot be used ({reason}); {remedy}")


def _root(error: BaseException) -> BaseException:
    """What an error of Optuna's was caused by: SQLAlchemy's, with the data base's own within."""
    while error.__cause__ is not None and not hasattr(error, "orig"):
        error = error.__cause__
    return error


def _connection(url: str) -> tuple[str, dict[str, object]]:
    """An address as SQLAlchemy takes it, with a driver that is installed. Raises `UserError`."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        made = make_url(url)
    except (ArgumentError, ValueError):
        raise UserError("--storage is not the address of a data base, such as postgresql://user@host/name") from None
    backend = made.get_backend_name()
    if backend not in ("sqlite", "postgresql", "mysql"):
        raise UserError(f"--storage {backend}: searches are kept in sqlite, postgresql or mysql")
    if backend == "sqlite":
        return url, {"connect_args": {"timeout": PATIENCE}}
    if made.drivername == "postgresql":
        found = next((name for name in DRIVERS if importlib.util.find_spec(name)), None)
        if found is None:
            raise UserError("--storage postgresql needs a driver: pip install 'psycopg[binary]' (the extra 'postgres')")
        made = made.set(drivername=f"postgresql+{found}")
    timeout = "timeout" if made.drivername.endswith("pg8000") else "connect_timeout"
    options = {"pool_pre_ping": True, "connect_args": {timeout: CONNECT_SECONDS}}
    return made.render_as_string(hide_password=False), options


def dashboard_command(results: Path, url: str = "") -> str:
    """What to type to look at the searches in a browser. A password is left for the user to fill in."""
    store = Store(results, url)
    where = store.url if store.file else store.shown
    artifacts = shlex.quote(str(results.resolve() / ARTIFACTS))
    return f"optuna-dashboard --host 127.0.0.1 --artifact-dir {artifacts} {shlex.quote(where)}"
