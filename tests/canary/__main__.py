"""Record what the canaries compute: after a revision was raised, and only then.

python -m tests.canary                  all of them, in order
python -m tests.canary var samples      these
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from fvar.run import execute
from tests.canary.stages import VALUES, canaries, keep, measured, prepared


def main(names: list[str]) -> None:
    body = json.loads(VALUES.read_text()) if VALUES.exists() else {}
    known = {canary.name: canary for canary in canaries()}
    for name in names or known:
        with tempfile.TemporaryDirectory() as folder:
            run = prepared(Path(folder), known[name])
            execute(run.path)
            keep(run, name)
            body[name] = {"revision": run.revision, "values": measured(run)}
        VALUES.parent.mkdir(parents=True, exist_ok=True)
        VALUES.write_text(json.dumps({key: body[key] for key in known if key in body}, separators=(",", ":")) + "\n")
        print(f"recorded {name}, revision {run.revision}")


if __name__ == "__main__":
    main(sys.argv[1:])
