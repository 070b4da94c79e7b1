"""Keystone 0.9.2, one instruction at a time, behind a fence.

Keystone ends the process, hangs or miscompiles on some inputs. It is asked only for the
instructions named here, in text that we rendered from checked operands; what it returns is
disassembled and compared by the caller like everything else.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from asm.intel import Insn, IntelOperand, Mem, render
from asm.machine import REGISTER, CannotEncodeError, Encoded

# No line of these has killed, hung or misled it; each result is compared all the same.
_NAMES = """in out enter lldt ltr sldt str lmsw smsw verr verw xsaveopt xsaves xsavec xrstors
 xabort invpcid fld fst fstp fild fist fistp fisttp fbld fbstp fadd fsub fsubr fmul fdiv fdivr fcom
 fcomp fcompp fucom fucomp fucompp fcomi fucomi fxch ffree fcmovb fcmove fcmovbe fcmovu fcmovnb
 fcmovne fcmovnbe fcmovnu frstor fnsave fnstsw"""
_ASKED = frozenset(_NAMES.split())


@cache
def _keystone() -> Any:
    import keystone  # 44 ms that most assemblies never pay

    return keystone, keystone.Ks(keystone.KS_ARCH_X86, keystone.KS_MODE_64)


def encode(insn: Insn) -> Encoded | None:
    """Encodes through Keystone, or returns None if the instruction is not let through.

    Raises:
        CannotEncodeError: Keystone refuses the operands.
    """
    if insn.mnemonic not in _ASKED:
        return None
    placeholder = 0x11223344
    operands: list[IntelOperand] = []
    rip = False
    for operand in insn.operands:
        if isinstance(operand, Mem) and operand.rip:
            rip = True
            operands.append(operand._replace(disp=placeholder))
            continue
        if isinstance(operand, Mem) and operand.segment and not operand.base:
            return None  # it makes these RIP-relative
        if isinstance(operand, str) and REGISTER[operand].kind == "h":
            return None  # AH with a REX register ends the process
        operands.append(operand)
    text = render(insn._replace(operands=tuple(operands)))
    module, engine = _keystone()
    try:
        data, count = engine.asm(text, as_bytes=True)
    except module.KsError as error:
        raise CannotEncodeError(f"no encoding for these operands ({error})") from None
    if not data or count != 1:
        raise CannotEncodeError("no encoding for these operands")
    if not rip:
        return Encoded(data)
    field = data.find(placeholder.to_bytes(4, "little"))
    if field < 0:
        raise CannotEncodeError("no encoding relative to RIP")
    return Encoded(data[:field] + bytes(4) + data[field + 4 :], field)
