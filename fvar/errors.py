"""Errors a user can cause, and how the command lines report them: one line, exit status 2."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path


class UserError(Exception):
    """The user asked for something that cannot be done.

    The message says what is wrong, where, and what to type next. Command lines print it without a traceback.
    """

    exit_code = 2


class DataChanged(UserError):
    """Files of a data set changed while results were being computed from them."""


class StageFailed(UserError):
    """A stage ended in an error; the message names its run directory and log."""

    exit_code = 1


class RankLost(StageFailed):
    """Another process of the same stage has ended; nothing is known against the stage, and starting it again may do."""


class DiskTrouble(StageFailed):
    """A disk or file system failed a stage: nothing is known against it, and it continues once that has passed."""


class Interrupted(BaseException):
    """A stage was asked to stop (signal, time limit) and wrote a checkpoint; the same command continues it.

    No `Exception`, as KeyboardInterrupt is none: it may be raised within any import, and libraries that try this or
    that (`except Exception: pass`) must not swallow it.
    """


def unknown(what: str, given: object, valid: Iterable[str]) -> UserError:
    """An error for a name that is not one of `valid`: lists them all and guesses what was meant."""
    names = sorted(valid)
    close = get_close_matches(str(given), names, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return UserError(f"unknown {what} {given!r}{hint}; valid: {', '.join(names)}")


def not_loaded(what: str, module: str) -> UserError:
    """An error for something that the plugin `module` made, which nobody named."""
    return UserError(f"{what} is of the plugin {module}; add --plugin {module}, or set FVAR_PLUGINS to it")


def one_line(error: BaseException) -> str:
    """What went wrong, in one line: a `UserError`'s message, or the kind and the first line of anything else."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return first if isinstance(error, UserError) else f"{type(error).__name__}: {first}".rstrip(": ")


@contextlib.contextmanager
def spared(what: str, say: Callable[[str], None] = print) -> Iterator[None]:
    """Whatever fails within, a picture of finished work say, costs `what` and a line, and not that work."""
    try:
        yield
    except Exception as error:
        say(f"warning: {what}: {one_line(error)}")


def _make_do() -> None:
    """Print any file name, also one that is not UTF-8, and give libraries a home directory where the user has none."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        Path.home()
    except RuntimeError:  # no $HOME, and no entry in the user database: common in containers
        home = Path(tempfile.gettempdir()) / f"fvar-{os.getuid()}"
        home.mkdir(mode=0o700, exist_ok=True)
        os.environ["HOME"] = str(home if home.stat().st_uid == os.getuid() else tempfile.mkdtemp(prefix="fvar-"))


def run_main(main: Callable[[], int | None]) -> None:
    """Run a command line's `main`, turning expected errors into one line on stderr and an exit status.

    2 for a user's mistake, 1 for a failed stage, 130 for Ctrl-C, 75 (EX_TEMPFAIL) for "stopped, repeat to continue".
    """
    _make_do()
    try:
        code = main() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    except Interrupted as error:
        print(f"stopped: {error}", file=sys.stderr)
        code = 75
    except KeyboardInterrupt:
        print("interrupted: repeat the same command to continue", file=sys.stderr)
        code = 130
    except BrokenPipeError:
        code = 0
    sys.exit(code)
