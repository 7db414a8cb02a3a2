from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from attar.core.rows import Rows, example_rows
from attar.errors import AttarError
from attar.teachers.codecs import FullCodec, encode, fidelity


def test_round_trip_keeps_keys_weights_and_probabilities(tmp_path: Path) -> None:
    torch.manual_seed(0)
    rows = example_rows(torch.tensor([2**62 + 1, 5, 7]), torch.randn(3, 4) * 5)
    rows = Rows(rows.key, torch.tensor([1.0, 0.0, 0.5]), rows.logits)
    FullCodec().write(rows, tmp_path / "a.safetensors")
    back = FullCodec().read(tmp_path / "a.safetensors")
    assert torch.equal(back.key, rows.key)
    assert torch.equal(back.weight, rows.weight)
    assert torch.allclose(back.dense().softmax(-1), rows.dense().softmax(-1), atol=2e-3)
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_sure_and_impossible_choices_stay_finite() -> None:
    coded = encode(torch.tensor([[1e5, 0.0, -math.inf]]))
    assert coded.dtype == torch.float16
    assert torch.isfinite(coded).all()
    assert coded.float().softmax(-1).tolist() == [[1.0, 0.0, 0.0]]


def test_kill_while_writing_leaves_no_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        FullCodec().write(example_rows(torch.tensor([1]), torch.zeros(1, 2)), tmp_path / "a.safetensors")
    assert list(tmp_path.glob("*.safetensors")) == []


@pytest.mark.parametrize("harm", ["cut", "other", "lost"])
def test_a_damaged_shard_is_named(harm: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "a.safetensors"
    FullCodec().write(example_rows(torch.tensor([1]), torch.zeros(1, 2)), path)
    if harm == "cut":
        path.write_bytes(path.read_bytes()[:-3])
    elif harm == "other":
        save_file({"weights": torch.zeros(2)}, path)
    else:
        path.unlink()
    with pytest.raises(AttarError, match=r"a\.safetensors is (damaged|no shard)"):
        FullCodec().read(path)


def test_fidelity_of_logits_that_float16_holds_exactly() -> None:
    found = fidelity(torch.zeros(3, 2))
    assert found.bytes_per_row == 4.0
    assert found.kl == pytest.approx(0.0, abs=1e-7)


def test_fidelity_against_the_slow_version() -> None:
    torch.manual_seed(0)
    logits = torch.randn(50, 6) * 4
    exact, coded = logits.double().softmax(-1), encode(logits).double().softmax(-1)
    found = fidelity(logits)
    kl = sum(p * math.log(p / q) for p, q in zip(exact.flatten().tolist(), coded.flatten().tolist(), strict=True)) / 50
    error = math.sqrt(((coded - exact) ** 2).sum().item()) / math.sqrt(((exact - 1 / 6) ** 2).sum().item())
    assert found.kl == pytest.approx(kl, rel=1e-6, abs=1e-12)
    assert found.gradient_error == pytest.approx(error, rel=1e-6)
    assert 0 < found.gradient_error < 2e-3
    assert found.to_json() == {"bytes_per_row": 12.0, "kl": found.kl, "gradient_error": found.gradient_error}


def test_gradient_error_is_that_of_an_untrained_student() -> None:
    """A student of zeros sees the gradient p - u; what the record changes of it is what the figure says."""
    torch.manual_seed(0)
    logits = torch.randn(20, 5) * 4
    gradients = []
    for teacher in (logits.double(), encode(logits).double()):
        student = torch.zeros(20, 5, dtype=torch.float64, requires_grad=True)
        torch.nn.functional.kl_div(student.log_softmax(-1), teacher.softmax(-1), reduction="sum").backward()
        gradients.append(student.grad)
    assert gradients[0] is not None
    assert gradients[1] is not None
    error = (gradients[1] - gradients[0]).norm() / gradients[0].norm()
    assert fidelity(logits).gradient_error == pytest.approx(float(error), rel=1e-6)
