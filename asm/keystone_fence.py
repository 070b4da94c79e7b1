"""Keystone 0.9.2, one instruction at a time, behind a fence.

Keystone ends the process, hangs or miscompiles on some inputs, and needs 44 ms to start. It is
asked only for the instructions named here, in text that we rendered from checked operands: no
memory but for the x87, and that with a base register; what it returns is disassembled and
compared by the caller like everything else.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from asm.intel import Insn, Mem, render
from asm.machine import CannotEncodeError, Encoded

_ASKED = frozenset({"in", "out"})

_X87 = frozenset(
    """fadd fsub fsubr fmul fdiv fdivr fcom fcomp fiadd fisub fisubr fimul fidiv fidivr ficom ficomp
    fld fst fstp fild fist fistp fisttp fbld fbstp fxch ffree fucom fucomp fcomi fcomip fucomi
    fucomip faddp fsubp fsubrp fmulp fdivp fdivrp fcmovb fcmove fcmovbe fcmovu fcmovnb fcmovne
    fcmovnbe fcmovnu""".split()  # noqa: SIM905
)


def names() -> frozenset[str]:
    """The instructions that are let through."""
    return _ASKED | _X87


@cache
def _keystone() -> Any:
    import keystone

    return keystone, keystone.Ks(keystone.KS_ARCH_X86, keystone.KS_MODE_64)


def encode(insn: Insn) -> Encoded | None:
    """Encodes through Keystone, or returns None if the instruction is not let through.

    Raises:
        CannotEncodeError: Keystone refuses the operands.
    """
    memory = [o for o in insn.operands if isinstance(o, Mem)]
    if insn.mnemonic in _X87:
        if any(o.rip or o.segment or not o.base or not o.width for o in memory):
            return None
    elif insn.mnemonic not in _ASKED or memory:
        return None
    module, engine = _keystone()
    try:
        data, count = engine.asm(render(insn), as_bytes=True)
    except module.KsError as error:
        raise CannotEncodeError(f"no encoding for these operands ({error})") from None
    if not data or count != 1:
        raise CannotEncodeError("no encoding for these operands")
    return Encoded(data)
