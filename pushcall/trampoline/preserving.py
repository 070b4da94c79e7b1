"""A proof that a trampoline keeps everything, for every state that it may interrupt.

The contract (runtime/preempt.go, preempt_amd64.s): asyncPreempt is entered with the interrupted PC
pushed, calls asyncPreempt2 once, and returns to that PC with every register, flag and the
stack from the interrupted RSP up as they were. The call keeps the rules of calls
(runtime_model/abi_internal.py). Of asyncPreempt2 nothing is known but what every
version keeps for its caller: RSP, RBP, MXCSR, the stack above the call; since 1.26 also g in R14,
and what lay in p.xRegs.scratch lies in the block that p.xRegs.cache of the P that it is on then
points to (preempt_xreg.go). The trampoline may write to the dead stack below the interrupted RSP,
as deep as is checked for, and to those two.

The processor has AVX, of which only XMM0 to XMM15 are followed.

What is proven is proven for all register values, flags and stack contents, by following symbols
(dataflow.py). What cannot be followed is not proven.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from asm.rewrite import iced
from pushcall.trampoline.dataflow import Machine, Memory, State, entry, is_computed
from pushcall.trampoline.symbols import WIDTHS, Byte, Bytes, Sum, UnknownError, bytes_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asm.rewrite import Line
    from runtime_model.layout import Layout
    from runtime_model.version import GoVersion

MAX_STEPS: Final = 4_000  # of all paths together
_PC: Final = tuple(Byte("interrupted PC", n) for n in range(8))
_KEPT: Final = ("RSP", "RBP", "MXCSR")


def signed(distance: int) -> int:
    """A distance modulo 2**64 as one up or down."""
    return distance - 2**64 if distance >> 63 else distance


@dataclass(frozen=True)
class Contract:
    """What a trampoline may rely on: places by layout, and the depth of its stack."""

    version: GoVersion
    layout: Layout
    room: int  # bytes below the interrupted RSP that it may use
    callee: int  # the address of asyncPreempt2
    callee_room: int  # of them, what that needs below the return PC of its call

    @property
    def lowest(self) -> int:
        """The lowest byte of the stack that is its own, from RSP at entry: the PC is pushed."""
        return 8 - self.room


class _Objects(Memory):
    """The goroutine's stack, g, m, p and the saved vectors, before (0) and behind (1) the call."""

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        self.epoch = 0
        self.saved: dict[int, Byte] = {}  # of the block in p.xRegs.cache
        offset = contract.layout.offset
        self._pointers = {("g", offset("g", "m")): "m", ("m", offset("m", "p")): "p"}
        self._sizes = {name: contract.layout.size(name) for name in ("g", "m", "p")}
        self.scratch = self.block = 0
        if contract.version.extended_registers:
            self.scratch = offset("p", "xRegs.scratch")
            self.block = contract.layout.size("xRegState")
            self._pointers["p", offset("p", "xRegs.cache")] = "cache"
            self._sizes["cache"] = self.block

    def copy(self) -> _Objects:
        """An independent copy."""
        other = _Objects(self.contract)
        other.epoch, other.saved = self.epoch, self.saved
        return other

    def unwritten(self, at: Sum) -> Byte:
        distance = signed(at.distance)
        if at.origin == "RSP":
            if not self.contract.lowest <= distance < 0:
                raise UnknownError(
                    f"reads the stack at RSP{distance:+}: the interrupted function's"
                )
            return Byte(("dead stack", self.epoch, distance), 0)
        if at.origin == "FS_BASE":
            if not -8 <= distance < 0:
                raise UnknownError(f"reads TLS at FS{distance:+}: not g")
            return Byte(Sum("g", 0), distance + 8)
        if at.origin == "RIP":
            return Byte(("data", self.epoch, at.distance), 0)
        kind = "g" if at.origin == "g" else at.origin[0] if isinstance(at.origin, tuple) else ""
        if not (isinstance(kind, str) and 0 <= distance < self._sizes.get(kind, 0)):
            raise UnknownError("reads through a pointer that is none")
        for (owner, start), target in self._pointers.items():
            if kind == owner and start <= distance < start + 8:
                return Byte(Sum((target, self.epoch), 0), distance - start)
        if kind == "cache":
            return self.saved.get(distance, Byte(("block", distance), 0))
        return Byte((at, self.epoch), 0)

    def check_store(self, at: Sum) -> None:
        distance = signed(at.distance)
        if at.origin == "RSP" and self.contract.lowest <= distance < 8:
            return
        if self.block:
            if at.origin == ("p", self.epoch) and 0 <= distance - self.scratch < self.block:
                return
            if at.origin == ("cache", 1) and 0 <= distance < self.block:
                return
        raise UnknownError("writes to memory that is not the trampoline's")


@dataclass
class Path:
    """One way through the code: what is executed, by the place of each instruction."""

    state: State
    objects: _Objects
    steps: list[int] = field(default_factory=list)  # addresses; 0 for what an edit added
    before: dict[int, State] = field(default_factory=dict)  # state before the first visit
    at_call: State | None = None
    decisions: dict[Bytes, bool] = field(default_factory=dict)  # by flags and condition

    def fork(self) -> Path:
        """The same way so far."""
        return Path(
            self.state.copy(),
            self.objects.copy(),
            list(self.steps),
            dict(self.before),
            self.at_call,
            dict(self.decisions),
        )


