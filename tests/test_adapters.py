"""Which adapter describes a model: libraries by name, further packages once they register."""

import pytest
from torch import nn

from repshift import EncoderSpec, InputError, adapters, compress, register_adapter
from repshift.adapters import describe
from repshift.plan import Plan


def named(module, *bases):
    """A model whose class says that it was defined in ``module``."""
    return type("Named", bases or (nn.Module,), {"__module__": module})()


@pytest.fixture(autouse=True)
def _only_here(monkeypatch):
    monkeypatch.setattr(adapters, "_REGISTERED", {})


def spec():
    return EncoderSpec(blocks=[nn.Identity()], norm2=[None], prefix_tokens=0)


def test_the_models_of_a_registered_package_are_recognised():
    ours = spec()
    with pytest.raises(InputError, match="not a model repshift knows"):
        describe(named("mine.vit"))
    register_adapter("mine", lambda model: ours)
    assert describe(named("mine.vit")) is ours
    assert describe(named("mine")) is ours
    compress(named("mine.vit"), Plan({})).detach()
    with pytest.raises(InputError, match="not a model repshift knows"):
        describe(named("mineral.vit"))


def test_the_longest_prefix_is_taken_whichever_came_first():
    general, special = spec(), spec()
    register_adapter("mine.video", lambda model: special)
    register_adapter("mine", lambda model: general)
    assert describe(named("mine.video.umt")) is special
    assert describe(named("mine.vit")) is general


def test_a_base_class_is_recognised_and_the_class_itself_comes_first():
    base, own = spec(), spec()
    register_adapter("library.models", lambda model: base)
    library = type(named("library.models"))
    assert describe(named("mine", library)) is base
    register_adapter("mine", lambda model: own)
    assert describe(named("mine", library)) is own


def test_a_part_of_a_known_library_can_have_its_own_adapter():
    own = spec()
    register_adapter("timm.models.mine", lambda model: own)
    assert describe(named("timm.models.mine")) is own
    with pytest.raises(InputError, match="timm's Named cannot be compressed"):
        describe(named("timm.models.other"))
