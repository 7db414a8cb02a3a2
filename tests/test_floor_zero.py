from __future__ import annotations

import hashlib
import subprocess
import sys
import time

import pytest
from pydantic import Field, ValidationError

from attar import catalog, log
from attar.errors import AttarError, Mistake, RecipeError, did_you_mean
from attar.optional import lazy, require
from attar.seeds import content_key, derive
from attar.settings import Settings, cache_folder, runs_folder


def test_recipe_error_lists_every_mistake_with_its_path() -> None:
    error = RecipeError("my.yaml", [Mistake("student.layers", "must be > 0, got 0."), Mistake("", "is empty.")])
    assert str(error) == "my.yaml has 2 mistakes:\n  student.layers: must be > 0, got 0.\n  is empty."
    assert error.exit_status == 2


def test_did_you_mean_suggests_lists_or_says_nothing() -> None:
    assert did_you_mean("bnk", ["bank"]) == " Did you mean 'bank'?"
    assert did_you_mean("zzz", ["b", "a"]) == " Known: a, b."
    assert did_you_mean("zzz", []) == ""


def test_derive_is_stable_across_processes_and_separates_names() -> None:
    expected = int.from_bytes(hashlib.sha256(b"0\x1fstudent\x1f1").digest()[:8], "big") >> 1
    assert derive(0, "student", 1) == expected
    assert derive(0, "ab") != derive(0, "a", "b")
    assert derive(1, "a") != derive(0, "a")
    assert 0 <= derive(7, "x") < 2**63


def test_content_key_of_known_bytes() -> None:
    # SHA-256 of the empty string is e3b0c44298fc1c14... (FIPS 180-4 example)
    assert content_key(b"") == 0xE3B0C44298FC1C14 >> 1


class Sized(Settings):
    """Set a size."""

    size: float = Field(1.0, gt=0, description="a size")


@pytest.mark.parametrize("given", [{"sizes": 1}, {"size": 0}, {"size": float("nan")}, {"size": float("inf")}])
def test_settings_refuse(given: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Sized(**given)


def test_settings_never_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Sized().size = 2.0


def test_folders_follow_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTAR_CACHE", "~/somewhere")
    assert "~" not in str(cache_folder())
    monkeypatch.delenv("ATTAR_CACHE")
    monkeypatch.delenv("ATTAR_RUNS")
    assert cache_folder().parts[-2:] == (".cache", "attar")
    assert str(runs_folder()) == "runs"


def test_require_names_the_extra_and_passes_on_other_faults() -> None:
    with pytest.raises(AttarError, match=r"pip install 'attar\[vision\]'"):
        require("no_such_library", "vision", "The model")
    assert lazy("math").pi > 3


def test_unknown_names_are_suggested() -> None:
    with pytest.raises(AttarError, match=r"There is no objective 'foward_kl'. Did you mean 'forward_kl'?"):
        catalog.entry("objective", "foward_kl")


def test_plugins_join_and_may_not_take_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    class Point:
        def __init__(self, name: str, value: str) -> None:
            self.name, self.value = name, value

    catalog.table.cache_clear()
    monkeypatch.setattr(catalog, "entry_points", lambda group: [Point("objective.mine", "math:floor")])
    assert catalog.entry("objective", "mine")(1.5) == 1
    catalog.table.cache_clear()
    monkeypatch.setattr(catalog, "entry_points", lambda group: [Point("objective.forward_kl", "math:floor")])
    with pytest.raises(AttarError, match="that name is taken"):
        catalog.table("objective")
    catalog.table.cache_clear()


def test_import_is_light() -> None:
    code = (
        "import sys, attar, attar.errors, attar.settings, attar.catalog, attar.seeds, attar.log, attar.optional;"
        "print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["False", "False"]


def test_catalogue_settings_import_no_torch() -> None:
    code = (
        "import sys; from attar import catalog\n"
        "for noun in catalog.TABLES:\n"
        "    if noun == 'search': continue\n"
        "    for name in catalog.table(noun): catalog.entry(noun, name)\n"
        "print('torch' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "False"


def test_plain_progress_speaks_seldom_and_tells_the_rest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with log.progress("work", 10, 2) as bar:
        bar.advance(1)
        now[0] = 20.0
        bar.advance(3, "loss 1")
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "  work: 6/10, 0.2/s, 20 s left  loss 1\n"
