"""Quantize a small language model's weights: RTN, GPTQ and AWQ beside llama.cpp and torchao, then decode.

    python benchmarks/compress_lm.py --llama BIN --llama-python PY --torchao PY --verses /usr/share/sword
                                                           about 3 hours on two cores
    python benchmarks/compress_lm.py --quick               a try of every part; writes no result

BIN is a folder with llama.cpp's llama-quantize; each PY is the Python of an environment of its own, with
llama-cpp-python and with torchao and transformers. What is not given is left out.

Perplexity is that of the rest of held-out clothing reviews, and of verses, after their first words; always the same
torch code on float32 weights: what a peer stored is read back first (GGUF by gguf and transformers; torchao's layers
give their own weights for a unit matrix). Bytes are those of codes, scales and zero points and of what stays in float.

- Two models. `released`: SmolLM2-135M-Instruct as it comes. Its file holds Q4_1 blocks, so Q4_1 loses nothing and
  other 4-bit grids lose more than usual: shown, not judged by. `tuned`: the same after --tune steps on reviews, whose
  weights lie on no grid; the main figures are of it.
- distilled: a 4-bit result of `weights`, then --steps steps of quantization-aware distillation from the record of
  what the float model said of training reviews. Its grids are llama.cpp's, so its bytes are a peer's to the byte.
- best_peer_ratio: perplexity of the distilled model over that of the best peer of at most as many bytes; 1 or less is
  as good.
- decode_speedup: milliseconds a token in ONNX Runtime, float32 over 4 bits, bundles taking turns.

A killed run goes on: every part lies in --work.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from compress_data import (
    BATCH,
    WRITES,
    Work,
    base_parser,
    finish,
    language,
    lesson,
    peer,
    perplexity,
    recorded,
    reviews,
    tuned,
    verses,
)
from prompt_tasks import model_folder

METHODS = ("rtn", "gptq", "awq")
GRIDS = {f"{method}_{bits}": {"method": method, "bits": bits} for bits in (8, 4, 3) for method in METHODS}
GRIDS |= {
    f"{method}_{form}": {"method": method, "bits": 4, "format": form, **({"symmetric": True} if form == "q4_0" else {})}
    for form in ("q4_0", "q4_1")
    for method in ("gptq", "awq")
}
RELEASED = ("rtn_4", "gptq_4", "awq_4", "gptq_q4_0", "gptq_q4_1")
"""Formats that the model as it comes is shown in, too."""
DISTILLED = ("gptq_q4_0", "awq_q4_0", "gptq_q4_1")
QUICK = ("rtn_4",)
"""Formats of a quick look; of the distilled ones it makes the first."""
DECODED = "gptq_4"
LLAMA = ("Q8_0", "Q4_0", "Q4_1")
TORCHAO = (8, 4)
PARAMETERS = 134515008
PER_ROUND, ROUNDS = 32, 9
"""Tokens that llama.cpp writes in a timed round, and rounds."""


class Bench:
    """Hold texts and models, and do the parts.

    Args:
        given: the command's arguments.
        work: keeps the parts.
    """

    def __init__(self, given: argparse.Namespace, work: Work) -> None:
        self.given, self.work = given, work
        self.data = reviews((given.train, given.validation, given.test), given.seed)
        self.texts = {"ppl": self.data["test"]}
        if given.verses is not None:
            self.texts["ppl_verses"] = verses(given.verses, given.test, given.seed)
        steps = given.tune
        self.models = {"released": self.released, "tuned": lambda: tuned(work, self.data, steps, given.seed)}

    def released(self) -> Path:
        """Return the folder of the model as it comes, with what it must know to continue texts."""
        from attar.students import folder as students

        folder = self.work.folder / "released"
        if not (folder / students.CARD).is_file():
            students.save(language(model_folder(self.work.root)), folder)
        return folder

    def judged(self, model: Any) -> dict[str, float]:
        """Return a model's perplexities."""
        return {name: round(perplexity(model, texts), 4) for name, texts in self.texts.items()}

    def part(self, name: str, make: Callable[[], Mapping[str, float]]) -> dict[str, float]:
        """Return a format's bits, bytes and perplexities."""

        def row() -> dict[str, float]:
            """Add the bits of a parameter."""
            made = dict(make())
            return {"bits": round(8 * made["bytes"] / PARAMETERS, 4), **made}

        found: dict[str, float] = self.work.once(name, row)
        return found

    def plain(self, source: Path) -> dict[str, float]:
        """Return the figures of the model in float32."""
        return {"bytes": 4 * PARAMETERS, **self.judged(language(source))}

    def own(self, source: Path, settings: Mapping[str, Any]) -> dict[str, float]:
        """Return the figures of attar's step `weights`."""
        from attar.compressors.quantize.weights import Weights
        from attar.core.compressing import Calibration
        from attar.tasks.text_generation import TextGeneration

        how = Weights.Settings(**settings, examples=self.given.examples)
        calibration = Calibration(TextGeneration(), self.data["train"], [], self.given.seed)
        model, plan = Weights(how).apply(language(source), calibration)
        return {"bytes": plan.after["bytes"], **self.judged(model)}

    def distilled(self, source: Path, name: str) -> Path:
        """Return the folder of a quantized model that was trained with its weights rounded."""
        from attar.stages.compress import Bench as StepBench
        from attar.stages.compress import compress
        from attar.stages.schedule import TrainSettings

        work, content = self.work.place(f"distilled-{name}")

        def make() -> dict[str, Any]:
            """Apply the step and let it recover."""
            said = recorded(self.work, "record", source, self.data, self.given.seed)
            terms: list[tuple[float, str, Mapping[str, Any]]] = [(1.0, "forward_kl", {"temperature": 1.0})]
            taught = lesson(self.data["train"], self.data["validation"], terms, said)
            bench = StepBench(source, taught, [], self.given.seed, work, content)
            rate = self.given.rate
            how = TrainSettings(steps=self.given.steps, batch_size=BATCH, learning_rate=rate, validations=4)
            step = ("weights", {**GRIDS[name], "examples": self.given.examples})
            return compress(bench, step, how, f"distilling {name}", "cpu")

        self.work.once(f"distilled-{name}-card", make)
        return content

    def read_back(self, source: Path, name: str) -> dict[str, float]:
        """Return the figures of a model in a distilled format."""
        from attar.students import folder as students

        folder = self.distilled(source, name)
        card = json.loads((self.work.folder / f"distilled-{name}-card.json").read_text(encoding="utf-8"))
        return {"bytes": card["plans"][0]["after"]["bytes"], **self.judged(students.load(folder))}

    def gguf(self, name: str, model: Any, precision: str = "float32") -> Path:
        """Write a model as a GGUF file, once."""
        from attar.exporters.gguf import FILE, GgufExporter

        folder = self.work.folder / f"gguf-{name}"
        if not (folder / FILE).is_file():
            folder.mkdir(exist_ok=True)
            GgufExporter().export(model, folder, precision)
        return folder / FILE

    def by_llama(self, name: str, source: Path, kind: str) -> dict[str, float]:
        """Return the figures of a file that llama-quantize wrote, read back."""
        import gguf

        from attar.sources.weights import as_folder
        from attar.store.files import remove

        whole, folder = self.gguf(name, language(source)), self.work.folder / "llama"
        target = folder / f"{name}.{kind}.gguf"
        folder.mkdir(exist_ok=True)
        program = str(self.given.llama / "llama-quantize")
        subprocess.run(
            [program, str(whole), str(target), kind], check=True, stdout=sys.stderr, stderr=subprocess.DEVNULL
        )
        size = sum(int(tensor.n_bytes) for tensor in gguf.GGUFReader(target).tensors)
        back = folder / f"{name}.{kind}"
        remove(back)
        as_folder(target, back, "float32")
        found = {"bytes": size, **self.judged(language(back))}
        remove(back)
        return found

    def by_torchao(self, source: Path, bits: int) -> dict[str, float]:
        """Return the figures of torchao's weight-only quantization, read back."""
        from attar.store.files import remove

        back = self.work.folder / "torchao"
        remove(back)
        size = peer(self.given.torchao, "torchao", source, back, bits)["bytes"]
        for path in source.glob("tokenizer*"):
            (back / path.name).write_bytes(path.read_bytes())
        found = {"bytes": size, **self.judged(language(back))}
        remove(back)
        return found

    def formats(self, name: str) -> dict[str, dict[str, float]]:
        """Return format -> figures of one of the two models."""
        given, source = self.given, self.models[name]()
        found = {"float32": self.part(f"{name}-float32", lambda: self.plain(source))}
        tried = tuple(GRIDS) if name == "tuned" else RELEASED
        for kind in QUICK if given.quick else tried:
            settings = GRIDS[kind]
            found[kind] = self.part(f"{name}-{kind}", partial(self.own, source, settings))
        for kind in LLAMA if given.llama else ():
            found[f"llama_{kind}"] = self.part(f"{name}-{kind}", partial(self.by_llama, name, source, kind))
        for bits in TORCHAO if given.torchao and name == "tuned" else ():
            found[f"torchao_{bits}"] = self.part(f"torchao-{bits}", partial(self.by_torchao, source, bits))
        for kind in (DISTILLED[:1] if given.quick else DISTILLED) if name == "tuned" else ():
            found[f"distilled_{kind}"] = self.part(f"distilled-{kind}-row", partial(self.read_back, source, kind))
        return found

    def decode(self) -> dict[str, float]:
        """Return milliseconds a token in the exported runtimes."""
        return self.work.once("decode", lambda: self.in_onnx() | self.in_llama())  # type: ignore[no-any-return]

    def in_onnx(self) -> dict[str, float]:
        """Return milliseconds a token in ONNX Runtime, float32 and 4 bits, bundles taking turns."""
        from attar.compressors.quantize.weights import Weights
        from attar.core.compressing import Calibration
        from attar.core.examples import DataSet
        from attar.stages.export_writer import export_writer
        from attar.stages.measure import Contender, measure_files
        from attar.students import folder as students
        from attar.tasks.text_generation import TextGeneration

        source, whole = self.models["tuned"](), self.data
        data = DataSet(
            (), whole["train"], whole["validation"], whole["test"], frozenset(("train", "validation", "test"))
        )
        small = self.work.folder / "small"
        if not (small / students.CARD).is_file():
            how = Weights.Settings(**{**GRIDS[DECODED], "method": "rtn"})
            calibration = Calibration(TextGeneration(), self.data["train"], [])
            students.save(Weights(how).apply(language(source), calibration)[0], small)
        folders = {"onnx_float32_ms": source, "onnx_4bit_ms": small}
        for name, folder in folders.items():
            scratch, bundle = self.work.place(f"bundle-{name}")
            if not (bundle / "bundle.json").is_file():
                export_writer(folder, WRITES, (), data, (scratch, bundle))
        contenders = [Contender(name, "writing_bundle", self.work.folder / f"bundle-{name}") for name in folders]
        timed = measure_files(contenders, WRITES, whole["test"], self.given.timed, 2, self.given.seed)
        found = {name: timed[name]["token_ms"]["p50"] for name in folders}
        return {**found, **{f"{name}_prefill": timed[name]["prefill_ms"]["p50"] for name in folders}}

    def in_llama(self) -> dict[str, float]:
        """Return milliseconds a token in llama.cpp, of the files that attar wrote; nothing where it is not given."""
        if self.given.llama_python is None:
            return {}
        from attar.students import folder as students
        from attar.tasks.text_generation import prompt_tokens

        source = self.models["tuned"]()
        model, four = language(source), students.load(self.distilled(source, DISTILLED[0]))
        ids = ",".join(map(str, prompt_tokens(model, str(self.data["test"].inputs[0]))))
        names = {"gguf_float32_ms": str(self.gguf("tuned", model)), "gguf_q4_0_ms": str(self.gguf("four", four))}
        rounds = 2 if self.given.quick else ROUNDS
        said = peer(self.given.llama_python, "decode", ",".join(names.values()), ids, PER_ROUND, rounds)
        return {name: round(said[path], 3) for name, path in names.items()}


