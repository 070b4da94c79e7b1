"""Keystone 0.9.2, one instruction at a time, behind a fence.

Keystone ends the process, hangs or miscompiles on some inputs, and needs 44 ms to start. It is
asked only for the instructions named here, in text that we rendered from checked operands
without memory; what it returns is disassembled and compared by the caller like everything else.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from asm.intel import Insn, Mem, render
from asm.machine import CannotEncodeError, Encoded

_ASKED = frozenset({"in", "out", "xabort"})


@cache
def _keystone() -> Any:
    import keystone

    return keystone, keystone.Ks(keystone.KS_ARCH_X86, keystone.KS_MODE_64)


def encode(insn: Insn) -> Encoded | None:
    """Encodes through Keystone, or returns None if the instruction is not let through.

    Raises:
        CannotEncodeError: Keystone refuses the operands.
    """
    if insn.mnemonic not in _ASKED or any(isinstance(o, Mem) for o in insn.operands):
        return None
    module, engine = _keystone()
    try:
        data, count = engine.asm(render(insn), as_bytes=True)
    except module.KsError as error:
        raise CannotEncodeError(f"no encoding for these operands ({error})") from None
    if not data or count != 1:
        raise CannotEncodeError("no encoding for these operands")
    return Encoded(data)
