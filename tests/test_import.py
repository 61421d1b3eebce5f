"""What importing the package does: little, until a name is asked for."""

import subprocess
import sys


def fresh(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_torch_is_imported_with_the_first_name():
    assert fresh(
        "import sys, repshift, repshift.cli; print('torch' in sys.modules)\n"
        "print(repshift.Plan.paper('deit').schedule, 'torch' in sys.modules)"
    ) == ["False", "0:0.2,3:0.2,6:0.2", "True"]


def test_every_name_is_there_and_no_other():
    assert fresh(
        "import repshift\n"
        "names = repshift.__all__\n"
        "assert set(names) <= set(dir(repshift)) and '__version__' in dir(repshift)\n"
        "assert all(getattr(repshift, name) is not None for name in names)\n"
        "assert not hasattr(repshift, 'nothing') and repshift.scores.Shift is repshift.Shift\n"
        "scope = {}\n"
        "exec('from repshift import *', scope)\n"
        "assert set(names) <= set(scope)\n"
        "print(len(names) > 30)"
    ) == ["True"]


def test_every_method_is_registered_with_the_first_name():
    assert fresh("from repshift import Plan; print(Plan.from_method('border', {}).score)") == [
        "border"
    ]
