"""Gather a run's facts into its summary, and write what people read: report and model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from attar import catalog
from attar.core.prompt import TextPrompt
from attar.meters.machine import hardware
from attar.pipeline.graph import Stage
from attar.pipeline.keys import machine
from attar.pipeline.names import of_kind, parted
from attar.pipeline.recipe import Recipe
from attar.stages.device import threads
from attar.stages.memory import peak_rss
from attar.store.artifacts import Artifact
from attar.store.files import read_json
from attar.store.journal import Journal

CURVES = ("teacher", "assistant", "control", "student", "compress")
"""Kinds of stages that train a model."""
CHECKED = ("record", "student", "export")
"""Stages whose checks a summary shows."""
SCHEMA = 1


def summarize(
    recipe: Recipe, stages: Mapping[str, Stage], done: Mapping[str, Artifact], folder: Path
) -> dict[str, Any]:
    """Return the run's summary, schema 1 (see the reference in the docs).

    Args:
        recipe: the recipe.
        stages: its stages.
        done: their artifacts.
        folder: the run's folder, with its journal.
    """
    measured = read_json(done["measure"].folder / "measured.json")
    data = done["data"].card
    steps = of_kind("compress", done)
    seconds = {name: artifact.seconds for name, artifact in done.items()}
    return {
        "schema": SCHEMA,
        "name": recipe.name,
        "attar": version("attar"),
        "task": recipe.task,
        "metric": {"name": catalog.entry("task", recipe.task).metric, "higher_is_better": True},
        "labels": data["labels"],
        "examples": data["counts"],
        "data": data["facts"],
        "gold": list(recipe.data.gold),
        "control_learns_from": _untaught(recipe),
        "seed": recipe.seed,
        "models": measured["models"],
        "prompt": _prompt(recipe, done, measured),
        "text": _text(recipe, done),
        "record": _record(done),
        "curves": {name: artifact.card["history"] for name, artifact in done.items() if _learned(name, artifact)},
        "compress": [_plan(plan) for name in (*steps, "export") for plan in done[name].card["plans"]],
        "damage": [row for name in steps for row in done[name].card["damage"]],
        "preflight": [check for name in CHECKED if name in done for check in done[name].card["preflight"]],
        "verdict": measured["verdict"],
        "beside_dense": measured.get("beside_dense", []),
        "plan": done["plan"].card if "plan" in done else None,
        "checks": measured["checks"],
        "samples": measured.get("samples", []),
        "pipeline": _pipeline(stages, done, folder),
        "conditions": _conditions(),
        "seconds": {**seconds, "total": round(sum(seconds.values()), 3)},
        "peak_rss_bytes": _peak(folder),
    }


def _learned(name: str, artifact: Artifact) -> bool:
    """Tell whether a stage trained a model: a compression step without recovery did not."""
    return parted(name)[0] in CURVES and bool(artifact.card["history"] or parted(name)[0] != "compress")


def _untaught(recipe: Recipe) -> str:
    """Return what a control learns from."""
    if "train" in recipe.data.gold:
        return "gold labels"
    return "the teacher's texts" if recipe.writes else "the teacher's hard labels"


def _text(recipe: Recipe, done: Mapping[str, Artifact]) -> dict[str, Any] | None:
    """Return which texts the student of a task that writes learns from."""
    if not recipe.writes:
        return None
    own, card = recipe.distill.on_policy, done["write"].card if "write" in done else {}
    return {
        "use": recipe.distill.text.use,
        **card.get("facts", {}).get("train", {}),
        "on_policy": None if own is None else own.model_dump(mode="json"),
    }


def _record(done: Mapping[str, Artifact]) -> dict[str, Any] | None:
    if "record" not in done:  # the teacher answered live
        return None
    kept = ("rows", "calls", "examples", "codec", "fidelity", "precision", "spent")
    return {key: value for key, value in done["record"].card.items() if key in kept}


def _plan(plan: Mapping[str, Any]) -> dict[str, Any]:
    return {key: plan[key] for key in ("step", "before", "after", "notes")}


def _prompt(recipe: Recipe, done: Mapping[str, Artifact], measured: Mapping[str, Any]) -> dict[str, Any] | None:
    raced = done["export"].card.get("prompt")
    if "prompt" not in done:
        return None if raced is None else {"student": raced}
    facts = done["prompt"].card["facts"]
    own, used = (TextPrompt.from_json(done["prompt"].card[key]) for key in ("own", "prompt"))
    teacher = next(model for model in measured["models"] if model["name"] == "teacher")
    before = measured["own_prompt"] or (teacher["quality"] if used == own else None)
    return {
        "teacher": {
            "before": _shown(own, facts["tried"], before),
            "after": _shown(used, facts["tried"], teacher["quality"]),
            "diff": own.diff(used),
            **{key: facts[key] for key in ("criterion", "why", "kept", "gain", "tried", "spent", "left_out")},
        },
        "student": raced or _student_prompt(recipe),
    }


def _shown(prompt: TextPrompt, tried: Sequence[Mapping[str, Any]], quality: Any) -> dict[str, Any]:
    """Return a prompt as a summary shows it: its parts, the text that is read, what it costs and how good it is."""
    row = next((row for row in tried if row["name"] == prompt.name), {})
    shown = {**prompt.to_json(), "demonstrations": len(prompt.demonstrations), "text": str(prompt)}
    return {**shown, **{key: row[key] for key in ("tokens", "how", "parents") if key in row}, "quality": quality}


def _student_prompt(recipe: Recipe) -> dict[str, Any]:
    """Say which prompt a student reads where none was raced."""
    if recipe.writes:
        return {"kept": True, "why": "a student that writes reads the recipe's own"}
    if recipe.student.answers_by == "label_words":
        return {
            "kept": False,
            "why": "it answers by label words under its own template, and no other was raced",
        }
    return {"kept": False, "why": "a classifier with a head reads no prompt"}


def _pipeline(stages: Mapping[str, Stage], done: Mapping[str, Artifact], folder: Path) -> list[dict[str, Any]]:
    return [
        {
            "stage": name,
            "title": stage.title,
            "key": stage.key,
            "parents": list(stage.parents),
            "seconds": done[name].seconds,
            "note": _note(name, done[name].card),
        }
        for name, stage in stages.items()
    ]


def _note(name: str, card: Mapping[str, Any]) -> str:
    if name == "data":
        return ", ".join(f"{count} {split}" for split, count in card["counts"].items())
    if name == "write":
        return f"{card['facts']['train']['texts']} texts, {card['facts']['train']['rejected']} rejected"
    if name == "prompt":
        return f"{len(card['facts']['tried'])} prompts tried"
    if parted(name)[0] in ("record", "record_assistant"):
        return f"{card['rows']} rows, {card['calls']} calls"
    if "steps" in card:
        return f"{card['steps']} steps{_kept(card)}"
    return ", ".join(plan["step"] for plan in card.get("plans", ()))


def _kept(card: Mapping[str, Any]) -> str:
    """Return which layers were kept by damage, in words."""
    found = card.get("layers")
    return f"; layers {', '.join(map(str, found['kept']))} kept by {found['measure']}" if found else ""


def _conditions() -> dict[str, Any]:
    return {**machine(), **hardware(), "threads": threads(), "date": datetime.now(UTC).date().isoformat()}


def _peak(folder: Path) -> int:
    """Return the largest memory that any try of the run took."""
    earlier = [int(event.get("peak_rss_bytes", 0)) for event in Journal(folder / "journal.jsonl").events("stage-done")]
    return max([peak_rss(), *earlier])
