"""Waiting for what does not work now and will later: it is said, tried again, and said again only after a while."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from fvar.errors import UserError
from studies.engine.backends.answers import NotNow, trouble

FIRST_PAUSE = 1.0  # seconds until the next try, doubled each time
LONGEST_PAUSE = 60.0
REMIND_SECONDS = 600.0  # what is still so is said again after this
T = TypeVar("T")


class Patience:
    """Tries things again and tells `say` why."""

    def __init__(self, say: Callable[[str], None], pause: float = FIRST_PAUSE) -> None:
        self.say = say
        self.pause = pause
        self._said: dict[str, float] = {}

    def until_it_works(self, act: Callable[[], T]) -> T:
        """Act, however often it takes while the disk or the cluster says "not now".

        Raises `UserError` where the system says that it never will.
        """
        pause = self.pause
        while True:
            try:
                return act()
            except NotNow as error:
                reason = str(error)
            except OSError as error:
                answer = trouble(error)
                if answer.never:
                    raise UserError(answer.reason) from error
                reason = answer.reason
            self.remind(f"not now: {reason}; trying again")
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def remind(self, line: str) -> None:
        """Say something that may hold for hours, but not each time that it is found to."""
        now = time.monotonic()
        if line not in self._said or now - self._said[line] >= REMIND_SECONDS:
            self._said[line] = now
            self.say(line)
