"""The commands as a user runs them: what they write, and one clear line for what they cannot."""

import csv
import json
import subprocess
import sys
from dataclasses import fields

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import repshift
from repshift import Keep, Plan, VisionLanguagePlan
from repshift.cli import commands
from repshift.cli.options import read_prompt_plan
from repshift.evaluation.tasks.export import Exported
from repshift.evaluation.zoo.load import load_model, open_source
from repshift.plan_given import as_plan

KEYS = {
    "method", "kernel", "tokens", "gflops", "images_per_s", "speedup_vs_eager",
    "speedup_vs_fused", "fidelity", "accuracy", "peak_mb",
}  # fmt: skip


def test_bench_writes_table_json_csv_plot_and_report(run, tmp_path):
    status, out, err = run(
        "bench", "--model", "digits-vit", "--samples", 90, "--batch-size", 30, "--json", "b.json"
    )
    assert status == 0, err
    written = json.loads((tmp_path / "b.json").read_text())
    rows = {row["method"]: row for row in written["rows"]}
    assert list(rows) == [
        "dense, eager attention",
        "dense, fused attention",
        "dense, smaller input",
        "class-attention",
        "random, mean of 5 seeds",
        "tome",
        "shift(mlp, l2, update)",
        "shift(mlp, l2)",
    ]
    assert all(row.keys() >= KEYS for row in rows.values())
    assert {row["tokens"] for row in written["rows"][3:]} == {35}
    fused, shift = rows["dense, fused attention"], rows["shift(mlp, l2)"]
    assert (fused["tokens"], fused["fidelity"], fused["speedup_vs_fused"]) == (65, 1.0, 1.0)
    assert fused["accuracy"] >= 0.97
    assert shift["gflops"] < 0.7 * fused["gflops"]
    assert shift["kernel"] == "flash"
    assert rows["class-attention"]["kernel"] == "eager + flash"
    assert written["environment"]["versions"].keys() >= {"python", "torch", "timm", "repshift"}
    folder = tmp_path / "runs" / "digits-vit"
    assert {path.name for path in folder.iterdir()} == {
        "bench.json",
        "bench.csv",
        "pareto.png",
        "report.html",
    }
    assert json.loads((folder / "bench.json").read_text()) == written
    page = (folder / "report.html").read_text()
    assert page.count("<img") == 1 + 8
    assert "<h3>image 0: shift(mlp, l2), plan deit</h3>" in page
    for said in (out, page.replace("&#x27;", "'")):
        assert "of FLOPs' gain: how much of the speed-up that fewer FLOPs promise was" in said
        assert "in turn: every round times each row once" in said
    with (folder / "bench.csv").open() as table:
        spreads = {line["method"]: float(line["spread"]) for line in csv.DictReader(table)}
    [line] = [line for line in out.splitlines() if "tome" in line and "│" in line]
    assert f" {100 * spreads['tome']:.0f} % " in line
    assert "http" not in page
    assert all(method in out for method in rows)
    assert "Best at each speed-up" in out
    assert "Best at each speed-up" in page


def test_bench_of_a_resnet_compares_lines(run, tmp_path):
    status, out, err = run(
        "bench", "--model", "digits-resnet", "--samples", 90, "--batch-size", 30,
        "--plan", "resnet", "0:2", "--methods", "random", "per-row-and-column",
    )  # fmt: skip
    assert status == 0, err
    folder = tmp_path / "runs" / "digits-resnet"
    rows = json.loads((folder / "bench.json").read_text())["rows"]
    assert [(row["plan"], row["method"], row["tokens"]) for row in rows] == [
        ("", "dense", 16),
        ("24 pixels", "dense, smaller input", 9),
        ("resnet", "random + rows-and-columns, mean of 5 seeds", 9),
        ("resnet", "shift(block, l2) + per-row-and-column", 9),
        ("0:2", "random + rows-and-columns, mean of 5 seeds", 16),
        ("0:2", "shift(block, l2) + per-row-and-column", 16),
    ]
    assert rows[0]["speedup_vs_eager"] is None
    assert rows[-3]["gflops"] < 0.85 * rows[0]["gflops"]
    assert rows[0]["accuracy"] >= 0.96
    assert (folder / "report.html").read_text().count("<img") == 1 + 2 * 8
    assert "vs dense" in out
    assert "attention" not in out
    status, out, err = run("bench", "--model", "digits-resnet", "--plan", "deit")
    assert status == 2
    assert "drops after stage 6; this model has 4 stages" in err


