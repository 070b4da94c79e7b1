"""Which part of a function an unsafe point is, told from the code around.

The marks (PCDATA_UnsafePoint -2) say no more than that they are there. Who puts them:
cmd/internal/obj/x86/obj6.go (the branch of the stack check, the call of morestack), asm6.go (a
load of TLS in two instructions, of shared builds), cmd/compile/internal/liveness/plive.go (write
barriers; the operations whose opcode is an unsafe point, on amd64 duffzero, duffcopy and atomic
AND and OR with a result; whole functions: nosplit ones, and all of packages that are compiled
with -+ as parts of the runtime). No epilogue is marked on amd64.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import TYPE_CHECKING, Final

from asm.image import UnsafePointUnsafe
from runtime_model.preempt import Reason
from runtime_model.symtab import funcpkgpath

if TYPE_CHECKING:
    from collections.abc import Sequence

    from runtime_model.func_info import GoFunc
    from runtime_model.moduledata import GoBinary
    from runtime_model.safepoints import VerdictRange


class UnsafeKind(Enum):
    """What the compiler or the assembler marked."""

    UNKNOWN = ""
    STACK_CHECK = "stack check of the prologue"
    MORESTACK = "call of morestack"
    WRITE_BARRIER = "write barrier"
    TLS = "load of TLS"
    DUFF = "call of duffzero or duffcopy"
    ATOMIC = "atomic operation"
    NOSPLIT = "nosplit function"
    RUNTIME = "package compiled as part of the runtime"
    NOSPLIT_OR_RUNTIME = "nosplit function, or of a package compiled as part of the runtime"


_CHECK: Final = re.compile(
    r"cmp (?:rsp|r12|rax), qword ptr \[r(?:14|cx) \+ 0x1[08]\]|mov r12, rsp"
    r"|mov rsi, qword ptr \[rcx \+ 0x1[08]\]"
)
_FLAG: Final = re.compile(r"cmp dword ptr \[(?:0x|rip|r)[^]]*\], 0$|test e..?, e..?$")
_BARRIER: Final = ("<runtime.gcWriteBarrier", "<runtime.wbZero", "<runtime.wbMove")
_FRAME: Final = re.compile(
    r"push rbp|mov rbp, rsp|(?:sub|add) rsp, |lea rbp, \[rsp|mov qword ptr \[rsp[^]]*\], rbp|nop"
    r"|cmp (?:rsp|r12|rax), |(?:lea|mov|sub) r12, |lea rax, \[rsp|mov r(?:14|cx), qword ptr fs:"
    r"|mov\w* \w+ ptr \[rsp|mov r12, qword ptr \[r14|test r12, r12|jne "
)
_TAIL: Final = re.compile(r"jmp |mov\w* |nop|int3")
_SPILL: Final = re.compile(r"mov\w* (?:\w+, )?\w+ ptr \[rsp|nop")
_TARGET: Final = re.compile(r"j\w+ (0x[0-9a-f]+)")
_FRAME_BYTES: Final = 24  # that a prologue has behind its stack check
_NEIGHBOURS: Final = 40  # functions of the package that are asked, on either side


def unsafe_kinds(
    binary: GoBinary, function: GoFunc, ranges: Sequence[VerdictRange], texts: list[list[str]]
) -> list[UnsafeKind]:
    """The kind of each range; UNKNOWN for what is no unsafe point. `texts` are instructions."""
    unsafe = [i for i, each in enumerate(ranges) if each.verdict.reason is Reason.UNSAFE_POINT]
    before = {i: texts[i - 1][-1] if i and texts[i - 1] else "" for i in unsafe}
    kinds = [UnsafeKind.UNKNOWN] * len(ranges)
    for index in unsafe:
        kinds[index] = _of_stack_check(before[index], texts[index])
    left = [i for i in unsafe if kinds[i] is UnsafeKind.UNKNOWN]
    if len(left) == 1 and _is_body(left[0], kinds, texts):
        kinds[left[0]] = _whole(binary, function, UnsafeKind.STACK_CHECK in kinds)
        return kinds
    for index in left:
        kinds[index] = _of_body(before[index], texts[index])
    reached = [i for i in left if kinds[i] is UnsafeKind.WRITE_BARRIER]
    while reached:  # the two ways of a barrier meet again at the store, wherever that was put
        targets = [int(t, 16) for text in texts[reached.pop()] for t in _TARGET.findall(text)]
        for index in left:
            here = ranges[index]
            inside = any(here.start <= target < here.end for target in targets)
            if inside and kinds[index] is UnsafeKind.UNKNOWN:
                kinds[index] = UnsafeKind.WRITE_BARRIER
                reached.append(index)
    return kinds


def _of_stack_check(before: str, texts: list[str]) -> UnsafeKind:
    """The kind of a range, from its instructions and the one in front: of the stack check's two."""
    if _CHECK.match(before) and texts[0].startswith(("j", "cmp rsi, ", "sub r12, ")):
        return UnsafeKind.STACK_CHECK
    calls = ["<runtime.morestack" in text for text in texts]
    around = (text for text, call in zip(texts, calls, strict=True) if not call)
    if any(calls) and all(_SPILL.match(text) for text in around):
        return UnsafeKind.MORESTACK
    return UnsafeKind.UNKNOWN


