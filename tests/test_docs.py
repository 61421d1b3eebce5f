"""What the pages of the site show works as it stands there."""

import re
import shlex
from pathlib import Path

import pytest
import timm
import tyro

from repshift.cli import commands

DOCS = Path(__file__).parents[1] / "docs"
PAGES = ("index", "concepts", "serving", "extending")
COMMANDS = sorted(
    {
        found
        for page in DOCS.glob("*.md")
        for block in re.findall(r"```\n(.*?)```", page.read_text(), re.DOTALL)
        for found in re.findall(r"^repshift (\w+) ([^\\\n]*)$", block, re.MULTILINE)
    }
)


@pytest.mark.usefixtures("unregistered", "quick")
@pytest.mark.parametrize("page", PAGES)
def test_the_snippets_of_a_page_run_one_after_the_other(page, monkeypatch):
    made = timm.create_model

    def narrow(name, **settings):
        """A DeiT of the same blocks and patches, and of a quarter of the channels."""
        return made(name, **{"embed_dim": 48} if name.startswith("deit_tiny") else {}, **settings)

    monkeypatch.setattr(timm, "create_model", narrow)
    snippets = re.findall(r"```python\n(.*?)```", (DOCS / f"{page}.md").read_text(), re.DOTALL)
    assert snippets
    names = {"__name__": page}
    for snippet in snippets:
        exec(snippet, names)


@pytest.mark.parametrize(("command", "arguments"), COMMANDS)
def test_commands_are_read(command, arguments):
    tyro.cli(commands()[command], args=shlex.split(arguments.partition("#")[0]))
