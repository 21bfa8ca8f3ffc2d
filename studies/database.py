"""SQLite databases beside the results: how a path is written as an address, and what is wrong with a file."""

from __future__ import annotations

import sqlite3
from pathlib import Path

PATIENCE = 5.0  # seconds to wait for another process that writes


def address(database: Path) -> str:
    """The URL of a database file, whatever characters its path has.

    The driver is named since MLflow makes the parent folder of any `sqlite:///` path as it is written in the URL: for
    a path with a question mark it would leave an empty folder of the quoted name.
    """
    from sqlalchemy.engine import URL

    return URL.create("sqlite+pysqlite", database=str(database)).render_as_string(hide_password=False)


def complaint(database: Path) -> str:
    """Why a database file cannot be written now, in a few words; empty where it can.

    Asked before MLflow and Optuna open it: MLflow tries for minutes to open one that is locked or damaged.
    """
    if not database.exists():
        return ""
    try:
        connection = sqlite3.connect(database, timeout=PATIENCE, isolation_level=None)
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
        finally:
            connection.close()
    except sqlite3.Error as error:
        return str(error)
    return ""
