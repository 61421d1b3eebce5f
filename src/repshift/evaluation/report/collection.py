"""What an index holds and what its plan costs: a JSON file and a page beside the table."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repshift.evaluation.report.names import plain
from repshift.evaluation.report.page import STYLE
from repshift.files import replacing_all

if TYPE_CHECKING:
    from repshift.evaluation.collection.comparison import Comparison
    from repshift.evaluation.collection.indexing import Outcome


@dataclass(frozen=True)
class IndexReport:
    """What stands in a table, what the last run did, and dense against compressed."""

    table: Path
    rows: int
    made_by: dict[str, Any]
    outcome: Outcome
    comparison: Comparison | None
    encoding: float | None = None

    @staticmethod
    def files(table: Path) -> list[Path]:
        """Where the JSON and the page are."""
        return [table.with_name(f"{table.stem}-report{end}") for end in (".json", ".html")]

    def lines(self) -> list[str]:
        """All that matters, in words."""
        done, found = self.outcome, self.comparison
        lines = [
            f"{self.table}: {self.rows} rows; {done.added} files added, {done.changed} changed, "
            f"{done.removed} removed, {done.unchanged} as before, {len(done.skipped)} skipped"
        ]
        if done.rows and done.seconds:
            busy = f", the encoder at work {self.encoding / done.seconds:.0%} of the time" \
                if self.encoding is not None else ""  # fmt: skip
            lines.append(f"{done.rows / done.seconds:.1f} rows a second{busy}")
        if found is not None:
            lines.append(
                f"against the dense model, on {found.pieces} of your own: {found.speedup:.2f}x as "
                f"fast, recall@{found.neighbours} of its neighbours {found.recall:.1%} (by chance "
                f"{found.chance:.1%}), cosine {found.cosine:.3f}"
            )
        elif done.worked:
            lines.append("too few files to compare with the dense model; three are needed")
        return lines

    def write(self) -> None:
        """Both files or none."""
        facts = {**asdict(self), "table": str(self.table)}
        text = json.dumps(facts, indent=2)
        lines = "".join(f"<li>{escape(plain(line))}</li>" for line in self.lines())
        skipped = "".join(f"<li>{escape(plain(line))}</li>" for line in self.outcome.skipped)
        title = escape(plain(str(self.table)))
        with replacing_all(self.files(self.table)) as [figures, page]:
            figures.write_text(text, encoding="utf-8", errors="surrogateescape")
            page.write_text(
                f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>{STYLE}</style><h1>{title}</h1><ul>{lines}</ul>
{f"<h2>Files that cannot be used</h2><ul>{skipped}</ul>" if skipped else ""}
<h2>Made by</h2><pre>{escape(plain_lines(self.made_by))}</pre></html>
""",
                encoding="utf-8",
            )


def plain_lines(facts: dict[str, Any]) -> str:
    """JSON for people, with all letters printable."""
    return "\n".join(map(plain, json.dumps(facts, indent=2).split("\n")))
