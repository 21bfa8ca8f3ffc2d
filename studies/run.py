"""Run a study, or continue it: repeating the command is how everything goes on.

    python -m studies.run ablation_table2 --preset smoke
    python -m studies.run ablation_table2 --preset paper --data folder:/path/to/imagenet --cluster slurm --seeds 3
    python -m studies.run sweep_lambda --only feat1-logit0.5 --cluster local --jobs 2 --set var.train.steps=50
    python -m studies.run ablation_table2 --until separated --max-seeds 20 --margin 2 --max-gpu-hours 500
    python -m studies.run table1 --dry-run
    python -m studies.run table1 --recompute tokenizer
    python -m studies.run table1 --cluster slurm --detach --max-gpu-hours 500
    python -m studies.run digits --plugin docs.examples.classifier_study --seeds 3
    python -m studies.run search_training --trials 32 --parallel 4 --pruner median --cluster slurm
    python -m studies.run grid --variant full --grid var.distill.lambda_feat=0.5,1,2 --grid var.train.lr=1e-4,3e-4

Exit status: 0 all cells done, 1 some failed, 2 the command is wrong or nothing could be started, 75 stopped by a
signal, 130 by Ctrl-C.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fvar import plugins
from fvar.errors import UserError, run_main, unknown
from studies import until
from studies.engine import preflight, recompute
from studies.engine.backends import CLUSTERS, factory
from studies.engine.budget import Budget
from studies.engine.driver import Driver
from studies.engine.plan import Plan
from studies.engine.profile import DEFAULT, Profile
from studies.engine.search.samplers import PRUNERS, SAMPLERS
from studies.engine.settings import Settings
from studies.engine.watch import Watch
from studies.presets import PRESETS, preset
from studies.study import OF_GRIDS, OF_SEARCHES, STUDIES, Cell, Context, Options, study
from studies.tracking.store import address_of_server

SLURM_WIDTH = 8  # trials an adaptive study leaves open on a cluster


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    plugins.load(arguments.plugin)
    if arguments.cluster not in CLUSTERS:
        raise unknown("cluster", arguments.cluster, CLUSTERS)
    for name, least in (("seeds", 1), ("jobs", 1), ("trials", 0), ("parallel", 0)):
        if getattr(arguments, name) < least:
            raise UserError(f"--{name} must be at least {least}, got {getattr(arguments, name)}")
    if arguments.detach and arguments.cluster != "slurm":
        raise UserError("--detach leaves the study to SLURM; add --cluster slurm")
    if arguments.max_gpu_hours < 0:
        raise UserError(f"--max-gpu-hours must not be negative, got {arguments.max_gpu_hours:g}")
    settings = Settings.parse(arguments.set)
    chosen = settings.on_data(preset(arguments.preset, arguments.data, arguments.verify_data), arguments.verify_data)
    same_data = chosen.data == PRESETS[arguments.preset].data
    chosen = settings.on_preset(chosen)
    asked = study(arguments.study)
    label = settings.label(chosen.name if same_data else f"{chosen.name}-{chosen.data.title}")
    if arguments.tokenizer_seeds and not chosen.tokenizers_by_seed:
        chosen, label = replace(chosen, tokenizers_by_seed=True), f"{label}-tokenizer-seeds"
        asked = replace(asked, title=f"{asked.title}, tokenizers repeated")
    ctx = Context(
        study=asked,
        preset=chosen,
        seeds=arguments.seeds,
        results=arguments.results,
        label=label,
        width=arguments.parallel or {"inline": 1, "local": arguments.jobs, "slurm": SLURM_WIDTH}[arguments.cluster],
        dry=arguments.dry_run,
        options=_options(arguments),
        changed=settings.apply,
    )
    if asked.prepare:
        ctx = asked.prepare(ctx)
    else:
        ctx.options.refuse(asked.name, (*OF_SEARCHES, *OF_GRIDS))
    plain = ctx.study
    if arguments.until:
        plain = until.among(plain, arguments.only)
        ctx = replace(ctx, study=plain)
        rule = until.rule_for(ctx, arguments.until, arguments.max_seeds, arguments.margin)
        ctx = replace(ctx, study=until.adding_seeds(plain, rule, arguments.max_gpu_hours))
    elif arguments.margin is not None:
        raise UserError("--margin belongs to a study that adds seeds; add --until separated")
    elif not plain.outputs:
        until.require_no_rule(ctx)
    watch = Watch(arguments.hang, 60 * arguments.hang_minutes)
    budget = Budget(arguments.max_gpu_hours, arguments.hard)
    uri = address_of_server(arguments.tracking_uri) if arguments.tracking_uri else ""  # the variable is the sync's
    driver = Driver(ctx, settings, arguments.only, budget, watch, arguments.notify, uri)
    make_backend = factory(arguments.results, Profile.read(arguments.profile, settings.slurm()), arguments.jobs)
    if arguments.dry_run:
        chosen_cells = driver.selected(driver.cells())
        if settings.science:  # presets are built by the tests
            preflight.require_buildable(cell.stage for cell in chosen_cells)
        aside = _recompute(ctx, arguments.recompute, chosen_cells, dry=True)
        print(Plan.of(ctx, chosen_cells).text())
        if ctx.study.until:
            print(until.expectation(ctx, plain, ctx.study.until))
        for name in aside:
            print(f"would be set aside and computed anew: {name}")
        return 0
    preflight.require_data(chosen)
    preflight.require_writable(ctx.results)
    if not ctx.study.adaptive:
        to_run = Plan.of(ctx, driver.selected(driver.cells())).to_run()
        preflight.require_images(to_run)
        preflight.require_space(ctx.results, to_run)
        preflight.require_buildable(stage for stage in to_run if not (ctx.results / "runs" / stage.name).exists())
    if arguments.recompute:  # otherwise a search's cells are for whoever holds its lock to ask for
        for name in _recompute(ctx, arguments.recompute, driver.selected(driver.cells())):
            print(f"set aside, to be computed anew: {name}")
    from studies.engine.live import View

    view = View(f"{ctx.study.title} · {ctx.folder.name}")
    if arguments.detach:
        return driver.detach(make_backend, view)
    status = driver.run(arguments.cluster, make_backend, view)
    if status == 0:
        recompute.end(ctx.folder)
    return status


def _options(arguments: argparse.Namespace) -> Options:
    """What searches and the grid read of a command line."""
    return Options(
        trials=arguments.trials,
        sampler=arguments.sampler,
        pruner=arguments.pruner,
        objectives=tuple(filter(None, arguments.objectives.split(","))),
        storage=arguments.storage,
        variant=arguments.variant,
        grid=tuple(arguments.grid),
    )


def _recompute(ctx: Context, kinds: Sequence[str], cells: Sequence[Cell], dry: bool = False) -> list[str]:
    """Set aside what `--recompute` names; the names of the run directories."""
    if not kinds:
        return []
    return recompute.begin(ctx.folder, ctx.results / "runs", kinds, (cell.stage for cell in cells), dry)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m studies.run",
        description="Run a study, or continue it.",
        epilog='Completion in the shell: eval "$(python -m studies.completion bash)", or zsh.',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = made.add_argument
    add("study", help=", ".join(STUDIES))
    add("--preset", default="smoke", metavar="NAME", help=", ".join(PRESETS))
    add("--cluster", default="inline", metavar="NAME", help=", ".join(CLUSTERS))
    add("--seeds", type=int, default=1, metavar="N", help="repetitions of every variant")
    add("--tokenizer-seeds", action="store_true", help="train the tokenizers, too, with every seed")
    add("--until", default="", metavar="CRITERION", help="add seeds until comparisons are: separated")
    add("--max-seeds", type=int, default=20, metavar="N", help="of any variant, with --until")
    add("--margin", type=float, metavar="M", help="with --until: a difference below M, as in the table, counts as none")
    add("--jobs", type=int, default=2, metavar="N", help="stages at once on this machine, with --cluster local")
    add("--trials", type=int, default=0, metavar="N", help="points a search may hand out; 0: its own choice")
    add("--parallel", type=int, default=0, metavar="N", help="trials of a search at once; 0: what the cluster suggests")
    add("--sampler", default="", metavar="NAME", help=f"of a search: {', '.join(SAMPLERS)}")
    add("--pruner", default="", metavar="NAME", help=f"of a search, ends poor trials early: {', '.join(PRUNERS)}")
    add("--objectives", default="", metavar="NAMES", help="of a search: score, or score,hours")
    add("--storage", default="", metavar="URL", help="of a search's trials; default: optuna.db in the results folder")
    add("--variant", default="", metavar="NAME", help="of Table 2, in a grid")
    add("--grid", action="append", default=[], metavar="KIND.PATH=V,V", help="values of a setting; repeatable")
    add("--only", action="append", default=[], metavar="VARIANT", help="a variant or cell, * allowed; repeatable")
    add("--set", action="append", default=[], metavar="KIND.PATH=VALUE", help="change a setting; repeatable")
    add("--recompute", action="append", default=[], metavar="KIND", help="compute a stage kind anew; repeatable")
    add(
        "--plugin",
        action="append",
        default=[],
        metavar="MODULE",
        help="stage kinds and a study of one's own; repeatable",
    )
    add("--data", default="", metavar="DATASET[:ROOT]", help="other images than the preset's")
    add("--verify-data", action="store_true", help="read every byte of the images again, whatever their times say")
    add("--profile", type=Path, default=DEFAULT, metavar="FILE", help="what to ask SLURM for; a100 comes with fvar")
    add("--detach", action="store_true", help="queue everything in SLURM and return")
    add("--max-gpu-hours", type=float, default=0.0, metavar="N", help="submit nothing past this budget; 0: no limit")
    add("--hard", action="store_true", help="stop what runs after a checkpoint when the budget is spent")
    add("--hang", type=float, default=100.0, metavar="N", help="alarm after N usual steps' time without one; 0: never")
    add("--hang-minutes", type=float, default=30.0, metavar="N", help="but not before N minutes without a step")
    add("--notify", default="", metavar="COMMAND", help="gets a line of JSON at the first failure and at the end")
    add(
        "--tracking-uri", default="", metavar="URL", help="an MLflow server; default: $MLFLOW_TRACKING_URI, or results/"
    )
    add("--results", type=Path, default=Path("results"), metavar="DIR", help="where everything is kept")
    add("--dry-run", action="store_true", help="print the plan only")
    return made


if __name__ == "__main__":
    run_main(main)