def test_show_draws_the_lines_of_a_resnet(run, photos, tmp_path):
    status, out, err = run(
        "show", photos / "0.png", "--model", "digits-resnet", "--plan", "resnet", "--out", "t.png"
    )
    assert (status, out.strip()) == (0, "t.png"), err
    assert (tmp_path / "t.png").exists()


def test_bench_reads_a_directory_plans_and_a_checkpoint(run, photos, tmp_path):
    import timm

    name = "vit_tiny_patch16_224"
    model = timm.create_model(name, img_size=32, num_classes=5)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    (photos / "broken.jpg").write_text("no")
    (photos / "labels.csv").write_text("file,label\n0.png,0\n1.png,1\n2.png,4\nbroken.jpg,0\n")
    (tmp_path / "plan.json").write_text(Plan({2: 1}).to_json())
    status, out, err = run(
        "bench", "--model", f"timm:{name}", "--checkpoint", "w.safetensors",
        "--images", photos,
        "--labels", "--plan", "0:0.5,3:1", "plan.json",
        "--methods", "shift(block, l1)", "random(3) + merge",
        "--batch-size", 2, "--out", "o", "--threads", torch.get_num_threads(),
    )  # fmt: skip
    assert status == 0, err
    written = json.loads((tmp_path / "o" / "bench.json").read_text())
    # One patch fewer a side would be a single patch, cheaper than both plans: one size for both.
    assert [row["method"] for row in written["rows"][2:]] == [
        "dense, smaller input",
        *["shift(block, l1)", "random(3) + merge"] * 2,
    ]
    assert [row["tokens"] for row in written["rows"]] == [5, 5, 2, 2, 2, 4, 4]
    assert written["environment"]["skipped"] == 1
    assert "broken.jpg cannot be read" in out


def test_a_plan_saved_on_windows_is_the_same(tmp_path):
    (tmp_path / "plan.json").write_text(Plan({2: 1}).to_json(), encoding="utf-8-sig")
    assert as_plan(str(tmp_path / "plan.json")) == Plan({2: 1})


def test_show_draws_one_image(run, photos):
    status, out, err = run(
        "show", photos / "0.png", "--model", "digits-vit", "--out", "x/tokens.png"
    )
    assert status == 0, err
    assert out.strip() == "x/tokens.png"
    with Image.open("x/tokens.png") as picture:
        assert picture.width > 3 * picture.height


def test_search_writes_a_plan_that_every_command_takes(run, own, photos, tmp_path):
    model = ["--model", own]
    status, out, err = run(
        "search", *model, "--images", photos, "--flops", 0.8, "--batch-size", 2,
        "--methods", "redundancy(mlp) + merge", "--out", "p/plan.json",
    )  # fmt: skip
    assert status == 0, err
    assert {path.name for path in (tmp_path / "p").iterdir()} == {"plan.json", "plan.png"}
    plan = as_plan("p/plan.json")
    assert plan.method == "redundancy(mlp) + merge"
    assert plan.schedule in out
    assert json.loads((tmp_path / "p/plan.json").read_text())["provenance"]["model"] == own
    status, _, err = run("show", photos / "0.png", *model, "--plan", "p/plan.json")
    assert (status, "was found for" in err) == (0, False), err


def test_a_plan_that_was_found_for_another_model_is_told(run, photos, capsys):
    plan, prompts = Plan({0: 0.2}), VisionLanguagePlan(prompt=Keep(0.5))
    plan.found({"model": "timm:vit"}).save("p.json")
    prompts.found({"model": "scenes-vlm"}).save("q.json")
    status, _, err = run("show", photos / "0.png", "--model", "digits-vit", "--plan", "p.json")
    assert status == 0, err
    assert err == "note: p.json was found for timm:vit, not for digits-vit\n"
    assert read_prompt_plan("q.json", "scenes-vlm") == prompts
    assert capsys.readouterr().err == ""
    assert read_prompt_plan("q.json", "photos-vlm") == prompts
    assert "q.json was found for scenes-vlm, not for photos-vlm" in capsys.readouterr().err