def paths(code: Sequence[Line], contract: Contract, *, history: bool = False) -> list[Path]:
    """All ways from entry to RET. Raises UnknownError where one breaks the contract.

    history: keep the state before each instruction.
    """
    start = entry()
    start.memory = {Sum("RSP", n): byte for n, byte in enumerate(_PC)}
    waiting = [(0, Path(start, _Objects(contract)))]
    places = {line.insn.ip: n for n, line in enumerate(code) if line.insn.ip}
    finished, steps = [], 0
    while waiting:
        index, path = waiting.pop()
        while index >= 0:
            steps += 1
            if steps > MAX_STEPS:
                raise UnknownError("too many steps: a loop")
            if index >= len(code):
                raise UnknownError("runs off its end")
            insn = code[index].insn
            path.steps.append(insn.ip)
            if history:
                path.before.setdefault(insn.ip, path.state.copy())
            index = _step(insn, index, path, places, waiting, contract)
        finished.append(path)
    return finished


def _step(
    insn: Any,
    index: int,
    path: Path,
    places: dict[int, int],
    waiting: list[tuple[int, Path]],
    contract: Contract,
) -> int:
    """Executes one instruction; the index of the next, or -1 behind RET."""
    module = iced()
    flow = module.FlowControl
    machine = Machine(path.state, path.objects)
    if insn.flow_control == flow.NEXT:
        machine.execute(insn)
        return index + 1
    target = places.get(insn.near_branch_target)
    if insn.flow_control == flow.UNCONDITIONAL_BRANCH and target is not None:
        return target
    if (
        insn.flow_control == flow.CONDITIONAL_BRANCH
        and target is not None
        and insn.is_jcc_short_or_near
    ):
        question = (*path.state.registers["RFLAGS"], Byte(insn.condition_code, 0))
        if question not in path.decisions:
            other = path.fork()
            other.decisions[question] = False
            waiting.append((index + 1, other))
            path.decisions[question] = True
        return target if path.decisions[question] else index + 1
    if insn.flow_control == flow.CALL and insn.near_branch_target == contract.callee:
        _call(machine, path, contract)
        return index + 1
    if insn.flow_control == flow.RETURN and insn.mnemonic == module.Mnemonic.RET:
        if machine.pop(8) != _PC:
            raise UnknownError("RET takes something else than the interrupted PC")
        rsp = path.state.pointer("RSP")
        extra = insn.stack_pointer_increment - 8
        path.state.registers["RSP"] = bytes_of(Sum(rsp.origin, (rsp.distance + extra) % 2**64))
        _compare(path)
        return -1
    raise UnknownError(f"{insn}: leads out of the trampoline")


def _check_call(state: State, contract: Contract) -> None:
    """The rules of a call, as abi_internal.broken_by_trampoline has them; RSP is before it."""
    depth = signed(state.pointer("RSP").distance)
    if depth % 8:
        raise UnknownError("calls asyncPreempt2 with RSP not a multiple of 8")
    if depth - 8 - contract.callee_room < contract.lowest:
        raise UnknownError("calls asyncPreempt2 too deep in the stack")
    start = entry().registers
    if state.registers["MXCSR"] != start["MXCSR"]:
        raise UnknownError("calls asyncPreempt2 with another MXCSR")
    direction = state.registers["RFLAGS"][1]  # DF is bit 10; arithmetic leaves it
    if direction != start["RFLAGS"][1] and not is_computed(direction):
        raise UnknownError("calls asyncPreempt2 with another DF")


def _call(machine: Machine, path: Path, contract: Contract) -> None:
    """asyncPreempt2, under its contract."""
    state, objects = path.state, path.objects
    if path.at_call is not None:
        raise UnknownError("calls asyncPreempt2 twice")
    path.at_call = state.copy()
    machine.push(tuple(Byte("return address", n) for n in range(8)))
    machine.pop(8)
    rsp = state.pointer("RSP")
    if rsp.origin != "RSP":
        raise UnknownError("calls asyncPreempt2 on another stack")
    _check_call(state, contract)
    if objects.block:
        scratch = Sum(("p", 0), objects.scratch)
        for n in range(objects.block):
            byte = state.memory.get(Sum(scratch.origin, scratch.distance + n))
            objects.saved[n] = byte or Byte(("scratch", n), 0)
    depth = signed(rsp.distance)
    state.memory = {
        at: byte
        for at, byte in state.memory.items()
        if at.origin == "RSP" and signed(at.distance) >= depth
    }
    objects.epoch = 1
    for name, width in WIDTHS.items():
        if name not in _KEPT:
            state.registers[name] = tuple(Byte(("asyncPreempt2", name), n) for n in range(width))
    if objects.block:
        state.registers["R14"] = bytes_of(Sum("g", 0))


def _compare(path: Path) -> None:
    """The state behind RET against that at entry."""
    start = entry().registers | {"RSP": bytes_of(Sum("RSP", 8))}
    state = path.state.registers
    lost = [name for name in WIDTHS if state[name] != start[name]]
    if path.at_call is None:
        raise UnknownError("does not call asyncPreempt2")
    if lost:
        raise UnknownError(f"{', '.join(lost)} not restored")
