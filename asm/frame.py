"""The frame that Go's assembler gives a function (cmd/internal/obj/x86/obj6.go: preprocess).

The base pointer's slot, the stack check, the adjustment of SP, their reversal at each RET, and
the offsets of x+8(FP) and x-8(SP), all by Go version:

- up to 1.16 the check loads g into CX, from 1.17 g is R14: as it is in ABIInternal, loaded from
  TLS in ABI0;
- up to 1.16 a frame beyond StackBig is checked against stackPreempt explicitly, from 1.17 by
  the carry of the subtraction;
- up to 1.20 the frame is one SUBQ and BP is stored in it, from 1.21 BP is pushed first;
- from 1.14 the stack check and the morestack call are unsafe points (issue 35470);
- from 1.14 ADJSP moves what x-8(SP) and x+8(FP) count from;
- up to 1.25 a WRAPPER function adjusts g._panic.argp.

All of them are compared with the toolchains' bytes.
"""

from __future__ import annotations

from typing import NamedTuple

from asm.image import PCDATA_UnsafePoint, TextFlag, UnsafePointSafe, UnsafePointUnsafe
from asm.operand import Kind, Name, Operand, Prog, Text, is_register
from asm.registers import REGISTERS, RegClass
from asm.source import Diagnostics, Fault

StackSmall = 128
StackBig = 4096
# Of a build without race detector; only the check of huge frames up to 1.16 uses it.
StackGuard = {(1, 13): 880, (1, 14): 896, (1, 15): 928, (1, 16): 928}
stackPreempt = -1314  # 0xfffffffffffffade
PtrSize = 8
RegSize = 8
_STACKGUARD0 = 16
_G_PANIC = 32

_PUSH = {"PUSHQ": 8, "PUSHFQ": 8, "PUSHL": 4, "PUSHFL": 4, "PUSHW": 2, "PUSHFW": 2}
_POP = {"POPQ": 8, "POPFQ": 8, "POPL": 4, "POPFL": 4, "POPW": 2, "POPFW": 2}


class Frame(NamedTuple):
    """A function with its frame: what is to be encoded, in order."""

    progs: list[Prog]
    flags: TextFlag


def zero_argument_calls(go: tuple[int, int], symbol: str) -> bool:
    """Whether a call of this runtime function leaves a leaf a leaf (isZeroArgRuntimeCall)."""
    if symbol in {"runtime.panicdivide", "runtime.panicwrap", "runtime.panicshift"}:
        return True
    if go >= (1, 26):
        return symbol in {"runtime.panicBounds", "runtime.panicExtend"}
    return symbol.startswith(("runtime.panicIndex", "runtime.panicSlice"))


class _Builder:
    def __init__(self, text: Text, go: tuple[int, int], diagnostics: Diagnostics) -> None:
        self.text = text
        self.go = go
        self.diagnostics = diagnostics
        self.flags = text.flags
        self.at_ret: Prog | None = None
        self.epilogues: dict[int, Prog] = {}  # where a branch to a RET goes

    # Operands and instructions of the frame

    def prog(self, op: str, *operands: Operand, source: str = "") -> Prog:
        at = self.at_ret
        span = at.span if at is not None else self.text.span
        return Prog(op, list(operands), span, source, inserted=True)

    def reg(self, name: str) -> Operand:
        return Operand(Kind.REG, self.text.span, reg=REGISTERS[name])

    def const(self, value: int) -> Operand:
        return Operand(Kind.CONST, self.text.span, offset=value)

    def mem(self, base: str, offset: int = 0) -> Operand:
        return Operand(Kind.MEM, self.text.span, reg=REGISTERS[base], offset=offset)

    def mark(self, value: int) -> list[Prog]:
        """Begins or ends an unsafe point, which there are from 1.14 on."""
        if self.go < (1, 14):
            return []
        return [self.prog("PCDATA", self.const(PCDATA_UnsafePoint), self.const(value))]

    def branch(self, op: str, target: Prog, label: str) -> Prog:
        prog = self.prog(op, source=f"{op} {label}")
        prog.target = target
        return prog

    def adjsp(self, amount: int) -> Prog:
        text = f"SUBQ ${amount}, SP" if amount > 0 else f"ADDQ ${-amount}, SP"
        prog = self.prog("ADJSP", self.const(amount), source=text)
        prog.spadj = amount
        return prog

    def two(self, op: str, source: Operand, destination: Operand) -> Prog:
        return self.prog(
            op, source, destination, source=f"{op} {_show(source)}, {_show(destination)}"
        )


