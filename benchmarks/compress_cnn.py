"""Halve a ResNet's multiplications and store it in int8, beside torch-pruning's and ONNX Runtime's own ways.

    python benchmarks/compress_cnn.py                  about 40 minutes on two cores
    python benchmarks/compress_cnn.py --quick          a try of every part; writes no result

A ResNet-18 (timm's, one input channel) learns Fashion-MNIST from gold labels. attar's step `channels` takes half of
its multiplications and the network recovers from the record of what it said before; then attar's static_int8.

- peer: torch-pruning's own pruner, to the same share of the multiplications, then plain fine-tuning on gold labels for
  the same epochs at the same rate, by the same loop.
- peer_int8: onnxruntime's quantize_static with its defaults, on the same calibration images.

Times are of single images in ONNX Runtime, in processes of their own, taking turns. A killed run goes on: every part
lies in --work. The images are IDX files in the folder --fashion (Debian: dataset-fashion-mnist).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from compress_data import Work, base_parser, finish, other_graph

KIND = "image-classification"
FASHION = Path("/usr/share/datasets/fashion-mnist")
NETWORK = "timm:resnet18"
TRAIN: dict[str, Any] = {"batch_size": 128, "learning_rate": 0.002, "validations": 4}
RECOVER: dict[str, Any] = {**TRAIN, "learning_rate": 0.0007}
RECORD = [(0.7, "forward_kl", {"temperature": 2.0}), (0.3, "cross_entropy", {})]
CALIBRATED = 128
"""Training images that scales are found on."""
PIXELS = (28, 32, 40, 56)
"""Sides of images that int8 is timed at besides."""
TRIES = 20
"""Ratios that are tried so that torch-pruning removes as many multiplications."""


def read(given: argparse.Namespace, pixels: int, few: bool) -> Any:
    """Return the data set, or a small part of it, with images of so many pixels a side."""
    from attar.settings import cache_folder
    from attar.sources import data
    from attar.sources.data_settings import DataSettings

    sizes: dict[str, Any] = {"train": 256, "validation": 64, "test": 64} if few else {"validation": 3000}
    settings = DataSettings(source=str(given.fashion), format="idx", image_size=pixels, **sizes)
    return data.read(settings, Path.cwd(), cache_folder(), given.seed)


class Bench:
    """Hold the data and do the parts.

    Args:
        given: the command's arguments.
        work: keeps the parts.
    """

    def __init__(self, given: argparse.Namespace, work: Work) -> None:
        self.given, self.work, self.data = given, work, read(given, given.pixels, given.quick)

    def settings(self, base: Mapping[str, Any], epochs: float) -> Any:
        """Return how a network is trained."""
        from attar.stages.schedule import TrainSettings

        if self.given.quick:
            return TrainSettings.model_validate({**base, "steps": 2, "batch_size": 32, "validations": 1})
        return TrainSettings.model_validate({**base, "epochs": epochs})

    def lesson(self, terms: Any, teacher: Any = None) -> Any:
        """Return what a network is taught."""
        from attar.stages.assets import objective_of
        from attar.stages.lesson import Lesson
        from attar.tasks.image_classification import ImageClassification

        train, validation = self.data.train, self.data.validation
        return Lesson(ImageClassification(), train, validation, objective_of(terms), teacher)

    @property
    def gold(self) -> Any:
        """Return the lesson on gold labels alone."""
        return self.lesson([(1.0, "cross_entropy", {})])

    def trained(self) -> Path:
        """Return the folder of the whole network."""
        from attar.stages.distill import Origin, train_model
        from attar.students.settings import ModelSettings

        places = self.work.place("whole")
        shape = [int(size) for size in self.data.train.inputs.shape[1:]]
        origin = Origin(ModelSettings(model=NETWORK, pretrained=False), None, self.data.labels, shape)
        how = self.settings(TRAIN, self.given.epochs)

        def make() -> dict[str, Any]:
            card = train_model(origin, self.gold, how, self.given.seed, places, "the whole network", "cpu")
            return {"seconds": card["history"][-1].get("seconds", 0.0)}

        self.work.once("whole", make)
        return places[1]

    def recorded(self, whole: Path) -> Any:
        """Return the record of what the whole network says."""
        from attar.stages.record import record
        from attar.students import folder as students
        from attar.tasks.image_classification import ImageClassification
        from attar.teachers.classifier import ClassifierTeacher
        from attar.teachers.recorded import RecordedTeacher

        places = self.work.place("record")

        def make() -> int:
            live = ClassifierTeacher(students.load(whole), ImageClassification(), "")
            splits = {"train": self.data.train, "validation": self.data.validation}
            return int(record(live, splits, *places)["rows"])

        self.work.once("record", make)
        return RecordedTeacher(places[1], "whole")

    def pruned(self, whole: Path) -> tuple[Path, dict[str, Any]]:
        """Return the folder of the network without half of its multiplications, recovered, and what was done."""
        from attar.stages.compress import Bench as StepBench
        from attar.stages.compress import compress

        places = self.work.place("pruned")
        how = self.settings(RECOVER, self.given.recover)

        def make() -> dict[str, Any]:
            taught = self.lesson(RECORD, self.recorded(whole))
            bench = StepBench(whole, taught, list(self.data.train.inputs), self.given.seed, *places)
            step = ("channels", {"macs": 0.5, "importance": self.given.importance})
            return compress(bench, step, how, "recovering", "cpu")

        card: dict[str, Any] = self.work.once("pruned", make)
        return places[1], card

    def peer(self, whole: Path, share: float) -> tuple[Path, float]:
        """Return the folder of what torch-pruning leaves, fine-tuned plainly, and its share of the multiplications."""
        from attar.stages.distill import train_model
        from attar.stages.recover import Restart
        from attar.students import folder as students

        places = self.work.place("peer")
        how = self.settings(RECOVER, self.given.recover)

        def make() -> float:
            model, left = by_torch_pruning(students.load(whole), share)
            students.save(model, places[0] / "cut")
            start = Restart(places[0] / "cut")
            train_model(start, self.gold, how, self.given.seed, places, "the peer", "cpu")
            return left

        return places[1], float(self.work.once("peer", make))

    def bundles(self, whole: Path, pruned: Path, peer: Path) -> dict[str, Path]:
        """Write the bundles that are compared."""
        from attar.stages.export import export

        scratch = self.work.folder / "export"
        scratch.mkdir(exist_ok=True)
        int8 = [("static_int8", {"examples": CALIBRATED})]
        wanted: dict[str, tuple[Path, list[Any]]] = {
            "whole": (whole, []),
            "pruned": (pruned, []),
            "pruned_int8": (pruned, int8),
            "whole_int8": (whole, int8),
            "peer": (peer, []),
        }
        made = {name: self.work.folder / f"bundle-{name}" for name in wanted}
        for name, (model, steps) in wanted.items():
            if not (made[name] / "bundle.json").is_file():
                export(model, KIND, steps, self.data, (scratch, made[name]))
        plain = self.work.folder / "plain.onnx"
        by_onnxruntime(made["pruned"], self.data.train.inputs[:CALIBRATED], plain)
        made["peer_int8"] = other_graph(made["pruned"], plain, self.work.folder / "bundle-peer_int8")
        return made

    def measured(self, bundles: Mapping[str, Path]) -> dict[str, dict[str, float]]:
        """Return accuracy, p50 and bytes of each bundle."""
        from attar.stages.measure import Contender, measure_files
        from attar.store.files import folder_bytes

        test = self.data.test
        contenders = [Contender(name, "bundle", folder) for name, folder in bundles.items()]
        timed = measure_files(contenders, KIND, test, self.given.rounds, 10, self.given.seed)
        return {
            name: {
                "accuracy": float((timed[name]["scores"].argmax(axis=1) == test.labels).mean()),
                "p50_ms": timed[name]["latency_ms"]["p50"],
                "bytes": folder_bytes(folder),
            }
            for name, folder in bundles.items()
        }


def by_pixels(given: argparse.Namespace, work: Work) -> dict[str, float]:
    """Return the speed-up of int8 on images of several sizes, of the untrained network: times depend on no weight."""
    from attar.stages.export import export
    from attar.stages.measure import Contender, measure_files
    from attar.students import folder as students
    from attar.students.settings import ModelSettings

    found = {}
    for pixels in PIXELS[:1] if given.quick else PIXELS:
        data = read(given, pixels, few=True)
        settings = ModelSettings(model=NETWORK, pretrained=False)
        folder = work.place(f"pixels-{pixels}")[0]
        students.save(students.make(settings, None, data.labels, (1, pixels, pixels)), folder / "model")
        for name, steps in (("float32", ()), ("int8", (("static_int8", {"examples": 16}),))):
            export(folder / "model", KIND, steps, data, (folder, folder / name))
        contenders = [Contender(name, "bundle", folder / name) for name in ("float32", "int8")]
        timed = measure_files(contenders, KIND, data.test, given.rounds, 10, given.seed)
        own = {name: timed[name]["latency_ms"]["p50"] for name in timed}
        found[str(pixels)] = round(own["float32"] / own["int8"], 3)
    return found


def by_torch_pruning(model: Any, share: float) -> tuple[Any, float]:
    """Return a model pruned by torch-pruning alone, as its documentation does, and its share of the multiplications.

    Args:
        model: of `timm`.
        share: of the multiplications that shall be left.
    """
    import copy

    import torch
    import torch_pruning

    from attar.compressors.prune.channels import count_macs, last_layer
    from attar.core.widths import FACT

    pixels = torch.zeros((2, *model.facts["shape"]))
    whole = count_macs(model.module, pixels)

    def cut(ratio: float) -> Any:
        copied = copy.deepcopy(model.module).eval()
        how = {"importance": torch_pruning.importance.GroupMagnitudeImportance(p=2), "pruning_ratio": ratio}
        torch_pruning.pruner.BasePruner(copied, pixels, ignored_layers=[last_layer(copied)], **how).step()
        return copied

    low, high, best = 0.0, 0.95, (2.0, model.module)
    for _ in range(TRIES):
        middle = (low + high) / 2
        made = cut(middle)
        left = count_macs(made, pixels) / whole
        best = min(best, (abs(left - share), made), key=lambda pair: pair[0])
        low, high = (middle, high) if left > share else (low, middle)
    made = best[1].train()
    left = count_macs(made.eval(), pixels) / whole
    return replace(model, module=made, facts={**model.facts, FACT: True}), left


def by_onnxruntime(bundle: Path, images: np.ndarray, target: Path) -> None:
    """Quantize a bundle's graph by onnxruntime's quantize_static with its defaults."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    from attar.exporters.bundle import Bundle

    opened = Bundle(bundle, threads=1)
    feeds = iter([opened.feed(image) for image in images])

    class Reader(CalibrationDataReader):
        """Give the images one by one."""

        def get_next(self) -> Any:
            """Return the next feed; None at the end."""
            return next(feeds, None)

    quantize_static(str(bundle / "model.onnx"), str(target), Reader())


