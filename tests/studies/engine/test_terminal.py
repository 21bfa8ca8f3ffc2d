"""The live view on a real terminal (a pty): what is left on the screen after Ctrl-C."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
WIDTH, HEIGHT = 60, 30
TITLE = "Table 2: ablation"
DRIVER = f"""
import signal, time
from studies.engine import live

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it

rows = [live.Row("a_cell_of_a_name_as_long_as_names_get/seed" + str(i), "running", "tokenizer", "120/240", "0.1234",
                 "40", "1:02:03", note="a note that is longer than any terminal is wide " * 2) for i in range(3)]
view = live.View({TITLE!r})
view._rows = lambda: rows
with view.showing():
    time.sleep(60)
"""


def screen(output: str) -> list[str]:
    """The lines that a terminal of 60 columns shows; a line that is full is left when the next character comes."""
    lines: list[list[str]] = [[]]
    row, column = 0, 0
    for control, number, text in re.findall(r"\x1b\[\??(\d*)([A-Za-z])|([^\x1b])", output):
        code = number if control or number else ""
        if code == "A":
            row = max(0, row - int(control or 1))
        elif code == "K":
            lines[row] = []
        elif text == "\r":
            column = 0
        elif text == "\n":
            row += 1
        elif text:
            if column == WIDTH:
                row, column = row + 1, 0
            while len(lines) <= row:
                lines.append([])
            lines[row] += [" "] * (column + 1 - len(lines[row]))
            lines[row][column] = text
            column += 1
        while len(lines) <= row:
            lines.append([])
    return ["".join(line).rstrip() for line in lines]


def test_the_title_stands_once_after_ctrl_c() -> None:
    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", HEIGHT, WIDTH, 0, 0))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": str(WIDTH)}
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER],
        stdin=end,
        stdout=end,
        stderr=subprocess.DEVNULL,
        env=environment,
        cwd=ROOT,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # Ctrl-C comes from the terminal itself, echo and all
    )
    os.close(end)
    shown, pressed = b"", False
    try:
        while part := os.read(terminal, 65536):
            shown += part
            if not pressed and shown.count(b"running") >= 2 * 3:  # it was drawn twice, and is at rest
                os.write(terminal, b"\x03")
                pressed = True
    except OSError:  # how Linux says that the other side is closed
        pass
    process.wait()
    lines = screen(shown.decode())
    assert b"^C" in shown
    assert [TITLE in line for line in lines].count(True) == 1, "\n".join(lines)
    assert sum("running" in line for line in lines) == 3, "\n".join(lines)
