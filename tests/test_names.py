"""Names of files, methods and models are text in every picture, table and page, never markup."""

import csv
import io
import json
import os
import re
import sys
from html import unescape

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from safetensors.torch import save_file

from repshift.evaluation.report.names import label, legend, plain, save, title
from repshift.evaluation.report.table import print_table, to_csv, to_html
from repshift.evaluation.tasks.bench import Bench, Row

NAMES = [
    "$x_{}$.png",
    "a$b$c_{}.png",
    "$\\frac$.png",
    "[red]a[/red].png",
    "[bold]a.png",
    "[/].png",
    ":smile:.png",
    "<b>&amp;.png",
    "'\"><script>.png",
    "日本.png",
    "line\nbreak.png",
    "tab\t\x1b[31m.png",
    os.fsdecode(b"latin-\xe9.png"),
    "_hidden.png",
    "x" * 251 + ".png",
]


def pixels():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A picture without a name."""
    figure = Figure(figsize=(9, 3))
    figure.subplots().plot([0, 1], [0, 1])
    save(figure, path := tmp_path_factory.mktemp("bare") / "b.png", 50)
    return path.read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_shows_the_letters_of_its_name(name, bare, tmp_path):
    figure = Figure(figsize=(9, 3))
    axes = figure.subplots()
    title(axes, name, "below", size=9)
    assert axes.title.get_text() == f"{plain(name)}\nbelow"
    assert not axes.title.get_parse_math()
    axes.plot([0, 1], [0, 1], label=label(name))
    legend(axes, 8)
    [entry] = axes.get_legend().get_texts()
    assert entry.get_text().strip() == plain(name).strip()
    save(figure, tmp_path / "a.png", 50)
    assert (tmp_path / "a.png").read_bytes() != bare


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("a b-ü$[x].png", "a b-ü$[x].png"),
        ("a\nb", r"a\nb"),
        ("\x1b[31m", r"\x1b[31m"),
        ("\udce9", r"\udce9"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
    ],
)
def test_plain(name, says):
    assert plain(name) == says
    assert plain(name).encode()


def bench_of(names):
    rows = [
        Row(
            method=name, plan=name, kernel="flash", tokens=3, gflops=1.0, peak_mb=1.0, spread=0.1,
            speedup_vs_eager=1.0, speedup_vs_fused=1.0 + number, flop_share=1.0,
            images_per_s=1.0, fidelity=1.0, kl=0.0, accuracy=None,
        )
        for number, name in enumerate(names)
    ]  # fmt: skip
    facts = {"model": names[0]}
    return Bench(rows, facts, list(names), f"{names[0]}, a title", "fidelity", "x", 100.0, "dense")


@pytest.mark.parametrize("width", ["80", "230"])
def test_no_letter_of_a_table_is_lost_or_read_as_markup(capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", width)
    bench = bench_of([*NAMES, ",".join(f"{block}:0.0123456789" for block in range(24))])
    print_table(bench)
    shown = re.sub(r"[\s│┃]", "", capsys.readouterr().out)
    page = to_html(bench.rows)
    cells = [unescape(cell) for cell in re.findall("<td>(.*?)</td>", page)]
    for row, line in zip(bench.rows, csv.DictReader(to_csv(bench.rows).splitlines()), strict=True):
        assert f"skipped:{plain(row.method)}".replace(" ", "") in shown
        assert cells.count(plain(row.method)) >= 2
        assert line["method"] == plain(row.method)
    assert "<script>" not in page
    assert to_csv(bench.rows).encode()


def test_a_long_schedule_is_whole_in_the_table(capsys):
    schedule = ",".join(f"{block}:0.0123456789" for block in range(24))
    assert len(schedule) > 255
    print_table(bench_of([schedule]))
    lines = capsys.readouterr().out.splitlines()
    cells = [line.split("│") for line in lines if "│" in line]
    assert "".join(line[2].strip() for line in cells).count("0.0123456789") == 24
    assert any("1.00x" in line for line in lines)


@pytest.mark.parametrize("name", [name for name in NAMES[:-1] if "/" not in name])
@pytest.mark.usefixtures("unchecked")
def test_show_draws_any_file(run, tmp_path, name):
    pixels().save(tmp_path / name, format="png")
    status, out, err = run("show", name, "--model", "digits-vit", "--plan", "0:0.2")
    assert (status, err) == (0, "")
    made = os.path.splitext(name)[0] + "-tokens.png"
    with Image.open(made) as picture:
        assert picture.width > 100
    assert out.rstrip("\n") in {made, made.encode(errors="backslashreplace").decode()}


def test_a_schedule_of_24_blocks_and_a_name_of_markup_go_through_bench(run, tmp_path):
    """Of a model of 24 blocks the schedule is longer than a name of a file may be."""
    import timm

    name = "vit_tiny_patch16_224"
    model = timm.create_model(name, img_size=32, num_classes=5)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    folder = tmp_path / "$photos_{}$ [red]"
    folder.mkdir()
    for file in ("$x_{}$.png", "[red]a.png"):
        pixels().save(folder / file)
    (folder / "[b]<i>$_{}.jpg").write_text("broken")
    schedule = ",".join(f"{block}:{'0' * 22}.1" for block in range(12))
    assert len(schedule) > 255
    (tmp_path / "$plan_{}$ [red].json").write_text('{"drop": {"0": 0.5}}')
    status, out, err = run(
        "bench", "--model", f"timm:{name}", "--checkpoint", "w.safetensors", "--images", folder,
        "--plan", schedule, "$plan_{}$ [red].json", "--methods", "random", "--batch-size", 2,
        "--out", "o $_{}$ [red]",
    )  # fmt: skip
    assert status == 0, err
    assert "$plan_{}$ [red].json" in out
    assert "[b]<i>$_{}.jpg cannot be read" in out.replace("\n", "")
    page = (tmp_path / "o $_{}$ [red]" / "report.html").read_text()
    assert "[b]&lt;i&gt;$_{}.jpg" in page
    written = json.loads((tmp_path / "o $_{}$ [red]" / "bench.json").read_text())
    plans = [row["plan"] for row in written["rows"]][-2:]
    assert plans == [schedule, "$plan_{}$ [red].json"]


def test_a_terminal_without_the_letters_gets_their_codes(run, tmp_path, monkeypatch):
    pixels().save(tmp_path / "日本.png")
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    monkeypatch.setattr(sys, "stdout", terminal)
    status, _, err = run("show", "日本.png", "--model", "digits-vit")
    assert status == 0, err
    assert terminal.buffer.getvalue() == b"\\u65e5\\u672c-tokens.png\n"
    assert (tmp_path / "日本-tokens.png").exists()
