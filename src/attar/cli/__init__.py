"""The command line: a shell over the verbs, one file a verb."""

from __future__ import annotations

import os
import sys
from typing import Any

from attar.errors import AttarError

INTERRUPTED = 130  # of a process that Ctrl-C stopped, as shells count
DISK_FULL = "No space left on device"  # in the words of libraries that write files themselves


def main() -> None:
    """Run the command line; a user's mistake prints one message and exits with status 2."""
    try:
        status = _run()
    except AttarError as error:
        status = _refuse(str(error), error.exit_status)
    except BrokenPipeError:  # the reader of our output has gone, for example `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except Exception as error:
        if DISK_FULL not in str(error):
            raise
        place = getattr(error, "filename", None) or "the cache, the run's folder or the temporary folder"
        status = _refuse(f"No space is left on the disk of {place}. Free some, then run the same command again.", 2)
    if status == INTERRUPTED:
        _console().print("stopped; run the same command again: it goes on where it was")
    sys.exit(status)


def _run() -> int:
    """Run the verb that was asked for and return the exit status."""
    import typer

    # threads that wait at a barrier sleep instead of spinning: beside another busy process a spinning wait makes each
    # small operation of torch a hundred times slower; alone, sleeping costs microseconds
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from attar.cli.app import app

    usage: Any = typer.BadParameter.__mro__[1]  # its base differs between the releases of typer
    try:
        status = app(standalone_mode=False)
    except usage as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # its help was printed
            return 2
        path = error.ctx.command_path if error.ctx else "attar"
        return _refuse(f"{error.format_message().rstrip('.')}. See: {path} --help", 2)
    except (typer.Abort, KeyboardInterrupt):
        return INTERRUPTED
    return status if isinstance(status, int) else 0


def _refuse(message: str, status: int) -> int:
    _console().print("[bold red]error:[/] ", end="")
    _console().print(message, markup=False)
    return status


def _console() -> Any:
    from attar.log import console

    return console()
