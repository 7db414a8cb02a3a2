"""Serve a GGUF model by llama.cpp's server on this machine as long as a benchmark needs it.

The server is the program ``llama-server``: it answers several requests at a time, keeps the beginnings of prompts and
holds answers to a JSON schema. The Python package's server cannot do the last, which DSPy asks for, but its source
distribution holds the whole of llama.cpp:

    pip download --no-deps --no-binary :all: llama-cpp-python==0.3.36 && tar xzf llama_cpp_python-0.3.36.tar.gz
    cmake -S llama_cpp_python-0.3.36/vendor/llama.cpp -B build -DCMAKE_BUILD_TYPE=Release -DLLAMA_BUILD_TESTS=OFF
    cmake --build build --target llama-server llama-quantize        the programs are in build/bin

    python benchmarks/llama_server.py build/bin/llama-server model.gguf --port 8090      serves until it is interrupted
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HOST = "127.0.0.1"
SLOTS = 4  # requests at a time
CONTEXT = 16384  # tokens that all slots share
START_SECONDS = 120


def in_bfloat16(program: Path, model: Path, folder: Path) -> Path:
    """Return a quantized model's weights in bfloat16, made once, which llama.cpp reads prompts with much faster.

    Args:
        program: ``llama-server``; ``llama-quantize`` is beside it.
        model: a GGUF file.
        folder: where the new file goes.
    """
    made = folder / f"{model.stem}.bfloat16.gguf"
    if not made.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        part = made.with_suffix(".part")
        words = [program.with_name("llama-quantize"), "--allow-requantize", model, part, "BF16"]
        subprocess.run([str(word) for word in words], check=True, capture_output=True)
        os.replace(part, made)
    return made


def command(program: Path, model: Path, port: int, threads: int) -> list[str]:
    """Return the command line that serves a model.

    Example:
        >>> command(Path("llama-server"), Path("m.gguf"), 8090, 2)[:5]
        ['llama-server', '--model', 'm.gguf', '--host', '127.0.0.1']
    """
    shared = ["--model", str(model), "--host", HOST, "--port", str(port), "--threads", str(threads), "--no-ui"]
    return [str(program), *shared, "--parallel", str(SLOTS), "--kv-unified", "--ctx-size", str(CONTEXT)]


def answers(url: str) -> bool:
    """Tell whether a server has loaded its model and answers."""
    try:
        with urllib.request.urlopen(f"{url.removesuffix('/v1')}/health", timeout=2) as response:
            return bool(response.status == 200)
    except OSError:  # refused, too slow, or still loading
        return False


def wait(server: subprocess.Popen[str], url: str) -> None:
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


@contextmanager
def serving(program: Path, model: Path, port: int, threads: int = 2) -> Iterator[str]:
    """Serve a model inside the ``with`` block.

    Args:
        program: ``llama-server``.
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
        server = subprocess.Popen(command(program, model, port, threads), stdout=log, stderr=log, text=True)
        try:
            try:
                wait(server, url)
            except RuntimeError as error:
                log.seek(0)
                raise RuntimeError(f"{error} Its last words:\n{log.read()[-2000:]}") from error
            yield url
        finally:
            server.terminate()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


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
