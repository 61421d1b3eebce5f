"""Shapes are checked in every test: jaxtyping's annotations by beartype.

The package imports jaxtyping only for type checkers, so that a user needs torch alone. Here those
guarded imports run, and the import hook decorates every function of the package. The tests marked
gpu run without: a compiler cannot trace the checks, and a machine with a GPU may lack beartype.
"""

import contextlib
import dataclasses
import functools
import gc
import importlib
import os
import pkgutil
import signal
import sys
import time
import types
import typing

import jaxtyping
import numpy as np
import pytest
import torch
from PIL import Image


def _ours() -> list[str]:
    return [name for name in sys.modules if name.partition(".")[0] == "repshift"]


def _import_package() -> None:
    package = importlib.import_module("repshift")
    for module in pkgutil.walk_packages(package.__path__, "repshift."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


_jaxtyped = jaxtyping.jaxtyped


def _checked(function=None, *, typechecker):
    """``jaxtyping.jaxtyped`` in a fraction of its time, which was a quarter of a test's.

    For its messages it binds the arguments of every call and checks them twice.
    """
    if function is None:
        return functools.partial(_checked, typechecker=typechecker)
    if dataclasses.is_dataclass(function) and "__init__" in vars(function):
        function.__init__ = _checked(function.__init__, typechecker=_fields(function, typechecker))
        return function
    if not isinstance(function, types.FunctionType):  # it comes back with the functions inside
        return _jaxtyped(function, typechecker=typechecker)
    checked = functools.cache(lambda: typechecker(function))  # of those that are called
    if not any('"' in str(annotation) for annotation in function.__annotations__.values()):
        context = contextlib.nullcontext()  # no shape, whose letters need a place of their own
    else:
        context = _jaxtyped("context")

    @functools.wraps(function)
    def call(*args, **kwargs):
        if jaxtyping.config.jaxtyping_disable:
            return function(*args, **kwargs)
        with context:
            return checked()(*args, **kwargs)

    return call


def _fields(dataclass, typechecker):
    """``typechecker`` for its __init__, where fields of a base are in the words of its module."""

    def check(init):
        hints = typing.get_type_hints(dataclass)
        init.__annotations__ = {name: hints.get(name) for name in init.__annotations__}
        return typechecker(init)

    return check


def _check_shapes() -> None:
    # Once plainly, so that no other library is imported while TYPE_CHECKING is changed.
    _import_package()
    importlib.import_module("beartype.door")
    for name in _ours():
        del sys.modules[name]
    typing.TYPE_CHECKING = True
    jaxtyping.jaxtyped = _checked
    # Dataclasses are checked by the module's own name for it.
    getattr(jaxtyping, "_decorator", jaxtyping).jaxtyped = _checked
    with jaxtyping.install_import_hook("repshift", "beartype.beartype"):
        _import_package()
    typing.TYPE_CHECKING = False


def pytest_configure(config):
    # A shell starts what it runs beside itself (&) with Ctrl-C ignored, as would the commands here.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    hands_out = getattr(config.option, "numprocesses", None)  # pytest-xdist's, which runs no test
    if "REPSHIFT_TEST_DEVICE" not in os.environ and not hands_out:
        sys.dont_write_bytecode = False  # compiled once, for the processes that tests start too
        gc.disable()
        _check_shapes()
        gc.freeze()  # modules stay: no collection of a test's garbage looks through them
        gc.set_threshold(5000)  # nor often through what is imported later
        gc.enable()
        hypothesis = importlib.import_module("hypothesis")
        hypothesis.settings.register_profile("repshift", max_examples=40, deadline=None)
        hypothesis.settings.load_profile("repshift")
    sys.dont_write_bytecode = True  # a module that a test imports leaves nothing beside it


# These models are so small that a second thread costs more than it does, in processes that tests
# start too.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(autouse=True)
def _seed() -> None:
    if "REPSHIFT_TEST_DEVICE" in os.environ:
        torch.manual_seed(0)
    else:  # no device but the CPU, in a tenth of the time
        torch.default_generator.manual_seed(0)


@pytest.fixture
def device(monkeypatch):
    """Where tests marked gpu run: what REPSHIFT_TEST_DEVICE names, cuda or cpu."""
    if "REPSHIFT_TEST_DEVICE" not in os.environ:
        pytest.skip("needs REPSHIFT_TEST_DEVICE=cuda (or cpu, for what runs there)")
    found = torch.device(os.environ["REPSHIFT_TEST_DEVICE"])
    if found.type == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")
        # So that float32 is float32 in convolutions too.
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    return found


@pytest.fixture
def cuda(device):
    """The device of tests that only CUDA can run."""
    if device.type != "cuda":
        pytest.skip("needs CUDA")
    return device


def _unchecked():
    """Let a wrong argument reach the package's own check, as it does for a user."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


unchecked = pytest.fixture(_unchecked, name="unchecked")
unchecked_module = pytest.fixture(_unchecked, scope="module", name="unchecked_module")


_PLAIN: dict[str, types.ModuleType] = {}


@pytest.fixture
def plain(monkeypatch):
    """The package without its type checks, which a compiler cannot trace."""
    if "REPSHIFT_TEST_DEVICE" not in os.environ:
        for name in _ours():
            monkeypatch.delitem(sys.modules, name)
        for name, module in _PLAIN.items():
            monkeypatch.setitem(sys.modules, name, module)
    yield importlib.import_module("repshift")
    _PLAIN.update({name: sys.modules[name] for name in _ours()})


@pytest.fixture
def copies():
    """All copies of a module by its name: PyTorch runs the operators of the one imported last."""
    return lambda name: [held[name] for held in (sys.modules, _PLAIN) if name in held]


@pytest.fixture(scope="session")
def one_registry():
    """PyTorch's exporter makes its table of ONNX's operators once, not a second for each file."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    made = staticmethod(functools.cache(ONNXRegistry.from_torchlib))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", made)
        yield


