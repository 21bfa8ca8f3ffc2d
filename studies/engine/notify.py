"""--notify COMMAND: a command of the user's learns of the first failure and of the end, by a line of JSON on its stdin.

    {"event": "failure", "study": "table1", "preset": "paper", "counts": {"done": 3, "failed": 1, "running": 4},
     "gpu_hours": 12.5, "failure": "var-0123456789abcdef: out of memory"}
    {"event": "end", ...}

The command is given to a shell. It is never waited for while stages run, and its own failure costs a line.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from analysis.standing import last_line
from fvar.usage import gpu_hours
from studies.engine.nodes import Node, counts

PATIENCE = 30.0  # seconds that a command has at the end of a study


class Notifier:
    """Tells a command of a study; an empty command is told nothing."""

    def __init__(self, command: str, study: str, preset: str, say: Callable[[str], None]) -> None:
        self.command = command
        self.study = study
        self.preset = preset
        self.say = say
        self._failed = False  # whether the first failure was told
        self._running: list[subprocess.Popen[str]] = []

    def look(self, nodes: Iterable[Node]) -> None:
        """Tell of the first stage that failed."""
        nodes = list(nodes)
        if self.command and not self._failed and any(node.state == "failed" for node in nodes):
            self._failed = True
            self._tell("failure", nodes)

    def end(self, nodes: Iterable[Node], error: str = "") -> None:
        """Tell that the driver ends, and wait a moment for its commands; `error`: what ended it early."""
        if not self.command:
            return
        self._tell("end", list(nodes), error)
        for process in self._running:
            try:
                if code := process.wait(PATIENCE):
                    self.say(f"--notify: the command ended with {code}")
            except subprocess.TimeoutExpired:
                self.say(f"--notify: the command has not ended within {PATIENCE:g} s")

    def _tell(self, event: Literal["failure", "end"], nodes: Sequence[Node], error: str = "") -> None:
        failures = (f"{node.run.name}: {last_line(node.reason)}" for node in nodes if node.state == "failed")
        body = {
            "event": event,
            "study": self.study,
            "preset": self.preset,
            "counts": dict(counts(nodes)),
            "gpu_hours": round(gpu_hours(node.run.path for node in nodes), 3),
            "failure": next(failures, error),
        }
        try:
            process = subprocess.Popen(["sh", "-c", self.command], stdin=subprocess.PIPE, text=True)
            assert process.stdin is not None
            with process.stdin as pipe:
                pipe.write(json.dumps(body) + "\n")
            self._running.append(process)
        except OSError as trouble:
            self.say(f"--notify: {trouble.strerror}")
