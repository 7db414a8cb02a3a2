from __future__ import annotations

import os
from pathlib import Path

import pytest

from attar.meters import machine

TWO_CORES = """processor\t: 0
model name\t: Some CPU
physical id\t: 0
core id\t\t: 0
flags\t\t: fpu avx2 avx512f avx512_vnni

processor\t: 1
physical id\t: 0
core id\t\t: 0
flags\t\t: fpu avx2

processor\t: 2
physical id\t: 1
core id\t\t: 0
"""


@pytest.fixture
def cpuinfo(tmp_path: Path) -> Path:
    path = tmp_path / "cpuinfo"
    path.write_text(TWO_CORES)
    return path


def test_instruction_sets_that_matter_are_told(cpuinfo: Path, tmp_path: Path) -> None:
    assert machine.instruction_sets(cpuinfo) == ("avx2", "avx512f", "avx512_vnni")
    assert machine.instruction_sets(tmp_path / "nothing") == ()


@pytest.mark.parametrize(("allowed", "cores"), [({0, 1, 2}, 2), ({0, 1}, 1), ({1, 2}, 2)])
def test_threads_of_a_core_count_once_and_only_where_allowed(
    cpuinfo: Path, monkeypatch: pytest.MonkeyPatch, allowed: set[int], cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: allowed)
    assert machine.physical_cores(cpuinfo) == cores


def test_without_cpuinfo_every_processor_is_a_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    assert machine.physical_cores(tmp_path / "nothing") == 3


def test_this_machine_says_something() -> None:
    facts = machine.hardware()
    assert facts["processor"]
    assert facts["physical_cores"] in range(1, len(os.sched_getaffinity(0)) + 1)
