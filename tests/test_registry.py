"""Methods of one's own: registered, found by label, in plan files and by commands, or refused."""

import json
import sys
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from repshift import (
    InputError,
    Merge,
    Plan,
    Prune,
    Random,
    Reduction,
    Reverse,
    Score,
    Shift,
    register,
    registry,
)
from repshift.registry import registered
from repshift.search.memo import Memo

FILE = '''
from dataclasses import dataclass
from typing import ClassVar

from repshift import Score, register


@register
@dataclass(frozen=True)
class Mine(Score):
    """The largest value of each token."""

    name: ClassVar[str] = "my-score"
    power: float = 1.0

    def __call__(self, snapshot):
        return snapshot.tokens.float().abs().amax(-1) ** self.power
'''


@pytest.fixture(autouse=True)
def _registry_as_before(monkeypatch):
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))
    yield
    sys.modules.pop("my_score", None)


def own(**settings):
    """A registered score with these settings, by name its type and default."""
    body = {"name": "my-score", "__annotations__": {"name": ClassVar[str]}}
    for key, (kind, default) in settings.items():
        body["__annotations__"][key] = kind
        body[key] = default
    return register(dataclass(frozen=True)(type("Mine", (Score,), body)))


def test_a_registered_score_reads_back_from_label_and_json():
    mine = own(
        power=(float, 1.0), count=(int, 3), way=(str, "sum of all"), whole=(bool, False),
        of=(Score, Reverse(Shift())),
    )  # fmt: skip
    assert registered(Score)["my-score"] is mine
    for score in (mine(), mine(2.5, -1, "max", True, Random(4)), mine(1e20, of=mine())):
        plan = Plan({0: 3}, score, Merge())
        assert Plan.from_json(plan.to_json()) == plan
        assert Plan.from_method(plan.method, {0: 3}) == plan
        assert Plan.from_method(str(score), {0: 3}) == Plan({0: 3}, score)
    assert str(mine()) == "my-score(1.0, 3, sum of all, False, reverse(shift(mlp, l2)))"


def test_a_whole_number_serves_for_a_float():
    mine = own(power=(float, 1.0))
    assert Plan.from_json(Plan({}, mine(2)).to_json()) == Plan({}, mine(2.0))


def test_the_same_class_again_takes_the_place_of_the_earlier_one():
    first, second = own(), own()
    assert first is not second
    assert registered(Score)["my-score"] is second


def test_a_reduction_is_found_where_it_stands_alone():
    @register
    @dataclass(frozen=True)
    class Half(Prune):
        name: ClassVar[str] = "half"

    assert Plan.from_method("half", {0: 1}) == Plan({0: 1}, reduction=Half())
    assert Plan.from_method("random + half", {}).reduction == Half()
    assert "half" in registered(Reduction)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"power": (float, 1)}, "its default 1 would be read as a whole number; write 1.0"),
        ({"way": (str, "a, b")}, "is 'a, b', which a label cannot hold; use a number, a word"),
        ({"way": (str, "")}, "is '', which a label cannot hold"),
        ({"way": (tuple, (1, 2))}, r"is \(1, 2\), which a label cannot hold"),
        ({"way": (object, None)}, "is None, which a label cannot hold"),
        ({"other": (Reduction, Prune())}, "or another score"),
        ({"needs": (frozenset, frozenset())}, "no setting but a part of every score; annotate it"),
    ],
)
def test_a_setting_that_no_label_holds_is_refused(settings, message):
    with pytest.raises(InputError, match=message):
        own(**settings)
    assert "my-score" not in registered(Score)


