"""Quantize matrix products to int8 with activation scales found at run time: right for transformers."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from attar.compressors.quantize.graph import layers, read_float, workplace
from attar.compressors.quantize.int8 import Int8Settings, decide
from attar.compressors.quantize.quiet import quiet_quantizer
from attar.compressors.quantize.sensitive import Judged
from attar.core.compressing import GraphCalibration
from attar.core.nouns import Plan
from attar.errors import AttarError

OPERATORS = frozenset({"MatMul", "Gather", "Attention"})


class DynamicInt8:
    """Store weights as int8 with a scale a channel; scale activations as they come.

    Convolutions are refused: run this way they are slower than in float32 on every CPU measured.

    Args:
        settings: see `DynamicInt8.Settings`.
    """

    at: ClassVar[Literal["model", "export"]] = "export"
    tasks: ClassVar[frozenset[str]] = frozenset({"text-classification"})
    precision: ClassVar[str] = "int8"

    class Settings(Int8Settings):
        """Set how weights are scaled, and what stays in float."""

        keep: list[str] | Literal["auto"] = Field(
            [],
            description="layers that stay in float32, by name, part of a name (down_proj) or pattern with *; auto "
            "finds the few that must, by `floor`",
        )

    def __init__(self, settings: DynamicInt8.Settings) -> None:
        self.settings = settings

    def apply(self, source: Path, target: Path, calibration: GraphCalibration) -> Plan:
        """Read the ONNX graph ``source`` and write ``target``.

        Args:
            source: float32 graph.
            target: the file to write; it is there when it is whole.
            calibration: what ``keep: auto`` judges by; else nothing of it is read.

        Raises:
            AttarError: the graph has convolutions, nothing to quantize, or weights that are no numbers; it is
                quantized already; ``keep`` names what it does not have, or no layer holds the floor.
        """
        import onnx
        from onnxruntime.quantization.onnx_model import ONNXModel

        model = read_float(source, "dynamic_int8")
        if any(node.op_type == "Conv" for node in model.graph.node):
            raise AttarError("dynamic_int8 makes convolutions slower. Use static_int8 for a network with convolutions.")
        ONNXModel(model).replace_gemm_with_matmul()
        found = layers(model, OPERATORS, "dynamic_int8")
        with workplace(target) as work:
            plain = work / "float32.onnx"
            onnx.save(model, str(plain))
            del model  # the weights are large, and the quantizer holds them twice

            def build(keep: frozenset[str]) -> Path:
                """Write the graph in which some operators stay in float."""
                return self._build(plain, keep)

            judged = partial(Judged, plain, calibration, "dynamic_int8")
            kept = decide(self.settings.keep, self.settings.floor, found, build, judged)
            build(kept.keep).replace(target)
        facts = [{"bytes": path.stat().st_size} for path in (source, target)]
        return Plan("dynamic_int8", facts[0], facts[1], (*kept.notes, *self.settings.notes()))

    def _build(self, plain: Path, keep: frozenset[str]) -> Path:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        small = plain.with_name("int8.onnx")
        with quiet_quantizer():
            quantize_dynamic(
                str(plain),
                str(small),
                per_channel=self.settings.per_channel,
                reduce_range=self.settings.reduces,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=sorted(keep),
            )
        return small
