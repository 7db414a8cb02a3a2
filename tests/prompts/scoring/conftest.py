"""Give tests of scorers a tiny model with its tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch


@pytest.fixture(scope="session")
def loaded(llama_folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(llama_folder, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(llama_folder)