def figures_of(found: Mapping[str, Mapping[str, float]], card: Mapping[str, Any], left: float) -> dict[str, Any]:
    """Return the benchmark's figures."""
    plan = card["plans"][0]

    def lost(name: str, less: str = "whole") -> float:
        """Return the points that one bundle is below another."""
        return round(100 * (found[less]["accuracy"] - found[name]["accuracy"]), 3)

    def faster(name: str, than: str) -> float:
        """Return how many times faster one bundle is than another."""
        return round(found[than]["p50_ms"] / found[name]["p50_ms"], 3)

    return {
        "accuracy": round(found["whole"]["accuracy"], 5),
        "macs_ratio": round(plan["after"]["macs"] / plan["before"]["macs"], 4),
        "loss_points": lost("pruned"),
        "int8_speedup": faster("pruned_int8", "pruned"),
        "int8_loss_points": lost("pruned_int8", "pruned"),
        "whole_int8_speedup": faster("whole_int8", "whole"),
        "whole_int8_loss_points": lost("whole_int8"),
        "chain_speedup": faster("pruned_int8", "whole"),
        "chain_loss_points": lost("pruned_int8"),
        "peer_macs_ratio": round(left, 4),
        "peer_loss_points": lost("peer"),
        "peer_int8_speedup": faster("peer_int8", "pruned"),
        "peer_int8_loss_points": lost("peer_int8", "pruned"),
        **{name: dict(row) for name, row in found.items()},
    }


