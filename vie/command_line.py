"""What the commands of all rooms share: faults of the user become one line."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from vie.errors import VieError


class CommandParser(argparse.ArgumentParser):
    """Reports a wrong argument as every other fault of the user is reported."""

    def error(self, message: str) -> NoReturn:
        raise VieError(f"{message}; see `{self.prog} --help`")


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


def help_of(make_parser: Callable[[], argparse.ArgumentParser]) -> type[argparse.Action]:
    """An action for ``--help`` that shows every setting a command takes.

    Args:
        make_parser: Makes what knows them, which takes a while.
    """

    class Help(argparse.Action):
        def __call__(self, *_: object) -> NoReturn:
            make_parser().print_help()
            raise SystemExit(0)

    return Help
