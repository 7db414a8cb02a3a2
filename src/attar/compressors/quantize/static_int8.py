"""Quantize weights and activations to int8 with scales found beforehand on calibration examples: right for CNNs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from attar.compressors.quantize.graph import Layer, layers, read_float, workplace
from attar.compressors.quantize.int8 import Int8Settings, decide
from attar.compressors.quantize.quiet import quiet_quantizer
from attar.compressors.quantize.sensitive import Feed, Judged
from attar.core.compressing import GraphCalibration
from attar.core.nouns import Plan
from attar.errors import AttarError

OPERATORS = frozenset({"Conv", "MatMul", "Gemm"})


AT_ONCE = 16
"""Examples whose activations are held in memory together."""


class StaticInt8:
    """Put quantize–dequantize pairs around every operator (QDQ); the runtime fuses them into int8 kernels.

    Activations are unsigned and weights signed, as VNNI multiplies them. A single example is enough to calibrate on:
    it gives every range, and what lies outside of it later is cut off.

    Args:
        settings: see `StaticInt8.Settings`.
    """

    at: ClassVar[Literal["model", "export"]] = "export"
    tasks: ClassVar[frozenset[str]] = frozenset({"image-classification", "text-classification"})
    precision: ClassVar[str] = "int8"

    class Settings(Int8Settings):
        """Set how scales are found, and what stays in float."""

        examples: int = Field(128, ge=1, description="training examples to calibrate on")
        method: Literal["minmax", "entropy", "percentile"] = Field(
            "minmax", description="how a range is chosen from what is seen"
        )
        keep: list[str] | Literal["auto", "last", "first_last"] = Field(
            "last",
            description="layers that stay in float32, by name, part of a name or pattern with *; last is the last "
            "layer, which costs no time; first_last also the first, which does; auto finds the few that must, by "
            "`floor`",
        )

    def __init__(self, settings: StaticInt8.Settings) -> None:
        self.settings = settings

    def apply(self, source: Path, target: Path, calibration: GraphCalibration) -> Plan:
        """Read the ONNX graph ``source`` and write ``target``.

        Args:
            source: float32 graph.
            target: the file to write; it is there when it is whole.
            calibration: its first feeds are calibrated on; ``keep: auto`` judges by it.

        Raises:
            AttarError: there is no example, or one that is no number; the graph has nothing to quantize, or weights
                that are no numbers; it is quantized already; ``keep`` names what it does not have, or no layer holds
                the floor.
        """
        from onnxruntime.quantization.shape_inference import quant_pre_process

        feeds = _checked(calibration, self.settings.examples)
        layers(read_float(source, "static_int8"), OPERATORS, "static_int8")
        with workplace(target) as work:
            folded = work / "float32.onnx"
            with quiet_quantizer():  # folds batch norms into convolutions
                quant_pre_process(str(source), str(folded), skip_symbolic_shape=True)
            found = layers(read_float(folded, "static_int8"), OPERATORS, "static_int8")
            ranges = self._ranges(folded, found, feeds)

            def build(keep: frozenset[str]) -> Path:
                """Write the graph in which some operators stay in float."""
                return self._build(folded, found, ranges, keep)

            judged = partial(Judged, folded, calibration, "static_int8")
            kept = decide(self._keep(found), self.settings.floor, found, build, judged)
            build(kept.keep).replace(target)
        facts = [{"bytes": path.stat().st_size} for path in (source, target)]
        seen = f"calibrated ({self.settings.method}) on {len(feeds)} training example{'s' * (len(feeds) > 1)}"
        return Plan("static_int8", facts[0], facts[1], (seen, *kept.notes, *self.settings.notes()))

    def _keep(self, found: Sequence[Layer]) -> Sequence[str] | Literal["auto"]:
        ends = {"last": found[1:][-1:], "first_last": [found[0], found[-1]]}
        return [layer.node for layer in ends.get(str(self.settings.keep), ())] or self.settings.keep

    def _ranges(self, folded: Path, found: Sequence[Layer], feeds: Sequence[Feed]) -> Any:
        """Return the range of every activation: found once, however many graphs are then tried."""
        from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator

        methods = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}
        with quiet_quantizer():
            calibrator = create_calibrator(
                str(folded),
                _operators(found),
                augmented_model_path=str(folded.with_name("watched.onnx")),
                calibrate_method=CalibrationMethod[methods[self.settings.method]],
                extra_options={"symmetric": False},  # half of an unsigned range would be lost to what a ReLU left
            )
            for first in range(0, len(feeds), AT_ONCE):
                calibrator.collect_data(_Reader(feeds[first : first + AT_ONCE]))
            return calibrator.compute_data()

    def _build(self, folded: Path, found: Sequence[Layer], ranges: Any, keep: frozenset[str]) -> Path:
        import onnx
        from onnxruntime.quantization import QuantType
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

        small = folded.with_name("int8.onnx")
        with quiet_quantizer():
            quantizer = QDQQuantizer(
                onnx.load(str(folded)),
                per_channel=self.settings.per_channel,
                reduce_range=self.settings.reduces,
                weight_qType=QuantType.QInt8,
                activation_qType=QuantType.QUInt8,
                tensors_range=ranges,
                nodes_to_quantize=[],
                nodes_to_exclude=sorted(keep),
                op_types_to_quantize=_operators(found),
                extra_options=_options(found),
            )
            quantizer.quantize_model()
            quantizer.model.save_model_to_file(str(small))
        return small


def _operators(found: Sequence[Layer]) -> list[str]:
    """Return which operators run in int8.

    Around convolutions all that can: activations then stay in int8 from one to the next. In a transformer the products
    with a weight alone: int8 made MiniLM's softmax, norms and products of attention slower.
    """
    from onnxruntime.quantization.registry import QDQRegistry

    return sorted(QDQRegistry) if _has_filters(found) else sorted(OPERATORS)


def _options(found: Sequence[Layer]) -> dict[str, Any]:
    """Return the quantizer's options: in a transformer, a product's result goes on in float, as what follows needs."""
    results = [] if _has_filters(found) else sorted(OPERATORS)
    return {"MatMulConstBOnly": True, "OpTypesToExcludeOutputQuantization": results}


def _has_filters(found: Sequence[Layer]) -> bool:
    return any(layer.operator == "Conv" for layer in found)


def _checked(calibration: GraphCalibration, count: int) -> Sequence[Feed]:
    """Return the first examples.

    Raises:
        AttarError: there is none, or one is no number.
    """
    feeds = calibration.feeds[:count]
    if not feeds:
        raise AttarError("static_int8 finds its scales on training examples, and there are none. Give it one or more.")
    if not all(np.isfinite(array).all() for feed in feeds for array in feed.values()):
        raise AttarError("static_int8 got a calibration example that is no number (NaN or infinite). Check the data.")
    return feeds


class _Reader:
    """Give calibration examples one at a time, as onnxruntime asks for them."""

    def __init__(self, feeds: Sequence[Feed]) -> None:
        self._feeds: Iterator[Feed] = iter(feeds)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next example, or None at the end."""
        feed = next(self._feeds, None)
        return None if feed is None else dict(feed)
