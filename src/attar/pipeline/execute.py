"""Execute a recipe: skip what the store has, go on where a killed try stopped, leave a run folder with its proof."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from attar.log import say
from attar.pipeline.graph import Stage, build
from attar.pipeline.recipe import Recipe
from attar.pipeline.works import Desk
from attar.settings import cache_folder
from attar.stages import assets
from attar.stages.memory import give_back, peak_rss
from attar.store.artifacts import Artifact, Store
from attar.store.files import read_json, remove, write_bytes, write_json
from attar.store.journal import Journal
from attar.store.lock import hold

HEARTBEAT = 2.0
"""Seconds between two notes of the time a stage has taken: what a kill can hide of it."""


def execute(recipe: Recipe, base: Path, folder: Path, last: str | None = None) -> dict[str, Artifact]:
    """Run every stage that is not stored yet.

    Args:
        recipe: a valid recipe.
        base: the folder its paths are relative to.
        folder: the run's folder; the same command goes on in it after a kill.
        last: the stage to end with, of which alone the needed stages are run; all of them by default.

    Returns:
        Stage name -> artifact.

    Raises:
        AttarError: another process holds the run, or a stage met a user's mistake.
    """
    store = Store(cache_folder())
    with hold(folder / ".lock", f"the run {folder}"):
        journal = Journal(folder / "journal.jsonl")
        if last is None or not (folder / "summary.json").is_file():  # a finished run's recipe stays that run's
            write_bytes(folder / "recipe.yaml", recipe_text(recipe, base).encode("utf-8"))
        stages = build(recipe, base) if last is None else _needed(last, build(recipe, base))
        journal.add("run", name=recipe.name, stages={name: stage.key for name, stage in stages.items()})
        if not all(store.has(name, stage.key) for name, stage in stages.items()):
            # a wrong checksum shows now, not after an hour
            learners = (*recipe.assistant, recipe.student) if last is None else ()
            for settings in (recipe.teacher, *learners):
                assets.fetch_weights(settings, base, store.root)
        done: dict[str, Artifact] = {}
        for place, stage in enumerate(stages.values()):
            inputs = {parent: done[parent] for parent in stage.parents}
            heading = f"[{place + 1}/{len(stages)}] {stage.title}"
            done[stage.name] = _finish(stage, inputs, _Site(recipe, base, store, journal, heading))
        if "export" in done:
            _put_bundle(done["export"], folder)
        return done


def _needed(last: str, stages: Mapping[str, Stage]) -> dict[str, Stage]:
    """Return a stage and all that it needs, in their order."""
    wanted = {last}
    for name in reversed(list(stages)):
        if name in wanted:
            wanted.update(stages[name].parents)
    return {name: stage for name, stage in stages.items() if name in wanted}


def recipe_text(recipe: Recipe, base: Path) -> str:
    """Return the recipe as YAML, complete with its defaults, with paths made absolute."""
    body = _without_default_nulls(recipe, recipe.model_dump(mode="json"))
    for section, key in (("data", "source"), ("data", "test_source"), ("teacher", "model"), ("student", "model")):
        given = body.get(section, {}).get(key)
        if given is not None and (base / given).exists():
            body[section][key] = str((base / given).resolve())
    for one in body["assistant"]:
        if one.get("model") is not None and (base / one["model"]).exists():
            one["model"] = str((base / one["model"]).resolve())
    return yaml.safe_dump(body, sort_keys=False, allow_unicode=True, width=120)


def _without_default_nulls(given: Any, dumped: Any) -> Any:
    """Return dumped settings without nulls that are the default; another null, such as `key_env: null`, says much."""
    if isinstance(given, BaseModel):
        fields = type(given).model_fields
        said = [
            name
            for name, value in dumped.items()
            if value is not None or name not in fields or fields[name].default is not None
        ]
        return {name: _without_default_nulls(getattr(given, name), dumped[name]) for name in said}
    if isinstance(given, tuple):
        return [_without_default_nulls(*pair) for pair in zip(given, dumped, strict=True)]
    return dumped


class _Site:
    def __init__(self, recipe: Recipe, base: Path, store: Store, journal: Journal, heading: str) -> None:
        self.recipe, self.base, self.store, self.journal, self.heading = recipe, base, store, journal, heading


def _finish(stage: Stage, inputs: Mapping[str, Artifact], site: _Site) -> Artifact:
    """Return the stage's artifact, made now or found."""
    store = site.store
    if store.has(stage.name, stage.key):
        return _reuse(stage, site)
    say(site.heading)
    with store.build(stage.name, stage.key) as work:
        if store.has(stage.name, stage.key):  # another run made it while this one waited
            return _reuse(stage, site)
        site.journal.add("stage-start", stage=stage.name, key=stage.key)
        with _clock(work) as clock:
            content = work / "content"
            desk = Desk(site.recipe, site.base, store.root, stage.key, inputs, work, content)
            card = stage.work(desk)
        give_back()
        seconds = clock()
        parents = {name: artifact.key for name, artifact in inputs.items()}
        artifact = store.put(stage.name, stage.key, content, parents, {**card, "seconds": seconds})
        store.discard_work(stage.name, stage.key)
    site.journal.add(
        "stage-done", stage=stage.name, key=stage.key, seconds=seconds, reused=False, peak_rss_bytes=peak_rss()
    )
    say(f"      {seconds:.1f} s")
    return artifact


def _reuse(stage: Stage, site: _Site) -> Artifact:
    artifact = site.store.get(stage.name, stage.key)
    site.journal.add("stage-done", stage=stage.name, key=stage.key, seconds=artifact.seconds, reused=True)
    say(f"{site.heading}: stored already")
    return artifact


@contextmanager
def _clock(work: Path) -> Iterator[Any]:
    """Count the seconds of a stage over all of its tries: noted every few seconds, so that a kill hides few."""
    note = work / "seconds.json"
    before = float(read_json(note)) if note.is_file() else 0.0
    begin, ended = time.monotonic(), threading.Event()

    def spent() -> float:
        """Return the seconds of all tries so far."""
        return round(before + time.monotonic() - begin, 3)

    def beat() -> None:
        """Note the seconds until the stage ends."""
        while not ended.wait(HEARTBEAT):
            write_json(note, spent())

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield spent
    finally:
        ended.set()
        thread.join()


def _put_bundle(export: Artifact, folder: Path) -> None:
    """Copy the bundle into the run's folder; a bundle that is there is whole."""
    target, beside = folder / "bundle", folder / ".bundle.tmp"
    card = target / "bundle.json"
    if card.is_file() and card.read_bytes() == (export.folder / "bundle.json").read_bytes():
        return
    remove(beside)
    shutil.copytree(export.folder, beside, ignore=shutil.ignore_patterns("artifact.json"))
    remove(target)
    beside.rename(target)