def main() -> None:
    """Run the benchmark."""
    parser = base_parser(__doc__, "compress-cnn")
    parser.add_argument("--fashion", type=Path, default=FASHION, help="folder of Fashion-MNIST's IDX files")
    parser.add_argument("--pixels", type=int, default=40, help="sides that images are resized to")
    parser.add_argument("--epochs", type=float, default=6, help="of the whole network")
    parser.add_argument("--recover", type=float, default=3, help="epochs after pruning: attar's and the peer's")
    parser.add_argument("--importance", choices=("magnitude", "taylor"), default="taylor", help="of attar's channels")
    parser.add_argument("--rounds", type=int, default=300, help="of the timed answers")
    given = parser.parse_args()
    if given.quick:
        given.rounds = 10
    work = Work(given, "compress_cnn")
    bench = Bench(given, work)
    whole = bench.trained()
    pruned, card = bench.pruned(whole)
    plan = card["plans"][0]
    peer, left = bench.peer(whole, plan["after"]["macs"] / plan["before"]["macs"])
    found = work.once("measured", lambda: bench.measured(bench.bundles(whole, pruned, peer)))
    sizes = work.once("pixels", lambda: by_pixels(given, work))
    figures = {**figures_of(found, card, left), "int8_speedup_by_pixels": sizes}
    print(f"{'bundle':<14}{'accuracy':>10}{'p50 ms':>9}{'MB':>8}")
    for name, row in found.items():
        print(f"{name:<14}{row['accuracy']:>10.4f}{row['p50_ms']:>9.3f}{row['bytes'] / 1e6:>8.2f}")
    conditions = {
        "network": f"{NETWORK}, 1 x {given.pixels} x {given.pixels}, {given.epochs:g} epochs on gold labels",
        "recovery": f"{given.recover:g} epochs: attar from record (0.7) and gold (0.3), peer from gold",
        "importance": f"attar: {given.importance}, uniform over layers; peer: torch-pruning's group magnitude",
        "macs_ratio": "multiplications left, by torch's counter; the peer's ratio was searched for by bisection",
        "int8_speedup": "of the pruned network over the same network in float32, single images, taking turns",
        "peer_int8": f"quantize_static's defaults on {CALIBRATED} images, of attar's pruned network",
        "int8_speedup_by_pixels": "of the untrained whole network; it depends much on the size: float32 is "
        "several times slower at 36 or 40 pixels than at 32, int8 is not",
        "test images": len(bench.data.test),
    }
    finish(work, figures, given, conditions)


if __name__ == "__main__":
    main()
