"""The command line: ``vie-pretrain prepare | train | join | export | report | corpus``."""

import os
import sys
from collections.abc import Callable, Sequence

from vie.errors import VieError


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command of ``vie-pretrain``."""
    from pretrain.commands import run

    guard("vie-pretrain", run, arguments)


def guard(program: str, run: Callable[[Sequence[str]], None], arguments: Sequence[str] | None) -> None:
    """Runs a command line; a fault that the user can mend is one line on stderr and exit status 1."""
    try:
        run(sys.argv[1:] if arguments is None else arguments)
    except VieError as error:
        print(f"{program}: {error}", file=sys.stderr)
        sys.exit(getattr(error, "status", 1))
    except KeyboardInterrupt:
        print(f"{program}: stopped; the same command goes on from what has been saved", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read our output has gone (head, a closed pager).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
