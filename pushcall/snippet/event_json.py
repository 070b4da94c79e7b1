"""Events and registers as JSON documents have them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

from emulator.registers import Registers

if TYPE_CHECKING:
    from emulator.events import Event


def event_json(event: Event) -> dict[str, Any]:
    """An event as JSON: its kind, then its fields; addresses as hexadecimal strings."""
    document: dict[str, Any] = {"event": type(event).__name__}
    for f in dataclasses.fields(event):
        value = getattr(event, f.name)
        document[f.name] = _json(f.name, value)
    return document


_ADDRESSES: Final = frozenset(
    {
        "pc", "rsp", "frame", "ucontext", "siginfo", "handler", "target", "resume", "address",
        "old_lo", "old_hi", "new_lo", "new_hi",
        "rsp_before", "rsp_after", "stack_before", "stack_after", "interrupted", "before", "after",
    }
)  # fmt: skip


def _json(name: str, value: Any) -> Any:
    if isinstance(value, Registers):
        return registers_json(value)
    if isinstance(value, list | tuple):
        return [_json(name, item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _json(f.name, getattr(value, f.name)) for f in dataclasses.fields(value)}
    if name in _ADDRESSES and isinstance(value, int) and not isinstance(value, bool):
        return f"{value:#x}"
    return value


def registers_json(registers: Registers) -> dict[str, str]:
    """All registers as hexadecimal strings, by architectural name.

    YMM, ZMM and K registers are there where they hold something beyond XMM.
    """
    return {name: f"{registers[name]:#x}" for name in registers.names()}