def test_what_is_no_method_is_refused():
    class Plain(Score):
        name: ClassVar[str] = "plain"

    @dataclass(frozen=True)
    class Nameless(Score):
        pass

    @dataclass(frozen=True)
    class Spaced(Score):
        name: ClassVar[str] = "my score"

    @dataclass(frozen=True)
    class Named(Score):
        name: str = "named"

    @dataclass(frozen=True)
    class Needy(Score):
        name: ClassVar[str] = "needy"
        power: float

    @dataclass(frozen=True)
    class Taken(Score):
        name: ClassVar[str] = "shift"

    @dataclass(frozen=True)
    class Inherited(Shift):
        pass

    before = dict(registry._METHODS)
    for method, message in (
        (Plain, "is not a frozen dataclass; write @dataclass"),
        (Nameless, "name is None, which no label can hold; write name: ClassVar"),
        (Spaced, "name is 'my score', which no label can hold"),
        (Named, "Named.name is no setting but a part of every score; annotate it as ClassVar"),
        (Needy, "Needy.power has no default that can be read; write power: type = value"),
        (Taken, "'shift' of .*Taken is that of repshift.scores.shift.Shift already"),
        (Inherited, "'shift' of .*Inherited is that of repshift.scores.shift.Shift already"),
    ):
        with pytest.raises(InputError, match=message):
            register(method)
    assert before == registry._METHODS


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_class_is_refused():
    for method in (int, Shift(), "shift"):
        with pytest.raises(InputError, match="takes a class derived from repshift.Score or"):
            register(method)


def test_results_of_ones_own_score_are_found_by_its_code_too(tmp_path):
    from repshift.evaluation.imports import import_module

    file, found = tmp_path / "my_score.py", []
    for power in ("self.power", "2 * self.power"):
        file.write_text(FILE.replace("self.power", power))
        import_module(str(file))
        found.append(Plan.from_method("reverse(my-score)", {0: 1}).identity)
    assert len(set(found)) == 2
    assert json.loads(found[0]).keys() - {"code"} == {"drop", "score", "reduction"}
    assert json.loads(Plan({0: 1}).identity) == json.loads(Plan({0: 1}).to_json())
    assert Memo(None, {})(found[0], lambda: 1) == 1


def test_commands_import_ones_own_score(run, photos, tmp_path):
    (tmp_path / "my_score.py").write_text(FILE)
    plan = {"drop": {"0": 0.5}, "score": {"name": "my-score", "power": 2}}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    bench = ["bench", "--model", "digits-vit", "--images", photos, "--batch-size", 2]
    bench += ["--threads", torch.get_num_threads(), "--out", "b"]
    status, _, err = run(
        *bench, "--import", "./my_score.py", "--plan", "plan.json",
        "--methods", "my-score", "my-score(3) + merge",
    )  # fmt: skip
    assert status == 0, err
    rows = json.loads((tmp_path / "b" / "bench.json").read_text())["rows"]
    assert [(row["method"], row["tokens"]) for row in rows[3:]] == [
        ("my-score(1.0)", 33), ("my-score(3.0) + merge", 33), ("my-score(2.0)", 33),
    ]  # fmt: skip
    status, _, err = run(
        "show", photos / "0.png", "--model", "digits-vit", "--plan", "plan.json",
        "--import", "my_score.py",
    )  # fmt: skip
    assert status == 0, err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--methods", "my-score"], "'my-score' is not one of"),
        (["--methods", "my-score"], "(by a command: --import my_module or --import ./my_file.py)"),
        (["--plan", "plan.json"], "plan.json: 'my-score' is not one of"),
        (["--import", "my_scores"], "no such module; install it, or pass its file, such as ./my_s"),
        (["--import", "./none.py"], "--import ./none.py: there is no such file"),
        (["--import", "json.py"], "--import json.py: there is another module json; rename"),
        (["--import", "broken.py"], "NameError: name 'nothing' is not defined (broken.py, line 2)"),
        (["--import", "taken.py"], "--import taken.py: the name 'shift' of taken.Mine is that of"),
    ],
)
def test_what_cannot_be_imported_is_one_line(run, tmp_path, arguments, says):
    (tmp_path / "plan.json").write_text('{"drop": {"0": 2}, "score": {"name": "my-score"}}')
    (tmp_path / "json.py").write_text("")
    (tmp_path / "broken.py").write_text("x = 1\nnothing\n")
    (tmp_path / "taken.py").write_text(FILE.replace("my-score", "shift"))
    before = sorted(tmp_path.rglob("*"))
    status, _, err = run("bench", "--model", "digits-vit", *arguments)
    assert status == 2
    assert [line for line in err.splitlines() if line.startswith("repshift: ")] == [err.strip()]
    assert says in err
    assert sorted(tmp_path.rglob("*")) == before
