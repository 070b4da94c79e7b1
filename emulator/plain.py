"""Dataclasses as plain values of JSON, and back by the types that their fields declare.

Made for files that may come from anywhere: a field can become nothing but what its type says,
classes are named only among subclasses that are declared here (SHARED), and no code of theirs is
run. Whole numbers lie between -2**63 and 2**64 - 1. Objects of SHARED classes keep their identity:
one that two fields refer to is one object again.
"""

from __future__ import annotations

import base64
import binascii
import types
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, Final, Union, get_args, get_origin, get_type_hints

from emulator import extended
from emulator.linux import open_file
from emulator.registers import SIZE, Registers

SHARED: Final[dict[str, type[Any]]] = {
    each.__name__: each
    for each in (
        open_file.Input,
        open_file.Directory,
        open_file.Null,
        open_file.Output,
        open_file.Pipe,
        open_file.ReadEnd,
        open_file.WriteEnd,
        open_file.EventFd,
        open_file.EventPoll,
    )
}
_SHARED_BASES: Final = (open_file.OpenFile, open_file.Pipe)


class NotPlainError(ValueError):
    """A plain value is not one of the type that is wanted."""


_HINTS: Final[dict[type[Any], dict[str, Any]]] = {}


def _hints(kind: type[Any]) -> dict[str, Any]:
    if kind not in _HINTS:
        hints = get_type_hints(kind)
        _HINTS[kind] = {each.name: hints[each.name] for each in fields(kind)}
    return _HINTS[kind]


def dump(value: Any, seen: dict[int, int] | None = None) -> Any:
    """The plain value of a dataclass, of registers, or of what their fields hold."""
    seen = {} if seen is None else seen
    if isinstance(value, Enum):
        return value.value
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode()
    if isinstance(value, (list, tuple)):
        return [dump(each, seen) for each in value]
    if isinstance(value, dict):
        return [[dump(key, seen), dump(each, seen)] for key, each in value.items()]
    if isinstance(value, Registers):
        return [dump(value.block), dump(value.extended)]
    if isinstance(value, _SHARED_BASES):
        if id(value) in seen:
            return seen[id(value)]
        seen[id(value)] = len(seen)
        return [type(value).__name__, _dump_fields(value, seen)]
    if is_dataclass(value):
        return _dump_fields(value, seen)
    raise TypeError(f"{type(value).__name__} has no plain form")


def _dump_fields(value: Any, seen: dict[int, int]) -> list[Any]:
    return [dump(getattr(value, name), seen) for name in _hints(type(value))]


class Loader:
    """Makes values of plain ones. Raises NotPlainError."""

    def __init__(self) -> None:
        self._shared: list[Any] = []

    def load(self, kind: Any, plain: Any) -> Any:
        """A value of the type `kind`: a dataclass, Registers, or what fields are declared as."""
        origin = get_origin(kind)
        if origin in (Union, types.UnionType):
            (kind,) = (each for each in get_args(kind) if each is not types.NoneType)
            return None if plain is None else self.load(kind, plain)
        if origin is not None:
            return self._container(origin, get_args(kind), plain)
        if kind in (bool, float, str, int):
            _require(type(plain) is kind, plain)
            _require(kind is not int or -(2**63) <= plain < 2**64, plain)
            return plain
        if kind in (bytes, bytearray):
            return kind(_bytes(plain))
        if kind is Registers:
            return _registers(plain)
        if isinstance(kind, type) and issubclass(kind, Enum):
            try:
                return kind(plain)
            except ValueError:
                raise NotPlainError(f"{plain!r} is no {kind.__name__}") from None
        if isinstance(kind, type) and issubclass(kind, _SHARED_BASES):
            return self._shared_object(kind, plain)
        if is_dataclass(kind) and isinstance(kind, type):
            made: Any = object.__new__(kind)
            self._fill(made, plain)
            return made
        raise TypeError(f"{kind} has no plain form")

    def _fill(self, made: Any, plain: Any) -> None:
        hints = _hints(type(made))
        _require(isinstance(plain, list) and len(plain) == len(hints), plain)
        for (name, kind), value in zip(hints.items(), plain, strict=True):
            object.__setattr__(made, name, self.load(kind, value))

    def _shared_object(self, kind: type[Any], plain: Any) -> Any:
        if type(plain) is int:
            _require(0 <= plain < len(self._shared), plain)
            found = self._shared[plain]
            _require(isinstance(found, kind), plain)
            return found
        _require(isinstance(plain, list) and len(plain) == 2, plain)
        _require(isinstance(plain[0], str) and plain[0] in SHARED, plain)
        exact = SHARED[plain[0]]
        _require(issubclass(exact, kind), plain)
        made = object.__new__(exact)
        self._shared.append(made)
        self._fill(made, plain[1])
        return made

    def _container(self, origin: Any, parts: tuple[Any, ...], plain: Any) -> Any:
        _require(isinstance(plain, list), plain)
        if origin is dict:
            _require(all(isinstance(pair, list) and len(pair) == 2 for pair in plain), plain)
            return {self.load(parts[0], k): self.load(parts[1], v) for k, v in plain}
        if origin is list or (len(parts) == 2 and parts[1] is ...):
            return origin(self.load(parts[0], each) for each in plain)
        _require(origin is tuple and len(parts) == len(plain), plain)
        return tuple(self.load(part, each) for part, each in zip(parts, plain, strict=True))


def _require(holds: bool, plain: Any) -> None:
    if not holds:
        raise NotPlainError(f"unexpected {repr(plain)[:60]}")


def _bytes(plain: Any) -> bytes:
    _require(isinstance(plain, str), plain)
    try:
        return base64.b64decode(plain, validate=True)
    except (binascii.Error, ValueError):
        raise NotPlainError("not base64") from None


def _registers(plain: Any) -> Registers:
    _require(isinstance(plain, list) and len(plain) == 2, plain)
    block, state = (_bytes(part) for part in plain)
    _require(len(block) == SIZE and len(state) in (0, extended.SIZE), plain)
    return Registers(block, state)
