"""The commands: one a file, and thin; each reads its arguments and hands over."""

from __future__ import annotations

import sys

from repshift.errors import InputError

try:
    import tyro
except ImportError:
    sys.exit("the command line needs more than the core; install it with: pip install '.[bench]'")


def commands() -> dict[str, type]:
    """The class of each command, by its name."""
    from repshift.cli.bench import Bench
    from repshift.cli.export import Export
    from repshift.cli.search import Search
    from repshift.cli.show import Show
    from repshift.cli.video import Answer, Retrieve

    return {
        "bench": Bench,
        "search": Search,
        "retrieve": Retrieve,
        "answer": Answer,
        "show": Show,
        "export": Export,
    }


def main() -> None:
    """Entry point; bad input ends in one line and status 2."""
    from repshift.cli.imports import import_module

    command = tyro.extras.SubcommandApp()
    for name, kind in commands().items():
        command.command(name=name)(kind)
    try:
        chosen = command.cli(prog="repshift")
        for module in chosen.imports:
            import_module(module)
        chosen.run()
    except InputError as error:
        print(f"repshift: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("repshift: interrupted; no file is half-written", file=sys.stderr)
        sys.exit(130)