@pytest.fixture
def unregistered(plain, monkeypatch):
    """What a test registers with the plain package ends with the test."""
    for module, name in (("registry", "_METHODS"), ("adapters", "_REGISTERED")):
        held = importlib.import_module(f"repshift.{module}")
        monkeypatch.setattr(held, name, dict(getattr(held, name)))


@pytest.fixture
def photos(tmp_path):
    """A folder of three small photographs: 0.png, 1.png, 2.png."""
    folder = tmp_path / "photos"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (3, 40, 48, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{number}.png")
    return folder


OWN = """
import timm

def make(depth=3):
    size = {"img_size": 32, "patch_size": 8, "depth": depth, "num_classes": 5}
    return timm.create_model("vit_tiny_patch16_224", **size).eval()
"""


@pytest.fixture
def own(tmp_path):
    """The name of a model of one's own, on which a search takes a moment."""
    (tmp_path / "small_model.py").write_text(OWN)
    yield "small_model.py:make"
    sys.modules.pop("small_model", None)


@pytest.fixture
def quick(monkeypatch):
    """Costs are measured by one call a round: how fast a row is, no test of a bench asks."""

    def once(run, _):
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    monkeypatch.setattr("repshift.measure.speed._cpu_seconds", once)
    for task in ("bench", "video_bench"):
        monkeypatch.setattr(f"repshift.evaluation.tasks.{task}.ROUNDS", 2)


@pytest.fixture
def run(quick, unchecked, monkeypatch, capsys, tmp_path):
    """Run the command in an empty directory; gives exit status, standard output and error."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments):
        from repshift.cli import main

        monkeypatch.setattr(sys, "argv", ["repshift", *map(str, arguments)])
        handlers = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
        try:
            main()
            status = 0
        except SystemExit as stop:
            status = stop.code or 0
        finally:  # the command keeps its own to the end of its process
            for number, handler in handlers.items():
                signal.signal(number, handler)
        out, err = capsys.readouterr()
        return status, out, err

    return command
