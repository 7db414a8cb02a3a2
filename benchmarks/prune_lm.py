"""Prune a small language model and let it recover from its own record, beside a dense control of the same size.

    python benchmarks/prune_lm.py --llama-python PY        about 3.5 hours on two cores
    python benchmarks/prune_lm.py --quick                  a try of every part; writes no result

SmolLM2-135M is first trained for --tune steps on clothing reviews (their rest, after the first words): that is the
uncompressed model. What it says of the training reviews is recorded once. Then, each from the same model:

- depth 25 %, depth 50 %: whole layers, chosen by damage; width 25 %: channels of the MLPs. Recovery is the one of a
  recipe's step: from the record (forward KL) and the reviews (half of the weight), as many steps as fit into --minutes.
- control: the same number of layers (for width: that of the nearest number of parameters), evenly chosen from the
  same model, trained on the reviews alone for as many steps of the same batches.
- loads: how many of plain transformers, ONNX Runtime and llama.cpp (llama-cpp-python; PY is the Python of an
  environment that has it) load the result and give its logits; without --llama-python at most 2.

ppl_before is that right after pruning, ppl_after that after recovery, both of held-out reviews; minutes are those of
the recovery. A killed run goes on: every part lies in --work, training continues from its checkpoints.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from compress_data import (
    BATCH,
    WRITES,
    Work,
    base_parser,
    finish,
    language,
    learned,
    lesson,
    peer,
    perplexity,
    recorded,
    reviews,
    tuned,
    verses,
)

CUTS: dict[str, tuple[str, dict[str, Any]]] = {
    "depth_25": ("depth", {"ratio": 0.25, "measure": "kl"}),
    "depth_50": ("depth", {"ratio": 0.5, "measure": "kl"}),
    "width_25": ("width", {"mlp": 0.25}),
}
TERMS: list[tuple[float, str, Mapping[str, Any]]] = [
    (1.0, "forward_kl", {"temperature": 1.0}),
    (0.5, "cross_entropy", {}),
]
GOLD: list[tuple[float, str, Mapping[str, Any]]] = [(1.0, "cross_entropy", {})]
COMPARED = 4
"""Held-out reviews whose logits the reloaded models must give."""
EQUAL = 1e-3
"""Largest difference of logits, relative to the largest: float32 arithmetic in another order."""


class Bench:
    """Hold texts and the uncompressed model, and do the parts.

    Args:
        given: the command's arguments.
        work: keeps the parts.
    """

    def __init__(self, given: argparse.Namespace, work: Work) -> None:
        self.given, self.work = given, work
        self.data = reviews((given.train, given.validation, given.test), given.seed)
        self.verses = None if given.verses is None else verses(given.verses, given.test, given.seed)
        self.source = tuned(work, self.data, given.tune, given.seed)

    def whole(self) -> dict[str, float]:
        """Return the figures of the uncompressed model."""
        model = language(self.source)
        return {"ppl": perplexity(model, self.data["test"]), "parameters": _parameters(model), **self.apart(model)}

    def apart(self, model: Any, name: str = "ppl_verses") -> dict[str, float]:
        """Return a model's perplexity of verses, if they are given."""
        return {} if self.verses is None else {name: round(perplexity(model, self.verses), 4)}

    def pruned(self, name: str) -> dict[str, Any]:
        """Prune, let the model recover, and return what was done."""
        from attar.stages.compress import Bench as StepBench
        from attar.stages.compress import compress
        from attar.stages.recover import within

        said = recorded(self.work, "record", self.source, self.data, self.given.seed)
        taught = lesson(self.data["train"], self.data["validation"], TERMS, said)
        work, content = self.work.place(name)
        inputs = [str(text) for text in self.data["train"].inputs]
        bench = StepBench(self.source, taught, inputs, self.given.seed, work, content)
        how = self.training()
        if not self.given.quick:
            steps = within(self.given.minutes, taught, self.source, how, (work, "cpu"))
            how = how.model_copy(update={"steps": steps})
        card = compress(bench, CUTS[name], how, f"recovering from {name}", "cpu")
        cut = language(work / "applied")
        return {
            "ppl_before": perplexity(cut, self.data["test"]),
            "parameters": _parameters(cut),
            "layers": int(cut.module.config.num_hidden_layers),
            "steps": card["damage"][0]["steps"],
            "minutes": card["history"][-1]["seconds"] / 60,
            "notes": card["plans"][0]["notes"],
        }

    def training(self) -> Any:
        """Return how models are trained; recovery's steps are found by time."""
        from attar.stages.schedule import TrainSettings

        return TrainSettings(steps=2, batch_size=BATCH, learning_rate=self.given.rate, validations=4)

    def control(self, name: str, done: Mapping[str, Any]) -> dict[str, float]:
        """Train the dense control and return its figures."""
        layers = self.layers_of(done)
        places = self.work.place(f"{name}-control")
        how = self.training().model_copy(update={"steps": max(1, int(done["steps"]))})
        taught = lesson(self.data["train"], self.data["validation"], GOLD, None)
        card = learned(self.source, layers, taught, how, self.given.seed, places)
        model = language(places[1])
        found = {"ppl": perplexity(model, self.data["test"]), "parameters": _parameters(model), "layers": layers}
        return {**found, "minutes": card["history"][-1]["seconds"] / 60, **self.apart(model)}

    def layers_of(self, done: Mapping[str, Any]) -> int:
        """Return the number of layers whose parameters are nearest to those of a pruned model."""
        config: Any = language(self.source).module.config
        if done["layers"] < config.num_hidden_layers:
            return int(done["layers"])
        whole = self.work.once("whole", self.whole)["parameters"]
        layer = (whole - config.vocab_size * config.hidden_size) / config.num_hidden_layers
        left: float = config.num_hidden_layers - (whole - done["parameters"]) / layer
        return round(left)

    def reloaded(self, name: str) -> dict[str, float]:
        """Return how far each runtime's logits are from those of the model, relative to the largest."""
        folder = self.work.folder / name
        model = language(folder)
        few = self.data["test"].take(np.arange(COMPARED))
        pairs = [(str(text), str(target)) for text, target in zip(few.inputs, few.targets, strict=True)]
        found = {"transformers": self.in_transformers(folder, model, pairs)}
        found["onnxruntime"] = self.in_onnxruntime(name, folder, model, pairs)
        if self.given.llama_python is not None:
            found["llama.cpp"] = self.in_llama(name, model, pairs)
        return found

    def in_transformers(self, folder: Path, model: Any, pairs: list[tuple[str, str]]) -> float:
        """Return the difference of what plain transformers loads."""
        import torch
        from transformers import AutoModelForCausalLM

        plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        return max(_far(_logits(model.module, ids), _logits(plain, ids)) for ids in _ids(model, pairs))

    def in_onnxruntime(self, name: str, folder: Path, model: Any, pairs: list[tuple[str, str]]) -> float:
        """Return the difference of the bundle."""
        from attar.core.examples import DataSet
        from attar.exporters.writing_bundle import WritingBundle
        from attar.stages.export_writer import export_writer

        scratch, bundle = self.work.place(f"{name}-bundle")
        if not (bundle / "bundle.json").is_file():
            gold = frozenset(("train", "validation", "test"))
            parts = (self.data["train"], self.data["validation"], self.data["test"])
            export_writer(folder, WRITES, (), DataSet((), *parts, gold), (scratch, bundle))
        opened = WritingBundle(bundle, threads=1)
        far = []
        for pair, ids in zip(pairs, _ids(model, pairs), strict=True):
            theirs = opened.logits(*pair)
            far.append(_far(_logits(model.module, ids[:-1])[-len(theirs) :], theirs))
        return max(far)

    def in_llama(self, name: str, model: Any, pairs: list[tuple[str, str]]) -> float:
        """Return the difference of llama.cpp on the GGUF file."""
        from attar.exporters.gguf import GgufExporter

        folder = self.work.folder / f"{name}-gguf"
        folder.mkdir(exist_ok=True)
        path = folder / GgufExporter().export(model, folder)
        ids = _ids(model, pairs)
        (folder / "ids.json").write_text(json.dumps(ids), encoding="utf-8")
        peer(self.given.llama_python, "logits", path, folder / "ids.json", folder / "logits.npy")
        own = np.concatenate([_logits(model.module, one) for one in ids])
        return _far(own, np.load(folder / "logits.npy"))

    def run(self, name: str) -> dict[str, Any]:
        """Do all parts of one cut."""
        done = self.work.once(f"{name}-pruned", lambda: self.pruned(name))
        model = language(self.work.folder / name)
        after = self.work.once(
            f"{name}-after", lambda: {"ppl": perplexity(model, self.data["test"]), **self.apart(model)}
        )
        control = self.work.once(f"{name}-control-row", lambda: self.control(name, done))
        return {
            **done,
            "after": after,
            "control": control,
            "far": self.work.once(f"{name}-far", lambda: self.far(name)),
        }

    def far(self, name: str) -> dict[str, float]:
        """Return `reloaded` as JSON holds it: a difference that is no number is larger than any."""
        return {runtime: float(min(value, 1e9)) for runtime, value in self.reloaded(name).items()}


