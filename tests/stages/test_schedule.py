from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from attar.stages.schedule import BUCKET_BATCHES, Schedule, TrainSettings

LENGTHS = np.random.Generator(np.random.PCG64(0)).integers(1, 100, 53)


def _plan(lengths: np.ndarray = LENGTHS, seed: int = 0, **settings: Any) -> Schedule:
    return Schedule(lengths, TrainSettings(**{"batch_size": 8, "epochs": 3, **settings}), seed)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 53, 400])
@pytest.mark.parametrize("size", [1, 8, 500])
def test_every_example_once_an_epoch(count: int, size: int) -> None:
    plan = _plan(np.resize(LENGTHS, count), batch_size=size)
    for epoch in range(3):
        steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
        seen = [int(i) for step in steps for i in plan.batch(step)]
        assert sorted(seen) == list(range(count))
        assert all(1 <= len(plan.batch(step)) <= size for step in steps)


def test_a_step_is_a_function_of_seed_and_step_alone() -> None:
    forward, backward = _plan(), _plan()
    first = [forward.batch(step).tolist() for step in range(forward.steps)]
    second = [backward.batch(step).tolist() for step in reversed(range(backward.steps))][::-1]
    assert first == second
    assert first != [_plan(seed=1).batch(step).tolist() for step in range(forward.steps)]


def test_epochs_differ() -> None:
    plan = _plan()
    assert [plan.batch(s).tolist() for s in range(7)] != [plan.batch(s).tolist() for s in range(7, 14)]


def test_batches_hold_like_lengths_and_still_mix() -> None:
    lengths = np.arange(640)
    plan = _plan(lengths)
    spread = np.mean([np.ptp(lengths[plan.batch(step)]) for step in range(plan.steps_per_epoch)])
    assert spread < 640 / BUCKET_BATCHES * 1.5
    assert len({plan.batch(step).min() // 128 for step in range(10)}) > 2


@pytest.mark.parametrize(
    ("settings", "steps"), [({"epochs": 2}, 14), ({"epochs": 0.5}, 4), ({"epochs": 0.01}, 1), ({"steps": 5}, 5)]
)
def test_how_many_steps(settings: dict[str, Any], steps: int) -> None:
    assert _plan(**settings).steps == steps


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 10, 100])
@pytest.mark.parametrize("validations", [1, 3, 4, 100])
def test_it_validates_as_often_as_asked_and_at_the_end(steps: int, validations: int) -> None:
    plan = _plan(steps=steps, validations=validations)
    looks = [step for step in range(steps) if plan.validates(step)]
    assert len(looks) == min(validations, steps)
    assert looks[-1] == steps - 1
    gaps = np.diff([-1, *looks])
    assert gaps.max() - gaps.min() <= 1


def test_the_rate_rises_in_a_line_then_falls_as_half_a_cosine() -> None:
    plan = _plan(steps=100, warmup=0.2, learning_rate=1.0)
    rates = np.array([plan.rate(step) for step in range(100)])
    assert rates[:20] == pytest.approx(np.arange(1, 21) / 20)
    assert rates[20] == 1.0
    assert rates[60] == pytest.approx(0.5)
    assert (np.diff(rates[20:]) < 0).all()
    assert 0 < rates[-1] < 0.001


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.9])
def test_short_schedules_have_sound_rates(steps: int, warmup: float) -> None:
    plan = _plan(steps=steps, warmup=warmup, learning_rate=0.5)
    assert all(0 < plan.rate(step) <= 0.5 for step in range(steps))


def test_a_micro_batch_larger_than_the_batch_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"micro_batch_size must be <= batch_size \(8\), got 9"):
        TrainSettings(batch_size=8, micro_batch_size=9)
