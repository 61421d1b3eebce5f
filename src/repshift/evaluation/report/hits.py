"""What was found: on the terminal, and as HTML with thumbnails."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from repshift.evaluation.collection.shards import shard_of
from repshift.evaluation.report.names import plain
from repshift.files import write_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from repshift.evaluation.collection.table import Hit

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem }
.found { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(12rem, 1fr));
list-style: none; padding: 0 } figure { margin: 0 } img { height: 9rem; max-width: 100%;
object-fit: contain } figcaption { font-size: 13px; overflow-wrap: anywhere }
figcaption span { color: #555 }
"""


def print_hits(hits: Sequence[Hit]) -> None:
    """A table on the terminal, or with each path whole in its line where there is none."""
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    narrow = [Column(name, no_wrap=True) for name in ("likeness", "at", "tokens kept")]
    table = Table(narrow[0], Column("file", overflow="fold"), *narrow[1:])
    for hit in hits:
        cells = (f"{hit.likeness:.3f}", plain(hit.path), when(hit.second), str(hit.kept))
        table.add_row(*map(Text, cells))
    console = Console()
    if not console.is_terminal:
        console = Console(width=max((len(hit.path) for hit in hits), default=0) + 80)
    console.print(table if hits else "nothing found")


def when(second: float | None) -> str:
    """The place in a video, ``1:05``; nothing for a photograph."""
    if second is None:
        return ""
    minutes, seconds = divmod(int(second), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def hits_html(hits: Sequence[Hit], more: Callable[[Hit], str]) -> str:
    """Thumbnails with their names, which are text; ``more`` is HTML below each."""
    if not hits:
        return "<p>Nothing found.</p>"
    return f'<ol class="found">{"".join(_figure(hit, more(hit)) for hit in hits)}</ol>'


def write_found(query: str, table: Path, hits: Sequence[Hit], path: Path) -> None:
    """One HTML file that needs no network; each thumbnail leads to its file."""
    title = escape(plain(f"{query} in {table}"))
    write_text(
        path,
        f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>{STYLE}</style><h1>{title}</h1>
{hits_html(hits, _link)}</html>
""",
    )


def _figure(hit: Hit, more: str) -> str:
    name = escape(plain(Path(hit.path).name))
    at = f" at {when(hit.second)}" if hit.second is not None else ""
    picture = base64.b64encode(hit.thumbnail).decode()
    return (
        f'<li><figure><img alt="{name}" src="data:image/jpeg;base64,{picture}">'
        f'<figcaption title="{escape(plain(hit.path))}">{name}{at}<br>'
        f"<span>likeness {hit.likeness:.3f}, {hit.kept} tokens kept</span> {more}"
        "</figcaption></figure></li>"
    )


def _link(hit: Hit) -> str:
    """To the file, where a browser can open it."""
    web = hit.path.startswith(("http://", "https://"))
    if ("://" in hit.path and not web) or shard_of(hit.path) is not None:
        return ""
    address = hit.path if web else Path(hit.path).as_uri()
    at = "" if hit.second is None else f"#t={hit.second:.1f}"
    return f'<a href="{escape(address + at)}">open</a>'
