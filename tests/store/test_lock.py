from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from attar.errors import AttarError
from attar.store.lock import hold

HOLDER = """
import sys, time, pathlib
from attar.store.lock import hold
with hold(pathlib.Path(sys.argv[1]), "the run"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "lock")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "held"
    yield process
    process.kill()
    process.wait()


def test_a_living_holder_is_named(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with (
        pytest.raises(AttarError, match=f"the run is in use by process {holder.pid}"),
        hold(tmp_path / "lock", "the run"),
    ):
        pass


def test_a_dead_process_holds_nothing(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with hold(tmp_path / "lock", "the run"):
        entered = True
    assert entered


def test_waiting_ends_when_the_holder_dies(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    begin = time.monotonic()
    killer = subprocess.Popen([sys.executable, "-c", f"import os,time; time.sleep(0.3); os.kill({holder.pid}, 9)"])
    with hold(tmp_path / "lock", "the run", wait=True):
        waited = time.monotonic() - begin
    killer.wait()
    assert waited > 0.2


def test_the_lock_is_let_go_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), hold(tmp_path / "lock", "x"):
        raise KeyError
    with hold(tmp_path / "lock", "x"):
        entered = True
    assert entered
