"""
Classes of named values, as ``dataclasses`` and ``typing`` have them, that cost next to nothing at import.

The originals write and compile methods for each class, which takes a quarter of a millisecond, for some sixty
classes in each run. These have one set of methods for all of them. To mypy they are the originals.
"""

from __future__ import annotations

import dataclasses
import operator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
    from typing import NamedTuple as NamedTuple
    from typing import TypedDict as TypedDict
else:

    def dataclass(cls=None, *, frozen=False):
        """Make a class one of named values; see ``dataclasses.dataclass``, whose functions know it too."""
        if cls is None:
            return lambda cls: dataclass(cls, frozen=frozen)
        own = set(vars(cls))
        # The original asks for a signature where there is none.
        cls.__doc__ = cls.__doc__ or cls.__qualname__
        cls = dataclasses.dataclass(init=False, repr=False, eq=False)(cls)
        methods = {"__init__": _init, "__repr__": _repr, "__eq__": _eq, "__hash__": None}
        if frozen:
            methods.update(__hash__=_hash, __setattr__=_refuse, __delattr__=_refuse)
        for name, method in methods.items():
            if name not in own:
                setattr(cls, name, method)
        return cls

    def _init(self, *args, **kwargs):
        fields = self.__dataclass_fields__
        values = dict(zip(fields, args))
        if len(args) > len(fields) or kwargs.keys() & values.keys() or kwargs.keys() - fields.keys():
            raise TypeError(f"{type(self).__name__}: too many values, one given twice, or one without a field")
        values.update(kwargs)
        for name, field in fields.items():
            if name in values:
                continue
            if field.default is not dataclasses.MISSING:
                values[name] = field.default
            elif field.default_factory is not dataclasses.MISSING:
                values[name] = field.default_factory()
            else:
                raise TypeError(f"{type(self).__name__}: {name} is missing")
        self.__dict__.update(values)

    def _values(self, what):
        return {
            name: getattr(self, name) for name, field in self.__dataclass_fields__.items() if getattr(field, what)
        }

    def _repr(self):
        return f"{type(self).__qualname__}({_named(_values(self, 'repr'))})"

    def _eq(self, other):
        return (
            _values(self, "compare") == _values(other, "compare") if type(other) is type(self) else NotImplemented
        )

    def _hash(self):
        return hash(tuple(_values(self, "compare").values()))

    def _refuse(self, name, value=None):
        raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")

    def _named(values):
        return ", ".join(f"{name}={value!r}" for name, value in values.items())

    class _NamedTupleType(type):
        def __new__(mcs, name, bases, namespace):
            fields = tuple(namespace.get("__annotations__", ()))
            defaults = {field: namespace[field] for field in fields if field in namespace}
            namespace.update({field: property(operator.itemgetter(at)) for at, field in enumerate(fields)})
            namespace.update(__slots__=(), _fields=fields, _field_defaults=defaults)
            return super().__new__(mcs, name, bases, namespace)

    class NamedTuple(tuple, metaclass=_NamedTupleType):
        """A tuple whose values have names; see ``typing.NamedTuple``."""

        def __new__(cls, *args, **kwargs):
            """Return one of these values, by position or by name."""
            fields = cls._fields
            if len(args) == len(fields) and not kwargs:
                return tuple.__new__(cls, args)
            values = {**cls._field_defaults, **dict(zip(fields, args)), **kwargs}
            if len(args) > len(fields) or values.keys() != set(fields) or kwargs.keys() & {*fields[: len(args)]}:
                raise TypeError(f"{cls.__name__}: a value is missing, is given twice, or has no field")
            return tuple.__new__(cls, [values[field] for field in fields])

        @classmethod
        def _make(cls, values):
            return cls(*values)

        def _asdict(self):
            return dict(zip(self._fields, self))

        def _replace(self, **changed):
            return type(self)(**{**self._asdict(), **changed})

        def __repr__(self):
            """Return what makes the same one."""
            return f"{type(self).__name__}({_named(self._asdict())})"

        def __getnewargs__(self):
            """Return what copies are made of."""
            return tuple(self)

    class _TypedDictType(type):
        def __new__(mcs, name, bases, namespace, total=True):
            return super().__new__(mcs, name, bases, namespace)

        def __call__(cls, *args, **kwargs):
            return dict(*args, **kwargs)

    class TypedDict(dict, metaclass=_TypedDictType):
        """What calls make is an ordinary dictionary; see ``typing.TypedDict``."""
