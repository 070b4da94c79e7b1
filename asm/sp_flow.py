"""How far SP lies below its value at the entry, found in machine code (for what brings no table).

Go's assembler writes the table from the statements (layout.py). Listings and Intel or AT&T text
have none: there the depth is followed along the code's own jumps. Where two ways meet with
different depths, or SP is loaded with something unknown, nothing is known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from asm.image import PcTable, PcValue

if TYPE_CHECKING:
    from asm.image import Function

_WORD: Final = 8


def sp_flow(function: Function) -> PcTable | None:
    """The table of a function; None where the depth is not known at every instruction reached."""
    import capstone
    from capstone import x86

    engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    engine.detail = True
    code = {i.address: next(engine.disasm(i.data, i.address), None) for i in function.instructions}
    depths: dict[int, int] = {}
    # (address, depth of SP, depth that BP holds or None)
    work: list[tuple[int, int, int | None]] = [(function.address, 0, None)]
    while work:
        at, depth, base = work.pop()
        known = depths.get(at)
        if known is not None:
            if known != depth:
                return None
            continue
        insn = code.get(at)
        if insn is None:
            continue  # outside of the function, or a byte that is no instruction: not followed
        depths[at] = depth
        if insn.id in (x86.X86_INS_RET, x86.X86_INS_UD2, x86.X86_INS_HLT):
            continue
        jump = insn.group(capstone.CS_GRP_JUMP)
        target = insn.operands[0] if jump and insn.operands else None
        if target is not None and target.type == x86.X86_OP_IMM:
            work.append((target.imm, depth, base))
        if insn.id in (x86.X86_INS_JMP, x86.X86_INS_LJMP):
            continue
        after = _after(insn, depth, base, x86)
        if after is None:
            return None
        work.append((at + insn.size, *after))
    return PcTable(
        tuple(
            PcValue(i.address, i.end, depths[i.address])
            for i in function.instructions
            if i.address in depths
        )
    )


def _after(insn: Any, depth: int, base: int | None, x86: Any) -> tuple[int, int | None] | None:
    """(depth of SP, depth in BP) behind an instruction that does not jump."""
    rsp, rbp = x86.X86_REG_RSP, x86.X86_REG_RBP
    operands = insn.operands
    if insn.id in (x86.X86_INS_PUSH, x86.X86_INS_PUSHFQ):
        return depth + (operands[0].size if operands else _WORD), base
    if insn.id in (x86.X86_INS_POP, x86.X86_INS_POPFQ):
        to_bp = bool(operands) and operands[0].type == x86.X86_OP_REG and operands[0].reg == rbp
        return depth - (operands[0].size if operands else _WORD), None if to_bp else base
    if insn.id == x86.X86_INS_CALL:
        return depth, base
    if insn.id == x86.X86_INS_LEAVE:
        return None if base is None else (base - _WORD, None)
    written = insn.regs_access()[1]
    if rbp in written:
        copied = insn.id == x86.X86_INS_MOV and operands[1].type == x86.X86_OP_REG
        return depth, depth if copied and operands[1].reg == rsp else None
    if rsp not in written:
        return depth, base
    if insn.id in (x86.X86_INS_SUB, x86.X86_INS_ADD) and operands[1].type == x86.X86_OP_IMM:
        change = operands[1].imm
        return depth + (change if insn.id == x86.X86_INS_SUB else -change), base
    if insn.id == x86.X86_INS_LEA and operands[1].mem.base == rsp and not operands[1].mem.index:
        return depth - operands[1].mem.disp, base
    if insn.id == x86.X86_INS_MOV and operands[1].type == x86.X86_OP_REG:
        return None if operands[1].reg != rbp or base is None else (base, base)
    return None
