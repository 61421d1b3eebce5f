"""The commands: one a file, and thin; each reads its arguments and hands over.

Here nothing is imported that takes long: first Ctrl-C is handled (and before, by
``repshift.interrupts``).
"""

from __future__ import annotations

import sys

import repshift
from repshift.cli.signals import ending_in_one_line


def commands() -> dict[str, type]:
    """The class of each command, by its name."""
    from repshift.cli.bench import Bench
    from repshift.cli.export import Export
    from repshift.cli.find import Find
    from repshift.cli.index import Index
    from repshift.cli.search import Search
    from repshift.cli.serve import Serve
    from repshift.cli.show import Show
    from repshift.cli.video import Answer, Retrieve

    return {
        "bench": Bench,
        "search": Search,
        "retrieve": Retrieve,
        "answer": Answer,
        "show": Show,
        "export": Export,
        "index": Index,
        "find": Find,
        "serve": Serve,
    }


def main() -> None:
    """Entry point; bad input ends in one line and status 2."""
    with ending_in_one_line():
        from repshift.cli.failures import failures_in_one_line

        with failures_in_one_line():
            _run()


def _run() -> None:
    import tyro

    from repshift.cli.outputs import check_names
    from repshift.evaluation.imports import import_module

    if sys.argv[1:] == ["--version"]:
        print(f"repshift {repshift.__version__}")
        return
    app = tyro.extras.SubcommandApp()
    for name, kind in commands().items():
        app.command(name=name)(kind)
    chosen = app.cli(prog="repshift", description="Fewer tokens, same weights. --version tells it.")
    check_names(chosen)
    for module in chosen.imports:
        import_module(module)
    chosen.run()