def against_peers(found: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return each distilled model's perplexity over that of the best peer of at most as many bytes; and the best."""
    peers = [row for name, row in found.items() if name.startswith(("llama_", "torchao_"))]
    ratios = {}
    for name in [name for name in DISTILLED if f"distilled_{name}" in found]:
        own = found[f"distilled_{name}"]
        best = min((row["ppl"] for row in peers if row["bytes"] <= 1.001 * own["bytes"]), default=None)
        if best is not None:
            ratios[f"{name}_over_best_peer"] = round(own["ppl"] / best, 4)
    return {**ratios, **({"best_peer_ratio": min(ratios.values())} if ratios else {})}


def table(name: str, found: Mapping[str, Mapping[str, float]]) -> None:
    """Print a model's formats for people."""
    print(f"\n{name:<22}{'bits':>7}{'MB':>9}{'reviews':>10}{'verses':>10}")
    for kind, row in found.items():
        verses_of = f"{row['ppl_verses']:>10.3f}" if "ppl_verses" in row else ""
        print(f"{kind:<22}{row['bits']:>7.3f}{row['bytes'] / 1e6:>9.2f}{row['ppl']:>10.3f}{verses_of}")


def arguments() -> argparse.Namespace:
    """Return the command's arguments."""
    parser = base_parser(__doc__, "compress-lm")
    parser.add_argument("--llama", type=Path, help="folder with llama.cpp's llama-quantize")
    parser.add_argument("--llama-python", type=Path, help="a Python with llama-cpp-python")
    parser.add_argument("--torchao", type=Path, help="a Python with torchao and transformers")
    parser.add_argument("--verses", type=Path, help="SWORD's folder (mods.d, modules); needs pysword")
    parser.add_argument("--train", type=int, default=6000, help="reviews to train and calibrate on")
    parser.add_argument("--validation", type=int, default=64)
    parser.add_argument("--test", type=int, default=300, help="reviews, and verses, that are judged")
    parser.add_argument("--examples", type=int, default=128, help="reviews that gptq and awq read")
    parser.add_argument("--tune", type=int, default=100, help="steps that move the weights off their grid")
    parser.add_argument("--steps", type=int, default=150, help="of quantization-aware distillation")
    parser.add_argument("--rate", type=float, default=5e-5, help="learning rate of the distillation")
    parser.add_argument("--timed", type=int, default=30, help="texts that are written to time tokens")
    given = parser.parse_args()
    if given.quick:
        given.train, given.validation, given.test, given.examples = 24, 4, 4, 4
        given.tune, given.steps, given.timed = 1, 1, 2
    return given


def main() -> None:
    """Run the benchmark."""
    given = arguments()
    work = Work(given, "compress_lm", ("llama", "llama_python", "torchao", "timed"))
    bench = Bench(given, work)
    names = ("tuned",) if given.quick else ("tuned", "released")
    found = {name: bench.formats(name) for name in names}
    speed = bench.decode()
    for name, rows in found.items():
        table(name, rows)
    print(f"\ndecode, ms a token: {speed}")
    figures: dict[str, Any] = {
        "decode_speedup": round(speed["onnx_float32_ms"] / speed["onnx_4bit_ms"], 3),
        **against_peers(found["tuned"]),
        "decode": speed,
        **found["tuned"],
        **{f"released_{kind}": row for kind, row in found.get("released", {}).items()},
    }
    if "gguf_q4_0_ms" in speed:
        figures["decode_speedup_gguf"] = round(speed["gguf_float32_ms"] / speed["gguf_q4_0_ms"], 3)
    conditions = {
        "model": f"SmolLM2-135M-Instruct after {given.tune} steps of {BATCH} reviews; released_: as it comes, from a "
        "file of Q4_1 blocks, so Q4_1 is lossless for it and proves nothing",
        "ppl": f"of the rest of {len(bench.texts['ppl'])} held-out reviews after their first words; float32",
        "ppl_verses": "the same of verses of the World English Bible, which nothing was trained or calibrated on",
        "formats": "METHOD_BITS: groups of 32 with a float32 scale and a zero point, embeddings in 8 bits; q4_0, q4_1: "
        "llama.cpp's blocks, embeddings q8_0; torchao: linear layers alone, the rest counted in bfloat16",
        "calibration": f"{given.examples} training reviews",
        "distilled": f"{given.steps} steps of {BATCH} at {given.rate:g}, forward KL to the float model's record",
        "decode": f"tokens of reviews' continuations, single, after about 15 tokens; onnx_4bit: {DECODED} by rtn",
        "llama.cpp": "llama-quantize's defaults on the float32 file that attar exports",
    }
    finish(work, figures, given, conditions)


if __name__ == "__main__":
    main()
