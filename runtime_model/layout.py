"""Where the fields of the runtime's structs lie, by Go version (linux/amd64).

The data is `layouts/go<version>.json`, written by `mklayouts.py` from the DWARF of programs
that each version's toolchain built; every file names its source. Structs are called as in
package runtime (`g`, `m`, `schedt`, `ucontext`), those of other packages with their import path,
and an anonymous struct type by the field that has it (`p.gFree`).
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

Version = tuple[int, int]

_LAYOUTS: Final = Path(__file__).with_name("layouts")


class LayoutError(LookupError):
    """A Go version, struct, field or constant that the layouts do not have."""


@dataclass(frozen=True, slots=True)
class Field:
    """A field's place in its struct, in bytes; `struct` names its type if that is a struct."""

    offset: int
    size: int
    struct: str | None = None


@dataclass(frozen=True, slots=True)
class Struct:
    """A struct (or a named integer or array, without fields) and its size in bytes."""

    name: str
    size: int
    fields: Mapping[str, Field]


class Layout:
    """The structs and constants of one Go version's runtime."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.version = parse_version(document["version"])
        self.source: str = document["source"]
        self.constants: Mapping[str, int] = document["constants"]
        self._documents: Mapping[str, Any] = document["structs"]
        self._structs: dict[str, Struct] = {}
        self._places: dict[tuple[str, str], Field] = {}

    def __repr__(self) -> str:
        return f"Layout({self._go})"

    def __contains__(self, struct: str) -> bool:
        return struct in self._documents

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all recorded structs."""
        return tuple(self._documents)

    def struct(self, name: str) -> Struct:
        """The struct of that name; LayoutError if this version has none recorded."""
        found = self._structs.get(name)
        if found is None:
            document = self._documents.get(name)
            if document is None:
                raise LayoutError(f"{self._go}: no struct {name} is recorded")
            fields = {field: Field(*place) for field, place in document["fields"].items()}
            found = self._structs[name] = Struct(name, document["size"], fields)
        return found

    def field(self, struct: str, field_path: str) -> Field:
        """A field by its path from the struct: "m", or "sched.sp" through nested structs."""
        found = self._places.get((struct, field_path))
        if found is None:
            found = self._places[struct, field_path] = self._walk(struct, field_path)
        return found

    def has(self, struct: str, field_path: str) -> bool:
        """Whether this version has the struct and, in it, the field."""
        try:
            self.field(struct, field_path)
        except LayoutError:
            return False
        return True

    def offset(self, struct: str, field_path: str) -> int:
        """Offset in bytes of a field from the start of the struct."""
        return self.field(struct, field_path).offset

    def size(self, struct: str) -> int:
        """Size in bytes of a struct."""
        return self.struct(struct).size

    def constant(self, name: str) -> int:
        """A constant of package runtime, or with "abi." before it of internal/abi."""
        try:
            return self.constants[name]
        except KeyError:
            raise LayoutError(f"{self._go}: no constant {name} is recorded") from None

    @property
    def _go(self) -> str:
        return "Go {}.{}".format(*self.version)

    def _walk(self, struct: str, field_path: str) -> Field:
        offset = 0
        inner: str | None = struct
        place = Field(0, 0)
        for step in field_path.split("."):
            if inner is None:
                raise LayoutError(f"{self._go}: {struct}.{field_path}: no struct before .{step}")
            found = self.struct(inner).fields.get(step)
            if found is None:
                raise LayoutError(f"{self._go}: {struct}.{field_path}: {inner} has no field {step}")
            offset += found.offset
            inner = found.struct
            place = found
        return Field(offset, place.size, place.struct)


def parse_version(text: str) -> Version:
    """The minor version that "1.22", "go1.22", "1.22.10" or "go1.22rc1" names: (1, 22)."""
    match = re.fullmatch(r"(?:go)?(\d+)\.(\d+)(?:\.\d+|(?:beta|rc)\d+)?(?:[-+ ].*)?", text.strip())
    if match is None:
        raise ValueError(f"not a Go version: {text!r} (expected one like 1.22, go1.22 or 1.22.10)")
    return int(match[1]), int(match[2])


@functools.cache
def known_versions() -> tuple[Version, ...]:
    """The Go versions that have a layout file, oldest first."""
    names = (entry.name for entry in _LAYOUTS.iterdir())
    return tuple(sorted(parse_version(name[:-5]) for name in names if name.endswith(".json")))


@functools.cache
def load(version: Version) -> Layout:
    """The layout of one Go version; LayoutError, naming the known ones, for any other."""
    file = _LAYOUTS / "go{}.{}.json".format(*version)
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        known = ", ".join("{}.{}".format(*each) for each in known_versions())
        raise LayoutError("no layout of Go {}.{}; known: {}".format(*version, known)) from None
    return Layout(json.loads(text))


def go_asm_h(layout: Layout) -> str:
    """The go_asm.h of package runtime as `go tool compile -asmhdr` writes it, as far as recorded.

    Constants are `const_name`, struct sizes `type__size`, offsets `type_field`; only the
    package's own types and constants stand there.
    """
    lines = [
        f"#define const_{name} {value}"
        for name, value in layout.constants.items()
        if name.isidentifier()
    ]
    for name in layout.names:
        struct = layout.struct(name)
        if name.isidentifier() and struct.fields:
            lines.append(f"#define {name}__size {struct.size}")
            lines += [
                f"#define {name}_{field} {place.offset}" for field, place in struct.fields.items()
            ]
    head = "// generated from the layouts of Go {}.{}, package runtime\n\n".format(*layout.version)
    return head + "\n".join(lines) + "\n"
