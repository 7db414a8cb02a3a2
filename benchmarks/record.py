"""Measure the teacher's record on real rows: what each codec takes, what it loses, how fast it is read.

SmolLM2-135M-Instruct reads clothing reviews, as the recipe `reviews` names both; each token is a row over 49,152
choices. Every codec encodes the same rows in a fresh process; the record is then written by the stage and read in
random batches. Beside attar's codecs stand two that others use: top-k of 40 bytes, and a multinomial sample (RS-KD)
whose mean size is 40 bytes.

    python benchmarks/record.py                  about four minutes on two cores
    python benchmarks/record.py --tokens 300     a quick look; writes no result

- bytes a row: all three temperatures together; for one, a sample takes a third.
- KL: KL(teacher ‖ record) in nats; of top-k, against a reader who spreads the rest evenly. A sample has none.
- gradient: relative error of the gradient over all rows, for an untrained student / for one halfway to the teacher.
- bias z: mean error along an untrained student's exact gradient, over rows and draws, in standard errors.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import torch
from common import write_result

from attar.core.examples import Examples
from attar.core.rows import Head, Rows, Sampled
from attar.teachers.codecs.base import blocks, scores
from attar.teachers.codecs.fidelity import added, compare, stated
from attar.teachers.codecs.full import FullCodec
from attar.teachers.codecs.sampled import SampledCodec
from attar.teachers.codecs.topk import TopkCodec

TEMPERATURES = (1.0, 2.0, 4.0)
BYTES = 40
TOKENS = 2048
FIDELITY_ROWS = 240
DRAWS = {"sampled": 16, "multinomial": 4}
READ_SECONDS = 2.0
PATIENCE = 15.0  # seconds after which the teacher reads no second time
EXAMPLES_PER_BATCH = 8


class Multinomial:
    """Sample as RS-KD does: N draws with replacement, the ids drawn and how often; N for a mean of so many bytes."""

    name: ClassVar[str] = "multinomial"

    def __init__(self, rows: Rows, size: int, temperatures: tuple[float, ...]) -> None:
        self.temperatures = temperatures
        log_p = torch.log_softmax(scores(rows.take(slice(0, 128))), dim=-1)
        self.draws = {t: self._fitting(torch.softmax(log_p / t, dim=-1), size) for t in temperatures}

    @staticmethod
    def _fitting(p: torch.Tensor, size: int) -> int:
        """Return the most draws whose different ids take ``size`` bytes in the mean: 2 each, and 1 for a count."""
        draw = torch.Generator().manual_seed(0)
        ids = torch.multinomial(p, 127, replacement=True, generator=draw)  # a count is kept in 7 bits
        means = [3 * np.mean([len(row[:count].unique()) for row in ids]) for count in range(1, 128)]
        return max(1, int((np.array(means) <= size).sum()))

    def encode(self, rows: Rows, seed: int = 0) -> dict[str, torch.Tensor]:
        """Return the ids drawn ``(rows, temperatures, draws)``, -1 where a temperature has fewer draws."""
        draw = torch.Generator().manual_seed(seed)
        most, parts = max(self.draws.values()), []
        for _, log_p in blocks(rows):
            ids = torch.full((len(log_p), len(self.temperatures), most), -1)
            for place, (t, count) in enumerate(self.draws.items()):
                p = torch.softmax(log_p / t, dim=-1)
                ids[:, place, :count] = torch.multinomial(p, count, replacement=True, generator=draw)
            parts.append(ids)
        return {"ids": torch.cat(parts)}

    def decode(
        self, columns: Mapping[str, torch.Tensor], key: torch.Tensor, weight: torch.Tensor, choices: int
    ) -> Rows:
        """Return rows with ``sampled``."""
        sampled = {}
        for place, (t, count) in enumerate(self.draws.items()):
            ids = columns["ids"][:, place, :count]
            sampled[t] = Sampled(ids, torch.full(ids.shape, 1 / count), torch.zeros(len(ids)), choices)
        return Rows(key, weight, sampled=sampled)

    def size(self, columns: Mapping[str, torch.Tensor]) -> float:
        """Return the mean bytes of a row, all temperatures together."""
        ids = columns["ids"]
        return 3 * float(np.mean([[len(one[one >= 0].unique()) for one in row] for row in ids])) * ids.shape[1]


def codec_of(name: str, rows: Rows) -> Any:
    """Return a contender."""
    return {
        "full": lambda: FullCodec(FullCodec.Settings()),
        "topk": lambda: TopkCodec(TopkCodec.Settings(k=32, temperatures=TEMPERATURES)),
        "topk_40": lambda: TopkCodec(TopkCodec.Settings(k=(BYTES - 2) // 4, temperatures=TEMPERATURES)),
        "sampled": lambda: SampledCodec(SampledCodec.Settings(bytes=BYTES, temperatures=TEMPERATURES)),
        "multinomial": lambda: Multinomial(rows, BYTES, TEMPERATURES),
    }[name]()


CONTENDERS = ("full", "topk", "topk_40", "sampled", "multinomial")
READ = ("full", "topk", "sampled")


def forward(folder: Path, tokens: int) -> dict[str, Any]:
    """Let the teacher read reviews, keep its hidden states and its head, and time it."""
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from attar.pipeline.load import load_recipe
    from attar.settings import cache_folder
    from attar.sources import data, reference, weights

    recipe, base = load_recipe("reviews")
    source = reference.parse(str(recipe.teacher.model), base)
    weights.as_folder(reference.fetch(source, recipe.teacher.sha256, cache_folder()), folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.bfloat16).eval()
    texts = data.read(recipe.data, base, cache_folder(), recipe.seed).train.inputs
    ids = []
    while sum(map(len, ids)) < tokens:
        ids.append(tokenizer(str(texts[len(ids)])).input_ids)
    key = torch.tensor([(example, place) for example, one in enumerate(ids) for place in range(len(one))])
    seconds, hidden = float("inf"), torch.zeros(0)
    with torch.inference_mode():
        for _ in range(3):
            begin = time.perf_counter()
            hidden = _hidden(model, ids)
            seconds = min(seconds, time.perf_counter() - begin)
            if seconds > PATIENCE:
                break
    head = model.get_output_embeddings().weight.detach()
    save_file({"key": key, "hidden": hidden.clone(), "head": head.clone()}, folder / "rows.safetensors")
    return {"tokens": len(key), "tokens_per_second": len(key) / seconds}


def _hidden(model: Any, ids: list[list[int]], tokens: int = 1536) -> torch.Tensor:
    """Return the hidden states of all tokens ``(tokens, width)``, in padded batches of texts of like length."""
    order = sorted(range(len(ids)), key=lambda one: -len(ids[one]))
    states: dict[int, torch.Tensor] = {}
    while order:
        longest = len(ids[order[0]])
        batch, order = order[: max(1, tokens // longest)], order[max(1, tokens // longest) :]
        padded = torch.tensor([ids[one] + [0] * (longest - len(ids[one])) for one in batch])
        said = model.base_model(input_ids=padded, use_cache=False).last_hidden_state
        states |= {one: said[place, : len(ids[one])] for place, one in enumerate(batch)}
    return torch.cat([states[one] for one in range(len(ids))])


def rows_of(folder: Path) -> Rows:
    """Return the rows that `forward` kept."""
    from safetensors.torch import load_file

    parts = load_file(folder / "rows.safetensors")
    return Rows(parts["key"], torch.ones(len(parts["key"])), hidden=parts["hidden"], head=Head(parts["head"]))


def judge(folder: Path, name: str) -> dict[str, Any]:
    """Encode all rows and say what was lost: of some rows all figures, of all rows and many draws the bias."""
    rows = rows_of(folder)
    codec = codec_of(name, rows)
    begin = time.perf_counter()
    columns = codec.encode(rows)
    seconds = time.perf_counter() - begin
    size = codec.size(columns) if name == "multinomial" else sum(c.nbytes for c in columns.values()) / len(rows)
    found: dict[str, Any] = {"bytes": size, "encoded_per_second": len(rows) / seconds}
    found["peak_rss_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    places = torch.linspace(0, len(rows) - 1, min(FIDELITY_ROWS, len(rows))).round().long()
    parts = [
        compare(codec, rows.take(part), {name: column[part] for name, column in columns.items()})
        for part in places.split(40)
    ]
    found["by_temperature"] = {t: dict(own) for t, own in figures_of(added(parts)).items()}
    if name in DRAWS:
        for t, bias in biases(codec, rows, DRAWS[name]).items():
            found["by_temperature"][f"{t:g}"] |= bias
    return found


def figures_of(sums: Mapping[str, Mapping[str, float]]) -> Mapping[str, Mapping[str, float]]:
    """Return the figures of each temperature, also where a codec states one alone."""
    whole = stated(sums, 0.0)
    return whole.by_temperature or {"1": {"kl": whole.kl or 0.0, "gradient_error": whole.gradient_error}}


def biases(codec: Any, rows: Rows, draws: int) -> dict[float, dict[str, float]]:
    """Return, for each temperature, the bias of a sample along the exact gradient ``p - u`` of an untrained student.

    One row and draw gives ``⟨p̂ - p, p - u⟩``; as both sum to 1, that is ``Σ share · p - Σ p²``. Its mean over all rows
    and draws is 0 if the sample is unbiased; z is the mean in standard errors, the percentage is the mean against
    that of ``‖p - u‖²``.
    """
    said = [codec.decode(codec.encode(rows, seed), rows.key, rows.weight, rows.choices) for seed in range(1, 1 + draws)]
    errors: dict[float, list[np.ndarray]] = {t: [] for t in codec.temperatures}
    reach = dict.fromkeys(codec.temperatures, 0.0)
    for part, log_p in blocks(rows):
        for t in codec.temperatures:
            p = torch.softmax(log_p / t, dim=-1)
            square = p.double().square().sum(dim=-1)
            reach[t] += float((square - 1 / rows.choices).sum()) * draws
            for one in said:
                sample = one.sampled[t]  # type: ignore[index]
                got = (sample.shares[part].double() * p.gather(-1, sample.ids[part])).sum(dim=-1)
                errors[t].append((got - square).numpy())
    found = {}
    for t, parts in errors.items():
        every = np.concatenate(parts)
        spread = float(np.sqrt(np.square(every).sum()))
        found[t] = {
            "bias_z": float(every.sum()) / spread,
            "bias_percent": 100 * float(every.sum()) / reach[t],
            "bias_percent_error": 100 * spread / reach[t],
        }
    return found


@dataclass
class Kept:
    """Answer as the teacher did, from the rows that `forward` kept."""

    rows: Rows
    gives: frozenset[Any] = frozenset({"logits", "hard"})
    fingerprint: str = "kept"

    def answer(self, examples: Examples) -> Rows:
        """Return the rows of some examples."""
        places = torch.isin(self.rows.key[:, 0], torch.from_numpy(examples.keys)).nonzero()[:, 0]
        return self.rows.take(places)


def read(folder: Path, name: str) -> dict[str, Any]:
    """Write a record with the stage and read it in random batches."""
    from attar.stages.record import RecordSettings, record
    from attar.teachers.recorded import RecordedTeacher

    rows = rows_of(folder)
    keys = rows.key[:, 0].unique().numpy()
    examples = Examples(keys, ["x" * int((rows.key[:, 0] == key).sum()) for key in keys], np.zeros(len(keys), int))
    content = folder / f"content-{name}"
    (folder / f"work-{name}").mkdir()
    settings = RecordSettings(codec_of(name, rows), seed=1, shard=8)
    record(Kept(rows), {"train": examples}, folder / f"work-{name}", content, settings=settings)
    teacher = RecordedTeacher(content, "")
    teacher.answer(examples)  # every shard is checked once
    random = np.random.Generator(np.random.PCG64(0))
    batches = [examples.take(random.choice(len(examples), EXAMPLES_PER_BATCH)) for _ in range(64)]
    count, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < READ_SECONDS:
        count += len(teacher.answer(batches[count % len(batches)]))
    rate = count / (time.perf_counter() - begin)
    size = sum(path.stat().st_size for path in content.iterdir())
    return {"read_per_second": rate, "disk_bytes": size / len(rows)}


PARTS = {"judge": judge, "read": read}


def alone(folder: Path, part: str, name: str, tokens: int) -> dict[str, Any]:
    """Run one part in a process of its own."""
    command = [sys.executable, __file__, "--part", part, "--name", name, "--folder", str(folder)]
    done = subprocess.run([*command, "--tokens", str(tokens)], stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def show(results: Mapping[str, Mapping[str, Any]]) -> None:
    """Print the table."""
    print(f"{'codec':12}{'T':>3}{'bytes a row':>13}{'KL':>11}{'gradient':>20}{'bias z':>9}{'bias %':>17}{'rows/s':>9}")
    for name, result in results.items():
        for temperature, own in result["by_temperature"].items():
            kl = f"{own['kl']:.2e}" if "kl" in own else "-"
            gradient = f"{own['gradient_error']:.4f} / {own.get('student_gradient_error', float('nan')):.4f}"
            z, percent = "-", "-"
            if "bias_percent" in own:
                z = f"{own['bias_z']:+.2f}"
                percent = f"{own['bias_percent']:+.3f} ± {own['bias_percent_error']:.3f}"
            rate = f"{result['encoded_per_second']:.0f}"
            line = f"{name:12}{temperature:>3}{result['bytes']:13.1f}{kl:>11}{gradient:>20}{z:>9}{percent:>17}{rate:>9}"
            print(line, flush=True)


def figures(results: Mapping[str, Mapping[str, Any]], reads: Mapping[str, Any], speed: float) -> dict[str, Any]:
    """Return the figures that the record promises."""
    sampled = results["sampled"]["by_temperature"]
    found: dict[str, Any] = {
        "topk_bytes": round(results["topk"]["bytes"], 2),
        "sampled_bytes": round(results["sampled"]["bytes"] / len(TEMPERATURES), 2),
        "sampled_bias_z": round(max((own["bias_z"] for own in sampled.values()), key=abs), 3),
        "read_over_forward": round(min(one["read_per_second"] for one in map(reads.get, ("topk", "sampled"))) / speed),
        "forward_tokens_per_second": round(speed, 1),
    }
    for name, one in reads.items():
        found[f"{name}_read"] = {key: round(value, 2) for key, value in one.items()}
    for name, result in results.items():
        own = {f"{key}_at_{t}": value for t, part in result["by_temperature"].items() for key, value in part.items()}
        rest = {key: result[key] for key in ("bytes", "encoded_per_second", "peak_rss_gb")}
        found[name] = {key: float(f"{value:.4g}") for key, value in {**rest, **own}.items()}
    return found


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=TOKENS, help="rows, at least")
    parser.add_argument("--part", choices=("forward", *PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--name", default="", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        whole = given.part == "forward"
        found = forward(given.folder, given.tokens) if whole else PARTS[given.part](given.folder, given.name)
        print(json.dumps(found))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        said = alone(folder, "forward", "", given.tokens)
        print(f"{said['tokens']} tokens, forward {said['tokens_per_second']:.0f} tokens/s", flush=True)
        results = {name: alone(folder, "judge", name, given.tokens) for name in CONTENDERS}
        show(results)
        reads = {name: alone(folder, "read", name, given.tokens) for name in READ}
    for name, one in reads.items():
        print(f"{name:12} read {one['read_per_second']:12,.0f} rows/s, {one['disk_bytes']:8.1f} bytes a row on disk")
    found = figures(results, reads, said["tokens_per_second"])
    if given.tokens < TOKENS:
        print(json.dumps(found))
        return
    conditions = {
        "rows": said["tokens"],
        "draws": DRAWS,
        "temperatures": list(TEMPERATURES),
        "forward": "bfloat16, hidden states alone, batches of 1,536 padded tokens, best of 3",
        "read": f"random batches of {EXAMPLES_PER_BATCH} reviews, three temperatures",
        "sampled_bytes": "for one temperature; topk_bytes: all three",
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 2),
    }
    write_result("record", found, [0], conditions, "python benchmarks/record.py")


if __name__ == "__main__":
    main()
