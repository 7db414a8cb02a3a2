"""Quantize matrix products to int8 with activation scales found at run time: right for transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from attar.core.nouns import Plan
from attar.errors import AttarError
from attar.settings import Settings


class DynamicInt8:
    """Store weights as int8 with a scale a channel; scale activations as they come.

    Convolutions are refused: run this way they are slower than in float32 on every CPU measured.

    Args:
        settings: see `DynamicInt8.Settings`.
    """

    at: ClassVar[Literal["model", "export"]] = "export"
    tasks: ClassVar[frozenset[str]] = frozenset({"text-classification"})
    needs_calibration: ClassVar[bool] = False
    precision: ClassVar[str] = "int8"

    class Settings(Settings):
        """Set how weights are scaled."""

        per_channel: bool = Field(True, description="a scale for each output channel instead of one a matrix")

    def __init__(self, settings: DynamicInt8.Settings) -> None:
        self.settings = settings

    def apply(self, source: Path, target: Path, calibration: Any = None) -> Plan:
        """Read the ONNX graph ``source`` and write ``target``.

        Raises:
            AttarError: the graph has convolutions.
        """
        import onnx
        from onnxruntime.quantization import QuantType, quantize_dynamic

        from attar.compressors.quantize.quiet import quiet_quantizer

        operators = {node.op_type for node in onnx.load(str(source), load_external_data=False).graph.node}
        if "Conv" in operators:
            raise AttarError("dynamic_int8 makes convolutions slower. Use static_int8 for a network with convolutions.")
        with quiet_quantizer():
            quantize_dynamic(
                str(source), str(target), per_channel=self.settings.per_channel, weight_type=QuantType.QInt8
            )
        before, after = source.stat().st_size, target.stat().st_size
        return Plan("dynamic_int8", {"bytes": before}, {"bytes": after})
