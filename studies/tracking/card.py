"""A promoted model's card, in Markdown: what it is, its limits, how to use it, its scores, what computed it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from analysis.cells import StudyRecord
from analysis.metrics import METRICS
from fvar.config import TokenizerConfig, VarConfig
from fvar.machine import records
from studies.tracking import describe, entries

if TYPE_CHECKING:
    from analysis.results import CellResult
    from fvar.rundir import RunDir

FULL_SIZE = ("paper", "paper512")  # presets with the paper's data, networks and training
CLASSES_NAMED = 30


def write(name: str, study: StudyRecord, cell: CellResult) -> str:
    """The card of a finished cell's student.

    Parameters
    ----------
    name
        Of the model in the registry.
    study
        The study that has the cell: its title, preset and command.
    """
    var, tokenizer = cell.chain["var"].config_as(VarConfig), tokenizer_of(cell).config_as(TokenizerConfig)
    size = tokenizer.pyramid.image_size
    parts = [
        f"# {name}",
        f"{cell.label}, seed {cell.seed}: generates images of {size} x {size} px by class. The deployment network "
        f"(depth {var.transformer.depth}, width {var.transformer.dim}) and its tokenizer, with scales "
        f"{', '.join(map(str, tokenizer.pyramid.patch_nums))}; a teacher is not part of it.",
        *_limits(study, cell),
        "## Use",
        f'```python\nimport mlflow\n\nmodel = mlflow.pyfunc.load_model("models:/{name}/1")  # or another version\n'
        'images = model.predict({"class": [0], "count": 4})  # (4, H, W, 3) uint8\n```',
        "`guidance`, `top_k`, `top_p` and `seed` may stand beside `class` and `count`; "
        '`load_model(..., model_config={"device": "cpu"})` chooses the device.',
        _classes(cell),
        f"## Scores\n\n{_scores(cell)}",
        f"## Provenance\n\n{_provenance(study, cell)}",
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def facts(study: StudyRecord, cell: CellResult) -> dict[str, str]:
    """Tags of a model: which cell it is of (`experiment_of`, `key_of`), its commit, its FID and KID where measured."""
    commits = entries.cost_tags([entries.facts_of(run) for run in cell.chain.values()]).get("commit", "")
    found = {
        "study": study.place.study,
        "preset": study.place.preset,
        "cell": cell.name,
        "stage": cell.recorded[-1],
        "variant": cell.variant,
        "seed": str(cell.seed),
        "commit": commits,
    }
    for key in ("fid", "kid"):
        value = cell.score(key)
        found[key.upper()] = "" if value is None else f"{value:.5g}"
    return {key: value for key, value in found.items() if value}


def tokenizer_of(cell: CellResult) -> RunDir:
    """The run of the tokenizer that decodes what the student generates."""
    return cell.chain["tokens.tokenizer"]


def _limits(study: StudyRecord, cell: CellResult) -> list[str]:
    """What a reader must know before believing a number."""
    found = []
    preset = str(study.row.get("name") or study.place.preset.partition("-")[0])
    if preset not in FULL_SIZE:
        found.append(
            f"Trained at the small preset `{preset}`: much smaller networks, data and training than the paper's. Its "
            "images show that the method runs; its scores do not compare with published ones."
        )
    if study.settings:
        found.append(f"Settings were changed: `{' '.join(study.settings)}`.")
    notes = {str(score["note"]): key.upper() for key, score in cell.scores.items() if score.get("note")}
    found += [f"{key}: {note}." for note, key in notes.items()]
    return ["## Limits\n\n" + "\n".join(f"- {line}" for line in found)] if found else []


def _classes(cell: CellResult) -> str:
    """The numbers of the classes by name, as the token store has them; empty where it has none."""
    try:
        manifest: Any = records.read_object(cell.chain["tokens"].path / "manifest.json") or {}
    except records.Damaged:
        return ""
    names = manifest.get("class_names") or []
    shown = [f"{number} {name}" for number, name in enumerate(names[:CLASSES_NAMED])]
    more = f", ... ({len(names)} in all)" if len(names) > CLASSES_NAMED else ""
    return f"Classes: {', '.join(shown)}{more}." if shown else ""


def _scores(cell: CellResult) -> str:
    rows = ["| metric | value |", "|---|---|"]
    for metric in METRICS:
        value, reason = metric.of(cell)
        count = cell.scores.get(metric.key, {}).get("count")
        shown = f"not measured: {reason}" if value is None else f"{value * metric.scale:.{metric.digits}f}"
        rows.append(f"| {metric.name.format(n=count) if count else metric.short} | {shown} |")
    return "\n".join(rows)


def _provenance(study: StudyRecord, cell: CellResult) -> str:
    facts = [entries.facts_of(run) for run in cell.chain.values()]
    tags = entries.cost_tags(facts)
    commit = tags.get("commit", "")
    data = entries.datasets(cell.chain.values())
    lines = [
        f"cell `{cell.name}` of `{study.place.study}` at preset `{study.place.preset}`",
        f"command: `{describe.command(study)}`",
        f"commit: {commit or 'not known'}{', + of a source that differed from it' if '+' in commit else ''}",
        f"took {tags.get('hours', '0')} hours, {tags.get('gpu_hours', '0')} GPU hours",
        *(f"data: {item.name}, {item.split} (digest {item.digest})" for item in data),
        *(f"{role}: `{run.name}`, revision {run.revision}" for role, run in cell.chain.items()),
    ]
    return "\n".join(f"- {line}" for line in lines)
