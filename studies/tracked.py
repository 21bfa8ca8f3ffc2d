"""The commands of `python -m studies` that are about MLflow: ui, sync and promote."""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Sequence

from analysis import cells
from analysis.cells import Place
from fvar.errors import UserError


def ui(arguments: argparse.Namespace) -> int:
    from studies.tracking.local import moved
    from studies.tracking.serve import ui as serve
    from studies.tracking.store import address_of_server, shown

    if uri := address_of_server(arguments.tracking_uri):
        print(f"the runs are on the MLflow server {shown(uri)}; nothing is served here")
        return 0
    if moved(arguments.results):
        print("these results were copied or moved: making their MLflow store again", flush=True)
        _sync_all(cells.started(arguments.results), "")
    serve(arguments.results, arguments.port)
    return 0


def sync(arguments: argparse.Namespace) -> int:
    from studies.tracking.store import address_of_server

    uri = address_of_server(arguments.tracking_uri)
    if arguments.every <= 0:
        raise UserError(f"--every must be more than 0 seconds, got {arguments.every:g}")

    def places() -> list[Place]:
        if arguments.study:
            return [cells.find(arguments.results, arguments.study, arguments.preset)]
        return cells.started(arguments.results)

    if not arguments.watch:
        _sync_all(places(), uri)
        return 0
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            try:
                _sync_all(places(), uri, quiet=True)
            except UserError as error:  # of a server that is down, say: the next round catches up
                print(f"not now: {error}", flush=True)
            time.sleep(arguments.every)
    return 0


def _sync_all(places: Sequence[Place], uri: str, quiet: bool = False) -> None:
    from analysis.results import StudyResults
    from studies.engine import outputs
    from studies.tracking.local import absent
    from studies.tracking.sync import sync as bring_up_to_date

    anew = [] if uri else [results for results in {place.results for place in places} if absent(results)]
    for place in places:
        changed = bring_up_to_date(place.results, StudyResults.at(place), outputs.written(place.folder), uri)
        if changed or not quiet:
            print(f"{place}: {'brought up to date' if changed else 'is up to date'}", flush=True)
    for results in anew:
        from studies.tracking.registry import restore

        for version in restore(results):
            if version.new:
                print(f"registered again: {version.address}", flush=True)


def promote(arguments: argparse.Namespace) -> int:
    from studies.tracking import model, registry
    from studies.tracking import promote as promoting
    from studies.tracking.store import address_of_server, shown

    uri = address_of_server(arguments.tracking_uri)
    name = arguments.name and promoting.require_name(arguments.name)
    place, cell = finished = promoting.find(arguments.results, arguments.cell)
    folder = model.make(arguments.results, name or finished.name, cells.read(place), cell)
    _sync_all([place], uri, quiet=True)
    version = registry.register(arguments.results, folder, uri)
    print(f"{version.address} {'is registered' if version.new else 'holds these weights already'}, from {folder}")
    where = shown(uri) if uri else registry.address_in(arguments.results)
    print(f"""in Python:
  mlflow.set_tracking_uri({where!r})
  images = mlflow.pyfunc.load_model({version.address!r}).predict({{"class": [0], "count": 4}})""")
    return 0
