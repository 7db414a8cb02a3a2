"""Quantize weights alone, in groups with their own scales: rounding to nearest, GPTQ or AWQ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from attar.compressors.activations import Statistics, layer_by_layer
from attar.compressors.quantize.awq import exact_folds, scale_layer
from attar.compressors.quantize.gptq import gptq
from attar.compressors.quantize.grid import FIXED, Format, Grid, Scheme, scheme_of
from attar.compressors.quantize.ledger import Ledger
from attar.compressors.quantize.mixed import Judge, MixedBits, roll_back, share_out
from attar.compressors.quantize.round import round_to_nearest
from attar.core.compressing import Calibration, finite, unquantized
from attar.core.nouns import Model, Plan
from attar.core.places import stack
from attar.errors import AttarError, did_you_mean
from attar.optional import lazy
from attar.settings import Settings

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

Bits = Annotated[int, Field(ge=2, le=8)]
KINDS = ("causal", "label_words", "transformers")
NBITS = (2, 4, 8)
"""Bits that MatMulNBits has."""
WIDTHS = ("hidden_size", "intermediate_size", "dim", "hidden_dim")
"""Keys of a configuration that are inputs of a linear layer."""
JUDGED = 8
"""Examples on which layers are measured for mixed bits and for the floor."""


class Weights:
    """Round the weights of linear layers and embeddings to a few bits, each group with a scale of its own.

    What is left is a plain model of `transformers` whose weights lie on their grids; exporters find the codes again
    from them. Linear layers inside the stack of layers and the token embeddings are rounded (a tied head is the
    embeddings; one that is not tied gets their bits). Norms, biases, positions and a classifier's own head stay float.

    ``rtn`` looks at the weights alone. ``gptq`` and ``awq`` read calibration examples, layer by layer, with what is
    rounded already in their inputs.

    Args:
        settings: see `Weights.Settings`.
    """

    at: ClassVar[Literal["model", "export"]] = "model"
    tasks: ClassVar[frozenset[str]] = frozenset({"text-generation", "text-classification"})

    class Settings(Settings):
        """Set bits, grids and method."""

        bits: Bits | MixedBits = Field(4, description="bits of a weight, 2 to 8; or a mean and the choices of a layer")
        group: Annotated[int, Field(ge=16, le=128)] | Literal["row"] = Field(
            32, description="weights of a row that share a scale, 16 to 128, or row"
        )
        symmetric: bool = Field(
            False, description="grids without a zero point; other formats than nbits have their own rule"
        )
        format: Format = Field("nbits", description="how they are stored: nbits for ONNX; q8_0, q4_0, q4_1 for GGUF")
        method: Literal["rtn", "gptq", "awq", "awq+gptq"] = Field("gptq", description="how weights are rounded")
        embeddings: Bits | None = Field(8, description="bits of the embeddings and the head; null leaves them in float")
        keep: tuple[str, ...] = Field((), description="paths of modules whose weights stay in float")
        examples: int = Field(128, ge=1, description="calibration examples that gptq and awq read")
        floor: float | None = Field(None, gt=0, description="largest divergence from the float model, in nats a row")

        @model_validator(mode="after")
        def _has_grids(self) -> Self:
            try:
                for bits in (*self.choices, *([] if self.embeddings is None else [self.embeddings])):
                    self.scheme(bits)
            except AttarError as error:
                raise ValueError(str(error)) from error
            if isinstance(self.bits, MixedBits) and self.group != "row":
                fewest = self.scheme(self.choices[0]).stored_bits(self.group)
                if self.bits.mean < fewest:
                    raise ValueError(
                        f"a mean of {self.bits.mean:g} bits cannot be reached: {self.choices[0]} bits in groups of "
                        f"{self.group} store {fewest:g} with scales and zero points"
                    )
            return self

        @property
        def choices(self) -> tuple[int, ...]:
            """Return the bits that a layer can get."""
            return self.bits.choices if isinstance(self.bits, MixedBits) else (self.bits,)

        def scheme(self, bits: int) -> Scheme:
            """Return the grids of so many bits."""
            return scheme_of(bits, 0 if self.group == "row" else self.group, self.symmetric, self.format)

    def __init__(self, settings: Weights.Settings) -> None:
        self.settings = settings

    def legal(self, config: Mapping[str, Any], to: str) -> Mapping[str, Any]:
        """Return the configuration with a mark that it is quantized.

        Raises:
            AttarError: it is quantized already, its rows are not filled by groups, or the format of the bundle cannot
                hold such weights.
        """
        if config.get("quantized") or config.get("quantization_config"):
            raise AttarError(
                "weights cannot be quantized twice, and the model is quantized already. Quantize once, last."
            )
        self._holds(to)
        inputs = [config[key] for key in WIDTHS if isinstance(config.get(key), int)]
        if config.get("head_dim") and config.get("num_attention_heads"):
            inputs.append(config["head_dim"] * config["num_attention_heads"])
        for count in inputs:
            self.settings.scheme(self.settings.choices[0]).width(count)
        return {**config, "quantized": True}

    def _holds(self, to: str) -> None:
        """Refuse what a bundle's format cannot hold."""
        own, every = self.settings.format, [*self.settings.choices, self.settings.embeddings or 8]
        fitting = {"hf": True, "gguf": own in FIXED, "onnx": own == "nbits"}
        if not fitting.get(to):
            can = [name for name, fits in fitting.items() if fits]
            raise AttarError(f"Weights of the format {own} cannot be exported to {to}. Export to {' or '.join(can)}.")
        wrong = [bits for bits in every if bits not in NBITS]
        if to == "onnx" and wrong:
            raise AttarError(f"ONNX holds weights of 2, 4 or 8 bits, got {wrong[0]}. Choose those, or export to hf.")
        if to == "onnx" and self.settings.group not in (16, 32, 64, 128):
            raise AttarError(f"ONNX holds groups of 16, 32, 64 or 128 weights, got {self.settings.group}.")

    def apply(self, model: Model, calibration: Calibration) -> tuple[Model, Plan]:
        """Quantize a model in place.

        Args:
            model: a `transformers` classifier or language model.
            calibration: its examples are read by all but ``rtn``; for tasks that write they need target texts.

        Returns:
            The model, its weights on their grids, and what was done.

        Raises:
            AttarError: the model is of another kind, quantized already, or no numbers; or groups do not fill its rows.
        """
        if model.kind not in KINDS:
            raise AttarError(f"weights can quantize models of the kinds {', '.join(KINDS)}, this one is {model.kind}.")
        unquantized(model, "weights")
        finite(model)
        layers, tables = self._weights(model)
        ledger = Ledger(model, layers, keeps=self.settings.floor is not None)
        for name, scheme in (layers | tables).items():
            scheme.width(ledger.parameters[name].shape[1])
        before, notes = ledger.facts(), list[str]()
        judge = self._judge(model, calibration)
        if judge is not None and isinstance(self.settings.bits, MixedBits):
            choices = [self.settings.scheme(bits) for bits in self.settings.choices]
            ledger.schemes = share_out(judge, ledger, self.settings.bits, choices)
        self._round(ledger, calibration)
        for name, scheme in tables.items():
            ledger.write(name, scheme, round_to_nearest(ledger.parameters[name].data, scheme))
        if judge is not None and self.settings.floor is not None:
            notes += roll_back(judge, ledger, self.settings.floor, sorted({*self.settings.choices, 8}))
        return model, Plan("weights", before, ledger.facts(), (self._said(ledger), *notes))

    def _weights(self, model: Model) -> tuple[dict[str, Scheme], dict[str, Scheme]]:
        """Return the schemes of the linear layers inside the stack, and of embeddings and head."""
        settings, module = self.settings, model.module
        names = {id(weight): name for name, weight in module.named_parameters()}
        modules = dict(module.named_modules())
        for path in settings.keep:
            if path not in modules:
                raise AttarError(f"keep names the module '{path}', which is not there.{did_you_mean(path, modules)}")
        kept = {id(weight) for path in settings.keep for weight in modules[path].parameters()}
        inside = [part.weight for part in stack(module).modules() if isinstance(part, torch.nn.Linear)]
        network: Any = getattr(module, "lm", module)
        head = network.get_output_embeddings()
        outside = [network.get_input_embeddings().weight, *([] if head is None else [head.weight])]
        layers = {names[id(one)]: settings.scheme(settings.choices[-1]) for one in inside if id(one) not in kept}
        if not layers:
            raise AttarError("weights finds no linear layers to quantize in the model's stack of layers.")
        if settings.embeddings is None:
            return layers, {}
        return layers, {names[id(one)]: settings.scheme(settings.embeddings) for one in outside if id(one) not in kept}

    def _judge(self, model: Model, calibration: Calibration) -> Judge | None:
        if self.settings.floor is None and not isinstance(self.settings.bits, MixedBits):
            return None
        return Judge(model, calibration.task, calibration.some(JUDGED))

    def _round(self, ledger: Ledger, calibration: Calibration) -> None:
        """Round the linear layers, one layer of the stack after the other."""
        if self.settings.method == "rtn":
            for name, scheme in ledger.schemes.items():
                ledger.write(name, scheme, round_to_nearest(ledger.parameters[name].data, scheme))
            return
        model, some = ledger.model, calibration.some(self.settings.examples)
        folds = exact_folds(model, calibration) if "awq" in self.settings.method else []
        for prefix, layer, found in layer_by_layer(model, calibration.task, some, {"hessian"}):
            cut = len(prefix) + 1
            paths = {n[cut:].removesuffix(".weight"): n for n in ledger.schemes if n.startswith(f"{prefix}.")}
            schemes = {path: ledger.schemes[name] for path, name in paths.items()}
            inputs = {name[cut:]: one for name, one in found.items()}
            if folds:
                inputs = scale_layer(layer, folds, inputs, schemes)
            for path, name in paths.items():
                rounded = self._rounded(ledger.parameters[name].data, schemes[path], inputs.get(path))
                ledger.write(name, schemes[path], rounded)

    def _rounded(self, weight: torch.Tensor, scheme: Scheme, found: Statistics | None) -> tuple[torch.Tensor, Grid]:
        if found is None or found.hessian is None or "gptq" not in self.settings.method:
            return round_to_nearest(weight, scheme, found)
        return gptq(weight, found.hessian, scheme)

    def _said(self, ledger: Ledger) -> str:
        counts = Counter(scheme.bits for scheme in ledger.written.values())
        how = ", ".join(f"{count} at {bits} bits" for bits, count in sorted(counts.items()))
        group = "whole rows" if self.settings.group == "row" else f"groups of {self.settings.group}"
        return f"{len(ledger.written)} weights by {self.settings.method} in {group} ({self.settings.format}): {how}"
