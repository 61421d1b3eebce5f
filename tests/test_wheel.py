"""The wheel: small, complete, and its command runs from an environment of its own."""

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_wheel_is_small_and_its_command_runs(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", tmp_path, ROOT],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    [wheel] = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < 1e6
    held = zipfile.ZipFile(wheel).namelist()
    assert "repshift/py.typed" in held
    assert not [name for name in held if name.endswith((".safetensors", ".pt"))]
    # An environment that has the wheel, and of everything else what is installed here.
    home = tmp_path / "home"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    packages = next(home.glob("lib/python*/site-packages"))
    zipfile.ZipFile(wheel).extractall(packages)
    (packages / "others.pth").write_text(sysconfig.get_paths()["purelib"])
    script = (
        "import repshift, sys; print(repshift.__file__); from repshift.cli import main; "
        "sys.argv[1:] = ['--help']; main()"
    )
    done = subprocess.run(
        [home / "bin" / "python", "-I", "-c", script],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.stdout.startswith(str(packages))
    assert "bench" in done.stdout
