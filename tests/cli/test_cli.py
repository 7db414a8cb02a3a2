"""The verbs: data on stdout, words on stderr, a user's mistake ends in one message and status 2."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attar import __version__, cli, log
from attar.cli.options import overrides
from attar.errors import AttarError

HEAVY = ("torch", "transformers", "pydantic", "onnxruntime", "numpy", "typer", "rich", "yaml")
NEVER = ("torch", "transformers", "accelerate", "datasets", "onnx")


@dataclass(frozen=True)
class Said:
    """Hold what a command gave."""

    status: int
    stdout: str
    stderr: str

    @property
    def data(self) -> Any:
        """Return stdout as JSON."""
        return json.loads(self.stdout)


Attar = Callable[..., Said]


@pytest.fixture
def attar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Attar:
    """Return the command line, run in this process in a fresh folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ATTAR_RUNS", "runs")
    monkeypatch.setenv("COLUMNS", "160")

    def run(*words: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["attar", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        code = ended.value.code
        return Said(code if isinstance(code, int) else 0, said.out, said.err)

    return run


@pytest.fixture
def runs(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder ``runs`` with a copy of the tiny run in it; its store is the cache."""
    shutil.copytree(tiny_run / "runs", tmp_path / "runs")
    monkeypatch.setenv("ATTAR_CACHE", str(tiny_run / "cache"))
    return tmp_path / "runs"


def test_the_script_is_the_command_line() -> None:
    (script,) = [point for point in entry_points(group="console_scripts") if point.name == "attar"]
    assert script.load() is cli.main


def test_version_and_help(attar: Attar) -> None:
    assert attar("--version") == Said(0, f"attar {__version__}\n", "")
    for words in (("--help",), ("run", "--help")):
        said = attar(*words)
        assert said.status == 0
        assert "Usage" in said.stdout
    bare = attar()
    assert bare.status == 2
    assert "predict" in bare.stdout + bare.stderr


@pytest.mark.parametrize(
    "verb", ["run", "tune", "check", "init", "copy", "graph", "list", "show", "compare", "predict"]
)
def test_every_verb_has_help(attar: Attar, verb: str) -> None:
    said = attar(verb, "--help")
    assert said.status == 0
    assert f"attar {verb}" in said.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("frobnicate",), "No such command 'frobnicate'"),
        (("run",), "Missing argument 'RECIPE'"),
        (("check", "digits", "--jsn"), "No such option: --jsn"),
        (("predict", "x", "--threads", "two"), "--threads"),
        (("predict", "x", "--threads", "-1"), "--threads"),
        (("run", "nothing"), "no recipe file 'nothing'"),
        (("run", "digits", "--set", "seed"), "--set takes KEY=VALUE"),
        (("check", "digits", "--set", "seed=-1"), "seed: must be >= 0, got -1."),
        (("graph", "digits", "--set", "sed=1"), "Did you mean 'seed'?"),
        (("show", "nothing"), "There is no run 'nothing'"),
        (("compare", "one", "two"), "There is no run 'one'"),
        (("predict", "nothing", "x"), "There is no run 'nothing'"),
        (("copy", "reveiws"), "Did you mean 'reviews'?"),
        (("init", "--task", "image-clasification"), "Did you mean 'image-classification'?"),
    ],
)
def test_a_mistake_ends_in_one_message(attar: Attar, tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    found = attar(*words)
    assert found.status == 2
    assert found.stdout == ""
    assert found.stderr.startswith("error: ")
    assert said in found.stderr
    assert "Traceback" not in found.stderr
    assert not [path for path in tmp_path.iterdir() if path.name != "cache"]


def test_a_fault_of_attar_keeps_its_traceback(attar: Attar, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Any) -> None:
        raise ValueError("a fault")

    monkeypatch.setattr("attar.pipeline.load.find", fail)
    with pytest.raises(ValueError, match="a fault"):
        attar("check", "digits")


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("No space left on device (os error 28)")]
)
def test_a_full_disk_is_told_whoever_says_it(attar: Attar, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(_: Any) -> None:
        raise error

    monkeypatch.setattr("attar.pipeline.load.find", fail)
    said = attar("check", "digits")
    assert said.status == 2
    assert said.stderr.startswith("error: No space is left on the disk")


def test_ctrl_c_says_how_to_go_on(attar: Attar, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("attar.pipeline.load.find", stop)
    said = attar("run", "digits")
    assert said.status == 130
    assert "it goes on where it was" in said.stderr


def test_markup_in_a_message_is_printed_as_it_is(attar: Attar) -> None:
    assert "'[bold]x[/bold]'" in attar("show", "[bold]x[/bold]").stderr


@pytest.mark.parametrize("task", ["text-classification", "image-classification", "text-generation"])
def test_init_writes_a_recipe_that_is_valid(attar: Attar, tmp_path: Path, task: str) -> None:
    from attar.pipeline.load import load_recipe

    assert attar("init", "--task", task).status == 0
    assert load_recipe(str(tmp_path / "recipe.yaml"))[0].task == task
    again = attar("init", "--task", task)
    assert again.status == 2
    assert "exists already" in again.stderr


def test_copy_writes_the_ready_recipe_and_never_over_a_file(attar: Attar, tmp_path: Path) -> None:
    from attar.pipeline.load import ready_recipes

    for name, text in ready_recipes().items():
        assert attar("copy", name).status == 0
        assert (tmp_path / f"{name}.yaml").read_text(encoding="utf-8") == text
    (tmp_path / "mine.yaml").write_text("mine", encoding="utf-8")
    assert attar("copy", "digits", "mine.yaml").status == 2
    assert (tmp_path / "mine.yaml").read_text(encoding="utf-8") == "mine"


def test_check_prints_the_plan_and_its_facts(attar: Attar) -> None:
    assert "no mistakes found" in attar("check", "digits").stdout
    plan = attar("check", "digits", "--set", "compress=[]", "--json").data
    assert plan["name"] == "digits"
    assert {"stages", "seconds", "ram_bytes", "download_bytes", "disk_bytes", "teacher_calls", "notes"} <= set(plan)


def test_graph_prints_mermaid_or_its_parts(attar: Attar) -> None:
    assert "flowchart" in attar("graph", "digits").stdout
    parts = attar("graph", "digits", "--json").data
    assert [part["stage"] for part in parts][:2] == ["data", "teacher"]


def test_list_tells_recipes_names_and_runs(attar: Attar, runs: Path) -> None:
    assert set(attar("list", "--recipes", "--json").data) == {"digits", "reuters", "reviews", "titles"}
    assert "forward_kl" in attar("list", "--names", "--json").data["objective"]
    assert "cross_entropy" in attar("list", "--names").stdout
    assert [summary["name"] for summary in attar("list", "--json").data] == ["tiny"]
    (runs / "half").mkdir()
    (runs / "half" / "journal.jsonl").write_text('{"event": "run"}\n', encoding="utf-8")
    said = attar("list")
    assert "tiny" in said.stdout
    assert "runs/half is not finished" in said.stderr


def test_list_without_runs_says_how_to_begin(attar: Attar) -> None:
    assert "attar run digits" in attar("list").stderr
    assert attar("list", "--json").data == []


def test_show_prints_the_models_and_the_summary(attar: Attar, runs: Path) -> None:
    said = attar("show", "tiny")
    assert all(name in said.stdout for name in ("teacher", "control", "student", "exported", "report.html"))
    assert attar("show", "tiny", "--json").data == json.loads((runs / "tiny" / "summary.json").read_text())
    assert attar("show", str(runs / "tiny"), "--json").data["name"] == "tiny"


def test_compare_puts_two_runs_side_by_side_and_refuses_two_tasks(attar: Attar, runs: Path) -> None:
    other = runs / "other"
    shutil.copytree(runs / "tiny", other)
    found = attar("compare", "tiny", "other", "--json").data
    assert {row["model"] for row in found["rows"]} >= {"teacher", "student", "exported"}
    assert "exported" in attar("compare", "tiny", "other").stdout
    summary = json.loads((other / "summary.json").read_text())
    (other / "summary.json").write_text(json.dumps({**summary, "task": "text-classification"}), encoding="utf-8")
    assert "different tasks" in attar("compare", "tiny", "other").stderr


def test_run_reuses_and_gives_its_summary_as_data(attar: Attar, runs: Path, tiny_run: Path) -> None:
    said = attar("run", str(tiny_run / "tiny.yaml"), "--folder", "again", "--json")
    assert said.status == 0
    assert said.data["verdict"]["claim"]
    assert said.stderr.count("stored already") == 8
    words = attar("run", str(tiny_run / "tiny.yaml"), "--folder", "again")
    assert words.stdout == ""
    assert "attar predict again" in words.stderr


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    """Return the names of two images of digits."""
    from PIL import Image
    from sklearn.datasets import load_digits

    names = []
    for number in (0, 1):
        pixels = np.rint(load_digits().images[number] * (255 / 16)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        names.append(f"{number}.png")
    return names


def test_predict_answers_as_the_api_does(attar: Attar, runs: Path, pictures: list[str]) -> None:
    from attar import load

    lines = [json.loads(line) for line in attar("predict", "tiny", *pictures).stdout.splitlines()]
    assert [line["input"] for line in lines] == pictures
    bundle = load(runs / "tiny")
    answers = [bundle.answer(bundle.read_image(Path(name))[None])[0] for name in pictures]
    assert [line["label"] for line in lines] == [answer.label for answer in answers]
    assert all(abs(sum(line["scores"].values()) - 1) < 1e-4 for line in lines)
    Path("names.txt").write_text("\n".join([*pictures, ""]), encoding="utf-8")
    assert [json.loads(x) for x in attar("predict", "tiny", "--file", "names.txt").stdout.splitlines()] == lines
    assert [json.loads(x) for x in attar("predict", "runs/tiny/bundle", *pictures).stdout.splitlines()] == lines


def test_predict_refuses_what_is_no_image(attar: Attar, runs: Path, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_text("no image", encoding="utf-8")
    for words, said in ((("x.png",), "cannot be read as an image"), (("--file", "gone"), "gone cannot be read")):
        found = attar("predict", "tiny", *words)
        assert found.status == 2
        assert found.stdout == ""
        assert said in found.stderr
    assert "not both" in attar("predict", "tiny", "x.png", "--file", "x").stderr


def _modules(code: str, *words: str, stdin: str | None = None) -> tuple[set[str], str]:
    """Return the modules a fresh process has imported after some code, and its stdout."""
    lines = f"import sys\nsys.argv[0] = 'attar'\n{code}\nprint(' '.join(sys.modules), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", lines, *words],
        input=stdin,
        capture_output=True,
        text=True,
        check=True,
        env=dict(os.environ),
    )
    return set(done.stderr.splitlines()[-1].split()), done.stdout


MAIN = "from attar.cli import main\ntry: main()\nexcept SystemExit as end:\n    if end.code: raise"


def test_importing_attar_imports_nothing_heavy() -> None:
    modules, _ = _modules("import attar; assert attar.__version__")
    assert not modules & set(HEAVY)


def test_predict_needs_no_torch_and_reads_stdin(runs: Path, pictures: list[str], tmp_path: Path) -> None:
    names = "".join(f"{tmp_path / name}\n" for name in pictures)
    modules, said = _modules(MAIN, "predict", str(runs / "tiny"), stdin=names)
    assert "onnxruntime" in modules
    assert not modules & set(NEVER)
    assert len([json.loads(line) for line in said.splitlines()]) == 2


@pytest.mark.parametrize("words", [("list", "--recipes"), ("check", "digits"), ("show", "tiny"), ("graph", "digits")])
def test_verbs_that_load_no_model_import_no_torch(runs: Path, words: tuple[str, ...]) -> None:
    modules, said = _modules(
        f"import os; os.chdir({str(runs.parent)!r}); os.environ['ATTAR_RUNS'] = 'runs'\n{MAIN}", *words
    )
    assert not modules & {"torch", "transformers"}
    assert said


def test_a_reader_that_goes_away_is_no_mistake(runs: Path) -> None:
    words = [sys.executable, "-m", "attar", "show", str(runs / "tiny"), "--json"]
    shell = f"{' '.join(words)} | head -c 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert done.stdout == "{"


def test_overrides_are_yaml() -> None:
    given = ["a.b=1", "c=[x, y]", "d=a=b", "e="]
    assert overrides(given) == {"a.b": 1, "c": ["x", "y"], "d": "a=b", "e": None}
    assert overrides(None) == {}
    for wrong in ("a", "=1", " =1"):
        with pytest.raises(AttarError, match="KEY=VALUE"):
            overrides([wrong])


def test_progress_is_plain_lines_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(log, "PLAIN_SECONDS", 0.0)
    with log.progress("work", 10, done=2) as bar:
        bar.advance(3, "loss 0.5")
    assert "work: 5/10" in capsys.readouterr().err
