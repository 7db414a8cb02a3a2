from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from attar.core.examples import UNKNOWN, Examples
from attar.core.rows import Rows, example_rows
from attar.errors import AttarError
from attar.stages import assets
from attar.stages.device import choose_device, choose_precision, precision_name, threads
from attar.students.causal import language_model


class Sure:
    """Choose the second label always."""

    gives = frozenset({"hard"})
    fingerprint = "sure"

    def answer(self, examples: Examples) -> Rows:
        return example_rows(torch.from_numpy(examples.keys), torch.tensor([[0.0, 1.0]]).repeat(len(examples), 1))


def test_gold_stays_and_gaps_take_the_teachers_choice() -> None:
    some = Examples(np.arange(3), ["a", "b", "c"], np.array([0, UNKNOWN, 0]))
    assert assets.with_targets(some, Sure()).labels.tolist() == [0, 1, 0]
    whole = Examples(np.arange(2), ["a", "b"], np.array([0, 0]))
    assert assets.with_targets(whole, None) is whole
    with pytest.raises(AttarError, match="1 examples have no gold label"):
        assets.with_targets(some, None)


def test_objective_of_a_recipe() -> None:
    objective = assets.objective_of([(1.0, "forward_kl", {"temperature": 3}), (0.0, "cross_entropy", {})])
    assert objective.needs == {"logits"}
    with pytest.raises(AttarError, match="no objective 'kl'"):
        assets.objective_of([(1.0, "kl", {})])


def test_a_folder_without_a_language_model(tmp_path: Path, llama_folder: Path) -> None:
    with pytest.raises(AttarError, match="cannot be loaded as a causal language model"):
        language_model(tmp_path, torch.float32)
    model, tokenizer = language_model(llama_folder, torch.float32)
    assert not model.training
    assert tokenizer.pad_token is not None


def test_device_and_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = choose_device("cpu")
    assert choose_precision("float32", cpu) == torch.float32
    assert precision_name(choose_precision("bfloat16", cpu)) == "bfloat16"
    assert choose_precision("auto", cpu) in (torch.float32, torch.bfloat16)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert threads() >= 1