def build(text: Text, go: tuple[int, int], diagnostics: Diagnostics) -> Frame:
    """Inserts the frame of a function and resolves its pseudo registers."""
    builder = _Builder(text, go, diagnostics)
    if not text.progs:
        return Frame([], text.flags)
    autoffset = max(0, text.frame)
    nosplit = TextFlag.NOSPLIT in text.flags
    has_call = any(p.op == "CALL" for p in text.progs)
    frameless_leaf = autoffset == 0 and not has_call
    # Up to 1.20 a frameless NOSPLIT function had no BP slot: a guess at what the runtime needs.
    guessed = go <= (1, 20) and autoffset == 0 and nosplit
    bpsize = 0
    if not (TextFlag.NOFRAME in text.flags or guessed or frameless_leaf):
        bpsize = PtrSize
        autoffset += bpsize
    if autoffset < StackSmall and not nosplit and _is_leaf(text, autoffset, go):
        nosplit = True
        builder.flags |= TextFlag.NOSPLIT
    if autoffset % RegSize:
        diagnostics.add(Fault(text.span, f"the frame of {text.name} is not a multiple of 8 bytes"))

    body = [*text.progs]
    head: list[Prog] = []
    tail: list[Prog] = []
    wrapper = TextFlag.WRAPPER in text.flags and go <= (1, 25)
    if not nosplit:
        head, tail = _stacksplit(builder, autoffset)
    elif wrapper:
        head = _load_g(builder)
    head += _prologue(builder, autoffset, bpsize)
    if wrapper:
        check, rest = _wrapper(builder, autoffset)
        head += check
        tail += rest
    progs = _body(builder, head, body, autoffset, bpsize)
    return Frame([*progs, *tail], builder.flags)


def _is_leaf(text: Text, autoffset: int, go: tuple[int, int]) -> bool:
    for prog in text.progs:
        if prog.op == "CALL":
            symbol = prog.operands[0].symbol if prog.operands else ""
            # What such a call uses of the stack must fit below the small frame.
            if not zero_argument_calls(go, symbol) or autoffset >= StackSmall - PtrSize:
                return False
    return True


def _g(builder: _Builder) -> str:
    return "CX" if builder.go <= (1, 16) else "R14"


def _load_g(builder: _Builder) -> list[Prog]:
    if builder.go >= (1, 17) and builder.text.abi == "ABIInternal":
        return []
    return [builder.two("MOVQ", builder.mem("TLS"), builder.reg(_g(builder)))]


def _stacksplit(builder: _Builder, framesize: int) -> tuple[list[Prog], list[Prog]]:
    """The check at the entry, and the call of morestack that stands behind the function."""
    go = builder.go
    g = _g(builder)
    tmp = "AX" if go <= (1, 16) else "R12"
    guard = builder.mem(g, _STACKGUARD0)
    unsafe, unsafe_call = builder.mark(UnsafePointUnsafe), builder.mark(UnsafePointUnsafe)
    safe, safe_again = builder.mark(UnsafePointSafe), builder.mark(UnsafePointSafe)
    morestack = "morestack" if TextFlag.NEEDCTXT in builder.text.flags else "morestack_noctxt"
    symbol = Operand(Kind.MEM, builder.text.span, name=Name.EXTERN, symbol=f"runtime.{morestack}")
    # Logically the call is still in the prologue: SP is where it was at the entry.
    spfix = builder.prog("NOP")
    spfix.spadj = -framesize
    call = builder.prog("CALL", symbol, source=f"CALL runtime.{morestack}(SB)")
    head = _load_g(builder)
    jumps: list[Prog] = []
    if framesize <= StackSmall:
        head += [builder.two("CMPQ", builder.reg("SP"), guard), *unsafe]
    elif framesize <= StackBig:
        head += [
            builder.two("LEAQ", builder.mem("SP", StackSmall - framesize), builder.reg(tmp)),
            builder.two("CMPQ", builder.reg(tmp), guard),
            *unsafe,
        ]
    elif go >= (1, 17):
        # The frame is so large that SP minus it may wrap around.
        jumps.append(builder.branch("JCS", call, "morestack"))
        head += [
            builder.two("MOVQ", builder.reg("SP"), builder.reg(tmp)),
            *unsafe,
            builder.two("SUBQ", builder.const(framesize - StackSmall), builder.reg(tmp)),
            *jumps,
            builder.two("CMPQ", builder.reg(tmp), guard),
        ]
    else:
        # stackPreempt is larger than any SP: it is compared by itself, then SP - guard.
        jumps.append(builder.branch("JEQ", call, "morestack"))
        head += [
            builder.two("MOVQ", guard, builder.reg("SI")),
            *unsafe,
            builder.two("CMPQ", builder.reg("SI"), builder.const(stackPreempt)),
            *jumps,
            builder.two("LEAQ", builder.mem("SP", StackGuard[go]), builder.reg(tmp)),
            builder.two("SUBQ", builder.reg("SI"), builder.reg(tmp)),
            builder.two(
                "CMPQ", builder.reg(tmp), builder.const(framesize + StackGuard[go] - StackSmall)
            ),
        ]
    head += [builder.branch("JLS", call, "morestack"), *safe]
    again = builder.branch("JMP", head[0], "entry")
    again.spadj = framesize
    return head, [spfix, *unsafe_call, call, *safe_again, again]


