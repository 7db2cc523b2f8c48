"""Classes of named values are what the standard library makes, and no code is compiled for them."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import typing

import pytest

import _mta_records


def make(dataclass, frozen):
    """The same classes, by one of the two decorators."""

    @dataclass(frozen=frozen)
    class Thing:
        """A thing."""

        name: str
        number: int = 3
        parts: list[str] = dataclasses.field(default_factory=list)
        hidden: str | None = dataclasses.field(default=None, repr=False, compare=False)

        def twice(self) -> int:
            """Return twice the number."""
            return 2 * self.number

    @dataclass(frozen=frozen)
    class More(Thing):
        """A thing with more."""

        more: str = "more"

    return Thing, More


def said(function):
    """What a function returns, or the type of what it raises."""
    try:
        return function()
    except (TypeError, AttributeError) as err:
        return type(err)


USES = [
    lambda Thing, More: Thing("a").__dict__,
    lambda Thing, More: Thing("a", 4, ["x"], "y").__dict__,
    lambda Thing, More: Thing(number=1, name="a").twice(),
    lambda Thing, More: Thing(),
    lambda Thing, More: Thing("a", 1, [], None, 5),
    lambda Thing, More: Thing("a", name="b"),
    lambda Thing, More: Thing("a", other="b"),
    lambda Thing, More: repr(Thing("a", hidden="secret")).rpartition(".")[2],
    lambda Thing, More: Thing("a") == Thing("a", hidden="other"),
    lambda Thing, More: Thing("a") == Thing("b"),
    lambda Thing, More: Thing("a") == "a",
    lambda Thing, More: Thing("a") == More("a"),
    lambda Thing, More: Thing("a").parts is Thing("a").parts,
    lambda Thing, More: hash(Thing("a", parts=())) == hash(Thing("a", parts=(), hidden="b")),
    lambda Thing, More: hash(Thing("a")),
    lambda Thing, More: setattr(Thing("a"), "name", "b"),
    lambda Thing, More: delattr(Thing("a"), "name"),
    lambda Thing, More: More("a", 1, more="b").__dict__,
    lambda Thing, More: dataclasses.asdict(More("a", 1, ["x"])),
    lambda Thing, More: [field.name for field in dataclasses.fields(More)],
    lambda Thing, More: dataclasses.replace(Thing("a"), number=7).__dict__,
    lambda Thing, More: dataclasses.is_dataclass(Thing("a")),
    lambda Thing, More: copy.deepcopy(Thing("a", parts=["x"])).__dict__,
]


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("use", USES)
def test_a_dataclass_is_like_the_original(use, frozen):
    original, ours = (make(made, frozen) for made in (dataclasses.dataclass, _mta_records.dataclass))
    assert said(lambda: use(*ours)) == said(lambda: use(*original))


def test_methods_of_its_own_stay():
    @_mta_records.dataclass
    class Thing:
        name: str

        def __repr__(self):
            return "its own"

    assert repr(Thing("a")) == "its own"


class Ours(_mta_records.NamedTuple):
    """A row."""

    name: str
    number: int = 3
    parts: tuple[str, ...] = ()

    def twice(self) -> int:
        """Return twice the number."""
        return 2 * self.number


class Original(typing.NamedTuple):
    """A row."""

    name: str
    number: int = 3
    parts: tuple[str, ...] = ()

    def twice(self) -> int:
        """Return twice the number."""
        return 2 * self.number


ROWS = [
    lambda Row: tuple(Row("a")),
    lambda Row: tuple(Row(number=1, name="a", parts=("x",))),
    lambda Row: Row("a", 1, ()).twice(),
    lambda Row: Row("a", 1).number,
    lambda Row: Row(),
    lambda Row: Row("a", 1, (), 4),
    lambda Row: Row("a", name="b"),
    lambda Row: Row("a", other="b"),
    lambda Row: repr(Row("a")).partition("(")[2],
    lambda Row: Row("a") == ("a", 3, ()),
    lambda Row: Row("a") == Row("a"),
    lambda Row: hash(Row("a")) == hash(("a", 3, ())),
    lambda Row: [*Row("a")],
    lambda Row: Row("a")._asdict(),
    lambda Row: tuple(Row("a")._replace(number=5)),
    lambda Row: type(Row("a")._replace(number=5)) is Row,
    lambda Row: Row("a")._replace(other=5) if Row is Ours else Row(other=5),
    lambda Row: Row._fields,
    lambda Row: Row._field_defaults,
    lambda Row: tuple(Row._make(["a", 1, ()])),
    lambda Row: setattr(Row("a"), "name", "b"),
    lambda Row: setattr(Row("a"), "other", "b"),
    lambda Row: isinstance(Row("a"), tuple),
    lambda Row: copy.deepcopy(Row("a")) == Row("a"),
    lambda Row: pickle.loads(pickle.dumps(Row("a", 1))) == Row("a", 1),
    lambda Row: sorted([Row("b"), Row("a")])[0].name,
]


@pytest.mark.parametrize("use", ROWS)
def test_a_named_tuple_is_like_the_original(use):
    assert said(lambda: use(Ours)) == said(lambda: use(Original))


def test_no_code_is_compiled_for_a_class(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("code is compiled")

    monkeypatch.setattr("builtins.exec", refuse)
    monkeypatch.setattr("builtins.eval", refuse)
    monkeypatch.setattr("builtins.compile", refuse)
    Thing, _ = make(_mta_records.dataclass, True)

    class Row(_mta_records.NamedTuple):
        name: str

    assert (Thing("a").name, Row("a").name) == ("a", "a")


def test_a_typed_dictionary_is_an_ordinary_one():
    class Facts(_mta_records.TypedDict, total=False):
        name: str
        number: int

    assert type(Facts(name="a")) is dict
    assert Facts(name="a") == {"name": "a"}
