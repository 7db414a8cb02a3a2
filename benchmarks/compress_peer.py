"""Run what other libraries do, in their own environments: only torch, torchao, transformers or llama_cpp is imported.

Each function prints its answer as one line of JSON, the last. `compress_data.peer` calls them.
"""

from __future__ import annotations

import json
import time
from typing import Any


def torchao(source: str, target: str, bits: str) -> None:
    """Quantize a folder's linear layers by torchao, weights alone, and write the folder with what it then computes.

    Embeddings, and the head that is tied to them, stay as they are: torchao quantizes linear layers. Bytes are those
    of codes, scales and zero points, what is not quantized in bfloat16.

    Args:
        source: folder of a causal language model.
        target: folder to write.
        bits: 8 (a scale a row), or 4 (groups of 32).
    """
    import importlib

    import torch
    from transformers import AutoModelForCausalLM

    ao: Any = importlib.import_module("torchao.quantization")

    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    four = {"weight_dtype": getattr(torch, "int4"), "granularity": ao.PerGroup(32)}  # noqa: B009
    how = ao.Int8WeightOnlyConfig() if bits == "8" else ao.IntxWeightOnlyConfig(**four)
    head = model.get_output_embeddings()
    ao.quantize_(model, how, lambda part, name: isinstance(part, torch.nn.Linear) and part is not head)
    stored, plain = 0.0, sum(tensor.numel() for tensor in model.parameters())
    with torch.no_grad():
        for part in [part for part in model.modules() if isinstance(part, torch.nn.Linear) and part is not head]:
            count, rows = part.weight.numel(), part.out_features
            plain -= count
            scales = rows if bits == "8" else count // 32
            stored += count * int(bits) / 8 + 4 * scales
            # of an input that is the unit matrix a layer gives its own weight, whatever it is stored as
            given = part(torch.eye(part.in_features)) - (0 if part.bias is None else part.bias)
            part.weight = torch.nn.Parameter(given.T.contiguous())
    model.save_pretrained(target)
    print(json.dumps({"bytes": stored + 2 * plain}))


def llama(path: str, capacity: int) -> Any:
    """Return a GGUF file opened by llama-cpp-python, with keys and values in float32."""
    import os

    from llama_cpp import Llama

    cores = int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))
    sizes: dict[str, Any] = {"n_ctx": capacity, "n_batch": capacity, "n_ubatch": capacity}
    kinds: dict[str, Any] = {"type_k": 0, "type_v": 0, "logits_all": True, "n_gpu_layers": 0, "verbose": False}
    return Llama(path, n_threads=cores, n_threads_batch=cores, **sizes, **kinds)


def logits(path: str, ids: str, target: str) -> None:
    """Write the scores after every token of some texts.

    Args:
        path: a GGUF file.
        ids: JSON file with a list of token ids for each text.
        target: NumPy file to write: the texts' scores one below the other ``(tokens, vocab)``.
    """
    from pathlib import Path

    import numpy as np

    rows = json.loads(Path(ids).read_text(encoding="utf-8"))
    model = llama(path, max(map(len, rows)) + 1)
    found = []
    for row in rows:
        model.reset()
        model.eval(row)
        found.append(np.array(model.scores[: len(row)], np.float32))
    np.save(target, np.concatenate(found))
    print(json.dumps({"texts": len(rows)}))


def decode(paths: str, ids: str, tokens: str, rounds: str) -> None:
    """Time single tokens after a prompt, files taking turns.

    Args:
        paths: GGUF files, with commas between.
        ids: token ids of the prompt, with commas between.
        tokens: written in a round.
        rounds: of each file.
    """
    prompt = [int(word) for word in ids.split(",")]
    models = {path: llama(path, len(prompt) + int(tokens) + 1) for path in paths.split(",")}
    spent: dict[str, list[float]] = {path: [] for path in models}
    for _ in range(int(rounds)):
        for path, model in models.items():
            model.reset()
            model.eval(prompt)
            begin = time.perf_counter()
            for _ in range(int(tokens)):
                model.eval([int(model.scores[model.n_tokens - 1].argmax())])
            spent[path].append(1000 * (time.perf_counter() - begin) / int(tokens))
    print(json.dumps({path: sorted(times)[len(times) // 2] for path, times in spent.items()}))