def _of_body(before: str, texts: list[str]) -> UnsafeKind:
    """The kind of a range of the body."""
    code = "\n".join(texts)
    if (_FLAG.match(before) and texts[0].startswith("j")) or any(n in code for n in _BARRIER):
        return UnsafeKind.WRITE_BARRIER
    if "<runtime.duff" in code:
        return UnsafeKind.DUFF
    if all("fs:" in text for text in texts):
        return UnsafeKind.TLS
    if "lock cmpxchg" in code and len(texts) < 8:
        return UnsafeKind.ATOMIC
    return UnsafeKind.UNKNOWN


def _is_body(index: int, kinds: list[UnsafeKind], texts: list[list[str]]) -> bool:
    """Whether the range is all of the function but its prologue and the call of morestack."""
    for other, lines in enumerate(texts):
        if other == index or kinds[other] is not UnsafeKind.UNKNOWN:
            continue
        pattern = _FRAME if other < index else _TAIL
        if not all(pattern.match(line) for line in lines):
            return False
    return True


def _whole(binary: GoBinary, function: GoFunc, checks_stack: bool) -> UnsafeKind:
    """Why a whole body is unsafe: -+ makes all functions of a package so, nosplit has no check."""
    if checks_stack:
        return UnsafeKind.RUNTIME
    package = funcpkgpath(function.name)
    for step in (1, -1):
        for distance in range(1, _NEIGHBOURS):
            index = function.index + step * distance
            other = binary.table.function(index) if 0 <= index < len(binary.table) else None
            if other is None or funcpkgpath(other.name) != package:
                break
            told = _told_by(other)
            if told is not UnsafeKind.UNKNOWN:
                return told
    return UnsafeKind.NOSPLIT_OR_RUNTIME


def _told_by(other: GoFunc) -> UnsafeKind:
    """What a compiled function tells of its package: RUNTIME under -+, NOSPLIT if not, UNKNOWN."""
    if other.is_assembly or not other.has_locals_pointer_maps:
        return UnsafeKind.UNKNOWN
    points = other.unsafe_points()
    if points is None:
        return UnsafeKind.NOSPLIT
    starts = (0, *points.ends)
    sizes = [end - start for start, end in zip(starts, points.ends, strict=False)]
    # Up to the compare, the branch of the stack check, the rest of the prologue, the body.
    if len(sizes) < 3 or points.values[1] != UnsafePointUnsafe or sizes[1] > 6:
        return UnsafeKind.UNKNOWN
    if sizes[2] > _FRAME_BYTES:
        return UnsafeKind.NOSPLIT
    return UnsafeKind.RUNTIME if sizes[3:] and sizes[3] > _FRAME_BYTES else UnsafeKind.UNKNOWN
