"""Quantize weights and activations to int8 with scales found beforehand on calibration examples: right for CNNs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from attar.core.nouns import Plan
from attar.settings import Settings


class StaticInt8:
    """Put quantize–dequantize pairs around every operator (QDQ); the runtime fuses them into int8 kernels.

    Args:
        settings: see `StaticInt8.Settings`.
    """

    at: ClassVar[Literal["model", "export"]] = "export"
    tasks: ClassVar[frozenset[str]] = frozenset({"image-classification"})
    needs_calibration: ClassVar[bool] = True
    precision: ClassVar[str] = "int8"

    class Settings(Settings):
        """Set how scales are found."""

        examples: int = Field(128, ge=1, description="training examples to calibrate on")
        method: Literal["minmax", "entropy", "percentile"] = Field(
            "minmax", description="how a range is chosen from what is seen"
        )
        per_channel: bool = Field(True, description="a scale for each output channel of a weight")

    def __init__(self, settings: StaticInt8.Settings) -> None:
        self.settings = settings

    def apply(self, source: Path, target: Path, calibration: np.ndarray) -> Plan:
        """Read the ONNX graph ``source`` and write ``target``.

        Args:
            source: float32 graph with the input ``pixel_values``.
            target: the file to write.
            calibration: ``(examples, channels, height, width)`` float32, normalized as the graph reads them.
        """
        from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        from attar.compressors.quantize.quiet import quiet_quantizer

        methods = {
            "minmax": CalibrationMethod.MinMax,
            "entropy": CalibrationMethod.Entropy,
            "percentile": CalibrationMethod.Percentile,
        }
        folded = target.with_name("folded.onnx")
        with quiet_quantizer():
            quant_pre_process(str(source), str(folded), skip_symbolic_shape=True)  # folds batch norms into convolutions
            quantize_static(
                str(folded),
                str(target),
                _Reader(calibration[: self.settings.examples]),
                quant_format=QuantFormat.QDQ,
                per_channel=self.settings.per_channel,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=methods[self.settings.method],
            )
        folded.unlink()
        before, after = source.stat().st_size, target.stat().st_size
        seen = min(self.settings.examples, len(calibration))
        note = f"calibrated ({self.settings.method}) on {seen} training examples"
        return Plan("static_int8", {"bytes": before}, {"bytes": after}, (note,))


class _Reader:
    """Give calibration examples one at a time, as onnxruntime asks for them."""

    def __init__(self, pixels: np.ndarray) -> None:
        self._rows: Iterator[np.ndarray] = iter(pixels)

    def get_next(self) -> dict[str, Any] | None:
        """Return the next example, or None at the end."""
        row = next(self._rows, None)
        return None if row is None else {"pixel_values": row[None]}
