"""The command line: ``vie-pretrain prepare | train | join | export | report | corpus``."""

from collections.abc import Sequence

from vie.command_line import guard


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command of ``vie-pretrain``."""
    from pretrain.commands import run

    guard("vie-pretrain", run, arguments)
