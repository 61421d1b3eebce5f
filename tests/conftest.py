"""Shapes are checked in every test: jaxtyping's annotations by beartype.

The package imports jaxtyping only for type checkers, so that a user needs torch alone. Here those
guarded imports run, and the import hook decorates every function of the package.
"""

import importlib
import pkgutil
import typing

import beartype.door  # noqa: F401
import jaxtyping
import onnx  # noqa: F401  third-party modules first: they must not see TYPE_CHECKING changed
import pytest
import skimage  # noqa: F401
import timm  # noqa: F401
import torch
import torchvision  # noqa: F401

typing.TYPE_CHECKING = True
with jaxtyping.install_import_hook("repshift", "beartype.beartype"):
    import repshift

    for module in pkgutil.walk_packages(repshift.__path__, "repshift."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
typing.TYPE_CHECKING = False


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def unchecked():
    """Let a wrong argument reach the package's own check, as it does for a user."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