def _prologue(builder: _Builder, autoffset: int, bpsize: int) -> list[Prog]:
    local = autoffset - bpsize
    sp, bp = builder.reg("SP"), builder.reg("BP")
    if builder.go >= (1, 21):
        progs: list[Prog] = []
        if bpsize:
            progs = [builder.prog("PUSHQ", bp, source="PUSHQ BP"), builder.two("MOVQ", sp, bp)]
        return progs + ([builder.adjsp(local)] if local else [])
    progs = [builder.adjsp(autoffset)] if autoffset else []
    if bpsize:
        slot = builder.mem("SP", local)
        progs += [builder.two("MOVQ", bp, slot), builder.two("LEAQ", slot, bp)]
    return progs


def _wrapper(builder: _Builder, autoffset: int) -> tuple[list[Prog], list[Prog]]:
    """If g._panic.argp is this function's argument pointer, it becomes the bottom of its frame."""
    old = builder.go <= (1, 16)
    panic, argp = ("BX", "DI") if old else ("R12", "R13")
    end = builder.prog("NOP")
    check = builder.two("LEAQ", builder.mem("SP", autoffset + RegSize), builder.reg(argp))
    head = [
        builder.two("MOVQ", builder.mem(_g(builder), _G_PANIC), builder.reg(panic)),
        builder.two("TESTQ", builder.reg(panic), builder.reg(panic)),
        builder.branch("JNE", check, "checkargp"),
        end,
    ]
    tail = [
        check,
        builder.two("CMPQ", builder.mem(panic), builder.reg(argp)),
        builder.branch("JNE", end, "end"),
        builder.two("MOVQ", builder.reg("SP"), builder.mem(panic)),
        builder.branch("JMP", end, "end"),
    ]
    return head, tail


def _body(
    builder: _Builder, head: list[Prog], body: list[Prog], autoffset: int, bpsize: int
) -> list[Prog]:
    """Resolves offsets from the pseudo registers and expands each RET."""
    out: list[Prog] = []
    deltasp = 0
    for prog in (*head, *body):
        for operand in prog.operands:
            if operand.name is Name.AUTO:
                operand.offset += deltasp - bpsize
            elif operand.name is Name.PARAM:
                operand.offset += deltasp + RegSize
            else:
                continue
            operand.name = Name.NONE
            operand.symbol = ""
            operand.reg = REGISTERS["SP"]
        op = prog.op
        if op in _PUSH:
            prog.spadj = _PUSH[op]
        elif op in _POP:
            prog.spadj = -_POP[op]
        elif op == "ADJSP" and prog.operands and builder.go >= (1, 14):
            prog.spadj = prog.operands[0].offset
        elif op == "RET":
            if deltasp != autoffset:
                builder.diagnostics.add(
                    Fault(
                        prog.span,
                        f"PUSH and POP are unbalanced at this RET: SP is {deltasp} below its "
                        f"value at the entry, {autoffset} expected",
                    )
                )
            out += _epilogue(builder, prog, autoffset, bpsize)
            continue
        deltasp += prog.spadj
        out.append(prog)
    for prog in body:
        if prog.target is not None:
            prog.target = builder.epilogues.get(id(prog.target), prog.target)
    return out


def _epilogue(builder: _Builder, ret: Prog, autoffset: int, bpsize: int) -> list[Prog]:
    out: list[Prog] = []
    builder.at_ret = ret
    local = autoffset - bpsize
    if autoffset:
        if builder.go >= (1, 21):
            if local:
                out.append(builder.adjsp(-local))
            if bpsize:
                pop = builder.prog("POPQ", builder.reg("BP"), source="POPQ BP")
                pop.spadj = -bpsize
                out.append(pop)
        else:
            if bpsize:
                out.append(builder.two("MOVQ", builder.mem("SP", local), builder.reg("BP")))
            out.append(builder.adjsp(-autoffset))
        # What follows is reached by a branch within the same frame.
        ret.spadj = autoffset
    builder.at_ret = None
    if out:
        builder.epilogues[id(ret)] = out[0]
    if ret.operands and _is_tail_call(ret.operands[0], builder.go):
        ret.op = "JMP"
    return [*out, ret]


def _is_tail_call(operand: Operand, go: tuple[int, int]) -> bool:
    """RET symbol(SB), and from 1.27 on RET of a register."""
    if operand.kind is Kind.REG:
        return go >= (1, 27) and is_register(operand, RegClass.GPR)
    return operand.kind is Kind.MEM and operand.name in {Name.EXTERN, Name.STATIC}


def _show(operand: Operand) -> str:
    """An operand of the frame in Go's notation."""
    if operand.kind is Kind.CONST:
        return f"${operand.offset}"
    assert operand.reg is not None
    if operand.kind is Kind.REG:
        return operand.reg.name
    offset = str(operand.offset) if operand.offset else ""
    return f"{offset}({operand.reg.name})"
