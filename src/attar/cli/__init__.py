"""The command line: a shell over the verbs, one file a verb."""

from __future__ import annotations

import os
import sys

from attar.errors import AttarError


def main() -> None:
    """Run the command line; a user's mistake prints one message and exits with status 2."""
    from attar.cli.app import app
    from attar.log import console

    try:
        app(standalone_mode=True)
    except AttarError as error:
        console().print("[bold red]error:[/] ", end="")
        console().print(str(error), markup=False)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        console().print("stopped; run the same command again: it goes on where it was")
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output has gone, for example `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