def test_an_adaptive_plan_goes_through_bench_and_show(run, own, photos, tmp_path):
    model = ["--model", own]
    status, out, err = run(
        "search", *model, "--images", photos, "--flops", 0.9, "--batch-size", 2,
        "--budget", "adaptive", "--methods", "redundancy(mlp)", "--out", "plan.json",
    )  # fmt: skip
    assert status == 0, err
    assert "with the same number of tokens in every image" in out
    assert as_plan("plan.json").adaptive
    status, out, err = run("bench", *model, "--images", photos, "--plan", "plan.json", "--out", "b")
    assert status == 0, err
    rows = json.loads((tmp_path / "b/bench.json").read_text())["rows"]
    assert [row["method"] for row in rows][2:] == [
        "dense, smaller input",
        "redundancy(mlp), adaptive",
    ]
    assert rows[3]["gflops"] < rows[1]["gflops"]
    show = ["show", photos / "0.png", *model, "--plan", "plan.json"]
    assert run(*show)[0] == 0
    status, _, err = run(*show, "--method", "tome")
    assert (status, "levels of an adaptive plan are those of its own score" in err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "one target, flops (a share such as 0.65), speedup"),
        (["--flops", "0.7", "--fidelity", "0.9"], "got flops, fidelity"),
        (["--flops", "65"], "flops is 65.0; expected above 0, at most 1"),
        (["--flops", "0.7", "--samples", "0"], "--samples is 0"),
        (["--flops", "0.7", "--samples", "1"], "2 images or more, got 1"),
        (["--flops", "0.7", "--methods", "shuft"], "'shuft' is not one of"),
        (["--flops", "0.7", "--images", "missing"], "missing is not a directory"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_a_plan_that_cannot_be_made_is_one_line(run, tmp_path, arguments, says):
    status, _, err = run("search", "--model", "digits-vit", *arguments)
    message = [line for line in err.splitlines() if line.startswith("repshift: ")]
    assert (status, len(message)) == (2, 1), err
    assert says in message[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--images", "missing"], "missing is not a directory"),
        (["--images", "nothing"], "holds no images"),
        (["--plan", "0:1.5"], "share is below 1"),
        (["--plan", "0:-0.1"], "-0.1"),
        (["--plan", "0:0.2,0:0.3"], "block 0 twice"),
        (["--plan", "0:64"], "drops 64 of the 64 patch tokens at block 0"),
        (["--plan", "99:0.2"], "12 blocks"),
        (["--plan", "dait"], "unknown plan"),
        (["--plan", "nothing.json"], "nothing.json cannot be read"),
        (["--plan", "bad.json"], "not JSON"),
        (["--plan", "keys.json"], "unknown keys"),
        (["--plan", "twice.json"], "'0' twice"),
        (["--methods", "shuft"], "'shuft' is not one of"),
        (["--methods", "shift(head)"], "mlp, attention, block"),
        (["--batch-size", "0"], "--batch-size is 0"),
        (["--threads", "0"], "--threads is 0"),
        (["--device", "abacus"], "--device abacus"),
        (["--model", "digit-vit"], "did you mean digits-vit"),
        (["--model", "timm:deit_smal_patch16_224"], "timm:deit_small_patch16_224"),
        (["--model", "timm:swin_tiny_patch4_window7_224", "--random-weights"], "fixed windows"),
        (["--model", "timm:vit_tiny_patch16_224", "--checkpoint", "no.safetensors"], "not a file"),
        (
            ["--model", "timm:vit_tiny_patch16_224", "--checkpoint", "bad.json"],
            "bad.json is damaged",
        ),
        (
            ["--model", "timm:vit_tiny_patch16_224", "--checkpoint", "few.safetensors"],
            "few.safetensors is not vit_tiny_patch16_224: ",
        ),
        (["--random-weights"], "brings its own weights"),
        (
            [
                "--model",
                "timm:vit_tiny_patch16_224",
                "--random-weights",
                "--checkpoint",
                "bad.json",
            ],
            "--random-weights and --checkpoint bad.json exclude each other",
        ),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_one_line_status_two_and_nothing_written(run, tmp_path, arguments, says):
    (tmp_path / "nothing").mkdir()
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "keys.json").write_text('{"drop": {"0": 0.2}, "speed": 2}')
    (tmp_path / "twice.json").write_text('{"drop": {"0": 0.2, "0": 0.3}}')
    save_file({"extra": torch.zeros(1)}, tmp_path / "few.safetensors")
    before = sorted(tmp_path.rglob("*"))
    model = [] if "--model" in arguments else ["--model", "digits-vit"]
    status, _, err = run("bench", *model, *arguments)
    message = [line for line in err.splitlines() if line.startswith("repshift: ")]
    assert (status, len(message)) == (2, 1), err
    assert says in message[0]
    assert "Traceback" not in err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("command", ["bench", "search", "show"])
def test_the_default_model_and_its_images_come_with_the_documented_install(monkeypatch, command):
    for extra in ("onnx", "skimage"):  # those of [demo]
        monkeypatch.setitem(sys.modules, extra, None)
    monkeypatch.setattr("importlib.metadata.files", lambda _: None)  # no wheel beside it
    [model] = [field for field in fields(commands()[command]) if field.name == "model"]
    loaded = load_model(model.default)
    [batch] = [next(open_source(loaded, None, False).batches(2))]
    assert loaded.model(batch.images).shape == (2, loaded.classes)


def test_an_interrupt_leaves_nothing(run, monkeypatch, photos, tmp_path):
    def stop(*_, **__):
        raise KeyboardInterrupt

    status, _, err = run("show", tmp_path / "no.png", "--model", "digits-vit")
    assert (status, "no.png is not a file" in err) == (2, True)
    monkeypatch.setattr("repshift.evaluation.tasks.costs.interleave", stop)
    status, _, err = run("bench", "--model", "digits-vit", "--images", photos)
    assert (status, "interrupted" in err) == (130, True)
    left = [path for path in tmp_path.rglob("*") if path.is_file() and photos not in path.parents]
    assert {path.parent.parent.name for path in left} == {"outputs"}  # from which it goes on


def test_the_version_and_the_files_that_are_written_are_told(run):
    assert run("--version") == (0, f"repshift {repshift.__version__}\n", "")
    for command, names in {
        "bench": ["bench.csv", "report.html", "runs/timm-NAME"],
        "search": ["*.json", "*.png", "*.search.json"],
        "show": ["PHOTO-tokens.png"],
        "export": ["timm-NAME.onnx"],
        "retrieve": [".csv, .png and .html", "runs/clips-umt"],
    }.items():
        status, out, _ = run(command, "--help")
        told = " ".join(out.replace("│", " ").split())
        assert (status, [name for name in names if name not in told]) == (0, [])


SHORT = """
from repshift.evaluation.tasks import bench
from repshift.measure import speed
bench.ROUNDS = 2
measured = speed._cpu_seconds
speed._cpu_seconds = lambda run, seconds: measured(run, seconds / 100)
"""


def test_bench_needs_nothing_that_only_the_tests_import(tmp_path, photos):
    images = "--images", str(photos), "--batch-size", "1", "--samples", "2"
    (tmp_path / "short.py").write_text(SHORT)
    command = [sys.executable, "-m", "repshift", "bench", "--model", "digits-vit", *images]
    done = subprocess.run(
        [*command, "--methods", "tome", "--import", "short.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Best at each speed-up" in done.stdout
    assert "digits-vit, 2 images; " in done.stdout
    assert (tmp_path / "runs" / "digits-vit" / "report.html").exists()


@pytest.mark.usefixtures("plain", "one_registry")
def test_export_writes_one_checked_file(run, own, tmp_path):
    given = "--plan", "0:0.3", "--method", "tome", "--model-args", "depth=1"
    status, out, err = run("export", own, *given)
    assert status == 0, err
    assert {path.name for path in tmp_path.iterdir()} == {
        "small_model.py",
        "small_model.py-make.onnx",
    }
    assert "13 tokens kept" in out


@pytest.mark.parametrize("name", ["digits-resnet", "digits-vim"])
def test_export_takes_the_plan_of_the_kind_of_model(run, monkeypatch, name):
    def written(model, images, path):
        model(images)  # by its plan, or it is refused
        return Exported(0, 0.0)

    monkeypatch.setattr("repshift.evaluation.tasks.export.export_onnx", written)
    status, out, err = run("export", name)
    assert (status, "tokens kept" in out) == (0, True), err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digits-vit", "--plan", "0:99"], "drops 99 of the 64 patch tokens at block 0"),
        (["digits-vit", "--method", "tome + prune"], "'tome' is not one of"),
        (["nothing"], "nothing"),
    ],
)
def test_export_refuses_in_one_line_and_writes_nothing(run, tmp_path, arguments, message):
    status, _, err = run("export", *arguments)
    assert status == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
