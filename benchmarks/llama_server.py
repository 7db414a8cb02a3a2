"""Serve a GGUF model by llama.cpp on this machine as long as a benchmark needs it.

Either of llama.cpp's servers will do: its own program ``llama-server``, which answers several requests at a time and
keeps the beginnings of prompts, or the Python package's (a Python interpreter with ``llama-cpp-python[server]``), which
answers one at a time and reuses what a prompt shares with the one before.

    python benchmarks/llama_server.py .../llama-server model.gguf --port 8090      serves until it is interrupted
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HOST = "127.0.0.1"
SLOTS = 4  # requests at a time
CONTEXT = 16384  # tokens that all slots share
START_SECONDS = 120


def command(program: Path, model: Path, port: int, threads: int) -> list[str]:
    """Return the command line that serves a model.

    Example:
        >>> command(Path("llama-server"), Path("m.gguf"), 8090, 2)[:5]
        ['llama-server', '--model', 'm.gguf', '--host', '127.0.0.1']
    """
    shared = ["--model", str(model), "--host", HOST, "--port", str(port)]
    if program.name.startswith("python"):
        # without logits_all false it computes the logits of every prompt token
        options = {"n_ctx": CONTEXT, "n_threads": threads, "n_threads_batch": threads, "logits_all": False}
        named = [word for name, value in options.items() for word in (f"--{name}", str(value).lower())]
        return [str(program), "-m", "llama_cpp.server", *shared, *named]
    slots = ["--parallel", str(SLOTS), "--kv-unified", "--ctx-size", str(CONTEXT)]
    return [str(program), *shared, *slots, "--threads", str(threads), "--no-ui"]


def answers(url: str) -> bool:
    """Tell whether a server is ready: it lists its models and has loaded one."""
    try:
        with urllib.request.urlopen(f"{url}/models", timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@contextmanager
def serving(program: Path, model: Path, port: int, threads: int = 2) -> Iterator[str]:
    """Serve a model inside the ``with`` block.

    Args:
        program: ``llama-server``, or a Python interpreter with ``llama-cpp-python[server]``.
        model: a GGUF file.
        port: on this machine, free.
        threads: of the server.

    Yields:
        The URL that OpenAI's clients take, with ``/v1``.

    Raises:
        RuntimeError: the port is taken, or the server did not start.
    """
    url = f"http://{HOST}:{port}/v1"
    if answers(url):
        raise RuntimeError(f"Port {port} has a server already; stop it or take another port.")
    with tempfile.TemporaryFile("w+") as log:
        server = subprocess.Popen(command(program, model, port, threads), stdout=log, stderr=subprocess.STDOUT)
        try:
            wait(server, url)
            yield url
        except RuntimeError as error:
            log.seek(0)
            raise RuntimeError(f"{error}\n{log.read()[-2000:]}") from error
        finally:
            server.terminate()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def wait(server: subprocess.Popen[bytes], url: str) -> None:
    """Wait until a server answers.

    Raises:
        RuntimeError: it ended, or took too long.
    """
    begin = time.monotonic()
    while not answers(url):
        if server.poll() is not None:
            raise RuntimeError(f"The server ended with {server.returncode}.")
        if time.monotonic() > begin + START_SECONDS:
            raise RuntimeError(f"The server did not answer within {START_SECONDS} s.")
        time.sleep(0.2)


def main() -> None:
    """Serve from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--port", type=int, default=8090)
    parser.add_argument("--threads", type=int, default=2)
    with serving(**vars(parser.parse_args())) as url:
        print(url, flush=True)
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    main()