def _parameters(model: Any) -> int:
    return sum(part.numel() for part in model.module.parameters())


def _ids(model: Any, pairs: list[tuple[str, str]]) -> list[list[int]]:
    from attar.tasks.text_generation import completion_tokens, prompt_tokens

    return [[*prompt_tokens(model, text), *completion_tokens(model, target)] for text, target in pairs]


def _logits(network: Any, ids: list[int]) -> np.ndarray:
    import torch

    with torch.inference_mode():
        return np.asarray(network(input_ids=torch.tensor([ids])).logits[0].float().numpy())


def _far(own: np.ndarray, theirs: np.ndarray) -> float:
    if own.shape != theirs.shape or not np.isfinite(theirs).all():
        return float("inf")
    return float(np.abs(theirs - own).max() / max(1.0, float(np.abs(own).max())))


def figures_of(found: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of one cut."""
    verses_of = {"ppl_verses_after": found["after"], "ppl_verses_control": found["control"]}
    return {
        "ppl_before": round(found["ppl_before"], 3),
        "ppl_after": round(found["after"]["ppl"], 3),
        "ppl_control": round(found["control"]["ppl"], 3),
        "minutes": round(found["minutes"], 2),
        "loads": sum(value < EQUAL for value in found["far"].values()),
        "steps": found["steps"],
        "parameters": found["parameters"],
        "control_parameters": found["control"]["parameters"],
        "control_minutes": round(found["control"]["minutes"], 2),
        "largest_difference": max(found["far"].values()),
        **{name: row["ppl_verses"] for name, row in verses_of.items() if "ppl_verses" in row},
    }


def table(whole: Mapping[str, float], rows: Mapping[str, Mapping[str, float]], far: Mapping[str, Any]) -> None:
    """Print the results for people."""
    print(f"uncompressed: perplexity {whole['ppl']:.2f}, {whole['parameters'] / 1e6:.1f}M parameters")
    print(f"{'cut':<10}{'params':>9}{'before':>10}{'after':>9}{'control':>9}{'minutes':>9}{'loads':>7}")
    for name, row in rows.items():
        sizes = f"{row['parameters'] / 1e6:>8.1f}M{row['ppl_before']:>10.2f}{row['ppl_after']:>9.2f}"
        print(f"{name:<10}{sizes}{row['ppl_control']:>9.2f}{row['minutes']:>9.1f}{row['loads']:>7}  {far[name]}")


def main() -> None:
    """Run the benchmark."""
    parser = base_parser(__doc__, "prune-lm")
    parser.add_argument("--llama-python", type=Path, help="a Python with llama-cpp-python")
    parser.add_argument("--verses", type=Path, help="SWORD's folder (mods.d, modules): text that nothing trained on")
    parser.add_argument("--train", type=int, default=8000, help="reviews to train on")
    parser.add_argument("--validation", type=int, default=64)
    parser.add_argument("--test", type=int, default=300)
    parser.add_argument("--tune", type=int, default=150, help="steps of the uncompressed model on reviews")
    parser.add_argument("--minutes", type=float, default=25, help="of each recovery")
    parser.add_argument("--rate", type=float, default=3e-4, help="learning rate of recovery and control")
    parser.add_argument("--cuts", default=",".join(CUTS), help="which, with commas between")
    given = parser.parse_args()
    if given.quick:
        given.train, given.validation, given.test, given.tune = 24, 4, 4, 1
    work = Work(given, "prune_lm", ("llama_python", "cuts"))
    bench = Bench(given, work)
    whole = work.once("whole", bench.whole)
    found = {name: bench.run(name) for name in given.cuts.split(",")}
    rows = {name: figures_of(one) for name, one in found.items()}
    far = {name: one["far"] for name, one in found.items()}
    table(whole, rows, far)
    conditions = {
        "model": f"SmolLM2-135M-Instruct after {given.tune} steps of {BATCH} reviews",
        "ppl": f"of the rest of {len(bench.data['test'])} held-out reviews after their first words",
        "recovery": f"steps that fit into {given.minutes:g} minutes by the uncompressed model's step; {BATCH} texts a "
        f"step, rate {given.rate:g}, forward KL to its record and half as much cross-entropy; best of 4 validations",
        "control": "evenly chosen layers of the same model, as many steps on gold texts alone, same rate and batches",
        "loads": f"of transformers, onnxruntime, llama.cpp: logits of {COMPARED} texts within {EQUAL:g} of the largest",
        "differences": far,
        "notes": {name: one["notes"] for name, one in found.items()},
    }
    finish(work, {"uncompressed": whole, **rows}, given, conditions)


if __name__ == "__main__":
    main()
