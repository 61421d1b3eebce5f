"""``repshift serve``."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from repshift.cli import options
from repshift.errors import InputError


@dataclass
class Serve:
    """Search what repshift index has embedded in a web browser."""

    table: Annotated[Path, tyro.conf.Positional]
    """The table that repshift index has made."""
    host: str = "127.0.0.1"
    """Where to listen: this machine alone, or 0.0.0.0 for all who reach it."""
    port: int = 8000
    """The port."""
    top: int = 24
    """Files to show."""
    imports: options.Imports = ()
    """A module or a .py file with scores or reductions of your own, imported first; repeatable."""
    device: str = "cpu"
    """cpu, cuda or cuda:N."""

    def run(self) -> None:
        from repshift.evaluation.collection.finding import open_finder
        from repshift.evaluation.imports import needed

        options.positive("--top", self.top)
        for library in ("fastapi", "python_multipart"):
            needed(library, "index")
        uvicorn = needed("uvicorn", "index")
        from repshift.evaluation.collection.site import create_app, in_address

        app = create_app(open_finder(self.table, options.device(self.device)), self.top, self.host)
        with self._listening() as listening:
            place = f"{in_address(self.host)}:{listening.getsockname()[1]}"
            print(f"{self.table} at http://{place} (Ctrl-C ends it)", flush=True)
            uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listening])

    def _listening(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        opened = socket.socket(family)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            opened.bind((self.host, self.port))
        except (OSError, OverflowError) as error:
            opened.close()
            reason = getattr(error, "strerror", None) or error
            raise InputError(
                f"cannot listen at --host {self.host} --port {self.port}: {reason}"
            ) from None
        return opened
