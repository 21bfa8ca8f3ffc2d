"""Completion in the shell, of `python -m studies` and `python -m studies.run`: what may stand where the cursor is.

    eval "$(python -m studies.completion bash)"      in ~/.bashrc
    eval "$(python -m studies.completion zsh)"       in ~/.zshrc

Options come from the parsers themselves, studies from their list, variants from the study, started presets and cells
from the results folder that the line names. argcomplete and shtab complete the names of programs; ours are modules that
python is asked for, so the function below sees to python's own line, and leaves any other to files.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from analysis import cells
from fvar import plugins
from fvar.config import STAGE_CONFIGS
from fvar.errors import UserError, run_main, unknown
from studies import __main__ as looking
from studies import run as running
from studies.engine.backends import CLUSTERS
from studies.engine.profile import FOLDER
from studies.engine.search.samplers import PRUNERS, SAMPLERS
from studies.presets import PRESETS, preset
from studies.study import Context, names, study
from studies.until import CRITERIA
from studies.variants import VARIANTS

MODULES = {"studies": looking.parser, "studies.run": running.parser}
BASH = """\
_fvar() {
  if [ "${COMP_WORDS[1]}" = -m ] && [ "$COMP_CWORD" -gt 2 ]; then
    case "${COMP_WORDS[2]}" in studies|studies.run)
      local IFS=$'\\n'
      COMPREPLY=($("${COMP_WORDS[0]}" -m studies.completion "${COMP_WORDS[@]:2:$((COMP_CWORD - 1))}" 2>/dev/null)) ;;
    esac
  fi
}
complete -o default -F _fvar python python3
"""
SHELLS = {
    "bash": BASH,
    "zsh": f"autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n{BASH}",
}


def candidates(words: Sequence[str]) -> list[str]:
    """What the last word may become, where the first is the module; empty where only the shell can know (files)."""
    module, *typed, start = words
    parser = MODULES[module]()
    if module == "studies":
        chosen = _choices(parser)
        if not typed:
            return _beginning(start, chosen)
        if typed[0] not in chosen:
            return []
        parser, typed = chosen[typed[0]], typed[1:]
    line = Line(parser, typed)
    with contextlib.suppress(UserError):  # a plugin that does not import: its names are not known
        plugins.load(line.values.get("plugin", []))
    if start.startswith("-"):
        return _beginning(start, (name for action in parser._actions for name in action.option_strings))
    with contextlib.suppress(UserError):  # of a study or a results folder that are not there
        if values := VALUES.get(line.expected):
            return _beginning(start, values(line))
    return []


class Line:
    """What was typed so far: the values of options and positional arguments by name, and which is `expected` next."""

    def __init__(self, parser: argparse.ArgumentParser, typed: Sequence[str]) -> None:
        options = {name: action for action in parser._actions for name in action.option_strings}
        places = [action for action in parser._actions if not action.option_strings]
        self.values: dict[str, list[str]] = {}
        waiting: argparse.Action | None = None
        for word in typed:
            if waiting is None and word.startswith("-"):
                action = options.get(word)
                waiting = action if action is not None and action.nargs != 0 else None
                continue
            at = waiting or (places[0] if places else None)
            if at is not None:
                self.values.setdefault(at.dest, []).append(word)
                if waiting is None and at.nargs != "*":
                    places.pop(0)
            waiting = None
        following = waiting or (places[0] if places else None)
        self.expected = following.dest if following is not None else ""

    def last(self, name: str, default: str = "") -> str:
        """The value that an option or a positional argument was given last."""
        return self.values.get(name, [default])[-1]

    @property
    def results(self) -> Path:
        return Path(self.last("results", "results"))


def _choices(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The commands of a parser that has some."""
    found = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(found[0].choices) if found else {}


def _beginning(start: str, words: Iterable[str]) -> list[str]:
    return sorted({word for word in words if word.startswith(start)})


def _presets(line: Line) -> Iterable[str]:
    """Those there are, and those that the study was started at, changed settings and all."""
    started = [place.preset for place in cells.started(line.results) if place.study == line.last("study")]
    return [*PRESETS, *started]


def _cells(line: Line) -> Iterable[str]:
    """Variants and cells of a study that was started."""
    found = cells.read(cells.find(line.results, line.last("study"), line.last("preset"))).cells
    return [name for cell in found for name in (cell.variant, cell.name)]


def _variants(line: Line) -> Iterable[str]:
    """The variants of a study, started or not."""
    asked = study(line.last("study"))
    return [cell.variant for cell in asked.cells(Context(asked, preset(line.last("preset", "smoke")), dry=True))]


VALUES: dict[str, Callable[[Line], Iterable[str]]] = {
    "study": lambda line: names(),
    "preset": _presets,
    "with_preset": _presets,
    "only": _variants,
    "cell": _cells,
    "other": _cells,
    "cells": _cells,
    "cluster": lambda line: CLUSTERS,
    "until": lambda line: CRITERIA,
    "sampler": lambda line: SAMPLERS,
    "pruner": lambda line: PRUNERS,
    "variant": lambda line: VARIANTS,
    "recompute": lambda line: STAGE_CONFIGS,
    "stage": lambda line: STAGE_CONFIGS,
    "profile": lambda line: [path.stem for path in FOLDER.glob("*.toml")],
}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line: a shell, whose script is printed, or the words of a line that is being typed."""
    words = list(sys.argv[1:] if argv is None else argv)
    if len(words) == 1 and words[0] not in MODULES:
        if words[0] not in SHELLS:
            raise unknown("shell", words[0], SHELLS)
        print(SHELLS[words[0]], end="")
    elif len(words) > 1 and words[0] in MODULES:
        print("\n".join(candidates(words)))
    else:
        raise UserError('name a shell: eval "$(python -m studies.completion bash)", or zsh')
    return 0


if __name__ == "__main__":
    run_main(main)
