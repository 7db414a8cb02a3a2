"""Train in two processes (gloo) and compare their gradients with those of one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.stages.processes import gradients

CASES = {
    "even": {"examples": 16, "batch": 8, "micro": 2},
    "uneven": {"examples": 10, "batch": 5, "micro": 2},  # one process has one micro-batch more
    "lonely": {"examples": 9, "batch": 8, "micro": 8},  # the last batch leaves one process without examples
}


def _port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _two(case: dict[str, int], work: Path) -> list[list[torch.Tensor]]:
    port = str(_port())
    shared = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "WORLD_SIZE": "2",
        "ACCELERATE_USE_CPU": "1",
    }
    command = [sys.executable, str(Path(__file__).with_name("processes.py")), json.dumps(case), str(work)]
    processes = [
        subprocess.Popen(
            command,
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors.decode()[-2000:]
    finally:
        for process in processes:
            process.kill()
    return [torch.load(work / f"process-{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize(
    "name",
    [
        "even",
        pytest.param("uneven", marks=pytest.mark.real),
        pytest.param("lonely", marks=pytest.mark.real),
    ],
)
def test_two_processes_have_the_gradient_of_one(name: str, tmp_path: Path) -> None:
    trainer, alone = gradients(CASES[name], tmp_path / "one")
    trainer.run("one")
    (tmp_path / "two").mkdir()
    first, second = _two(CASES[name], tmp_path / "two")
    assert len(alone) == 2
    for one, here, there in zip(alone, first, second, strict=False):
        assert torch.equal(here, there)
        assert (here - one).norm() <= 1e-5 * one.norm()
    for one, here, there in zip(trainer.plain.state_dict().values(), first[2:], second[2:], strict=True):
        assert torch.equal(here, there)
        assert torch.allclose(here, one, atol=1e-5)
