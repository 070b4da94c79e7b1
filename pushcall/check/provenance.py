"""One preemption followed through the trampoline: which instruction put what where.

The goroutine runs undisturbed to a boundary and is preempted there through the whole runtime.
Before each instruction of the trampoline the registers are noted; addresses are the real ones, and
dataflow.py says of every byte of registers and stack what it is and who wrote it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from asm.rewrite import iced
from emulator.fault import GuestStopped
from emulator.frames import poison
from emulator.memory import UnmappedError
from pushcall.snippet.crash import Place, place
from pushcall.snippet.side import Side
from pushcall.trampoline.dataflow import Machine, Memory, State, entry
from pushcall.trampoline.mutations import text
from pushcall.trampoline.symbols import GENERAL, WIDTHS, Byte, Bytes, Sum, UnknownError, bytes_of
from runtime_model.events import PushedCall, Resumed
from runtime_model.policy import Policy
from runtime_model.timers import request_preemption
from runtime_model.trampoline import CALLEE, DATA, TEXT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asm.image import Function
    from emulator.linux.threads import Thread
    from emulator.observer import Observer
    from emulator.registers import Registers
    from runtime_model.boot import Config
    from runtime_model.runtime import Runtime

BUDGET: Final = 20_000  # instructions of one preemption
PLACE: Final = "memory"  # the origin of every address here
_KEPT: Final = ("RSP", "RBP", "MXCSR")


@dataclass(frozen=True)
class Step:
    """An executed instruction of the trampoline and the registers around it.

    Of a CALL, `after` is behind the callee's return.
    """

    number: int
    insn: Any
    before: Registers
    after: Registers
    at: Place

    @property
    def disassembly(self) -> str:
        """In Intel's syntax."""
        return text(self.insn)


@dataclass(frozen=True)
class Store:
    """What one step wrote: bytes by address."""

    step: Step
    data: dict[int, Byte]


class _Real(Memory):
    """Memory at the addresses that it really had; what lies there before is nobody's."""

    def __init__(self) -> None:
        self.registers: Registers | None = None  # before the instruction

    def unwritten(self, at: Sum) -> Byte:
        return Byte(("unwritten", at.distance), 0)

    def check_store(self, at: Sum) -> None:
        del at

    def address(self, insn: Any) -> Sum:
        return Sum(PLACE, operand_address(insn, self.registers))


def operand_address(insn: Any, registers: Registers | None) -> int:
    """The address of an instruction's memory operand (SDM volume 1, 3.7.5)."""
    assert registers is not None
    names = iced().Register
    if insn.is_ip_rel_memory_operand:
        return int(insn.ip_rel_memory_address)
    found = int(insn.memory_displacement)
    for register, scale in ((insn.memory_base, 1), (insn.memory_index, insn.memory_index_scale)):
        if names.RAX <= register <= names.R15:
            found += registers[GENERAL[register - names.RAX]] * scale
    segments = {names.FS: "FS_BASE", names.GS: "GS_BASE"}
    if insn.memory_segment in segments:
        found += registers[segments[insn.memory_segment]]
    return found % 2**64


def base_register(insn: Any) -> str:
    """The name of the register that a memory operand counts from; empty where there is none."""
    number = insn.memory_base - iced().Register.RAX
    return GENERAL[number] if 0 <= number < len(GENERAL) else ""


@dataclass
class Followed:
    """A preemption from the trampoline's entry to where the goroutine went on, or died."""

    interrupted: Registers
    steps: list[Step]
    landed: Registers | None  # None where it never came back
    died: str  # why not
    pushed: int | None  # the address at which pushCall put the PC
    state: State = field(default_factory=entry)
    stores: list[Store] = field(default_factory=list)
    loads: dict[int, list[tuple[int, Byte]]] = field(default_factory=dict)  # by step
    writers: dict[str, Step] = field(default_factory=dict)  # of registers, the latest
    written: list[tuple[str, Step]] = field(default_factory=list)  # registers, all the time
    computed: dict[Any, Step] = field(default_factory=dict)  # by what they computed
    call: Step | None = None  # of asyncPreempt2
    moved: tuple[int, int, int] = (0, 0, 0)  # by it: p.xRegs.scratch, to where, bytes

    def writer(self, address: int, before: Step | None = None) -> Store | None:
        """The last store to an address, before a step if one is given."""
        for store in reversed(self.stores):
            if address in store.data and (before is None or store.step.number < before.number):
                return store
        return None


class Follower:
    """A booted program of which single boundaries are preempted."""

    def __init__(self, config: Config) -> None:
        alone = dataclasses.replace(
            config, goroutines=1, policy=Policy(force_preempt_ns=None), budget=None
        )
        self.side = Side(alone)
        self.side.begin()
        self._snapshot: Any = None
        side = self.side
        watch = side.machine.observer
        assert watch is not None
        self._tracer = _Tracer(side, watch)
        side.on_left = self._left
        side.machine.events.subscribe(self._listen)
        self._resumed: Registers | None = None
        self._pushed: PushedCall | None = None

    def _left(self) -> None:
        if self._tracer.on and self._pushed is not None:
            side = self.side
            assert side.thread is not None
            self._resumed = side.thread.registers.copy()
            side.machine.stop()

    def _listen(self, event: object) -> None:
        if isinstance(event, PushedCall) and self._tracer.on:
            self._pushed = event
        elif isinstance(event, Resumed) and self._tracer.on:
            self.side.machine.stop()

    def follow(self, index: int) -> Followed:
        """Preempts at a boundary, by its number; may be asked again for a later one."""
        side, tracer = self.side, self._tracer
        side.advance(index - side.machine.user_instructions)
        before = side.machine.snapshot()
        assert side.thread is not None
        tid, interrupted = side.thread.tid, side.registers.copy()
        self._resumed = self._pushed = None
        tracer.begin()
        died = ""
        side.rt.stack_poison = poison(index, interrupted.block)  # as in the check
        side.rt.poison_dead_stack(interrupted["RSP"], 1 << 16)
        request_preemption(side.rt, side.thread, "check")
        side.machine.budget = side.machine.instructions + BUDGET
        try:
            side.machine.run()
        except (GuestStopped, UnmappedError) as stopped:
            died = str(stopped)
        finally:
            side.machine.budget = None
            tracer.on = False
        landed = self._resumed
        last = landed or getattr(tracer.thread, "registers", interrupted).copy()
        pushed = self._pushed.rsp_after if self._pushed is not None else None
        followed = Followed(interrupted, [], landed, died, pushed)
        _execute(followed, tracer, last, side)
        side.machine.restore(before)
        side.rt.watch.preempted.clear()
        side.thread = side.machine.threads[tid]
        return followed


class _Tracer:
    """In place of the machine's observer: notes the registers before each traced instruction."""

    def __init__(self, side: Side, watch: Observer) -> None:
        self.side, self.watch = side, watch
        self.on = False
        self.thread: Thread | None = None
        self.noted: list[tuple[int, Registers]] = []
        self.scratch: list[int] = []  # p.xRegs.scratch and what is in the cache, at each
        self.cache: list[int] = []
        self.code = {
            line.ip: line
            for function in _trampoline(side.rt)
            for line in iced().Decoder(
                64, b"".join(i.data for i in function.instructions), ip=function.address
            )
        }
        side.machine.observer = self

    def begin(self) -> None:
        """Notes from now on."""
        self.on, self.noted, self.scratch, self.cache = True, [], [], []

    def stepping(self, thread: Thread, rip: int) -> None:
        """Observer's."""
        self.watch.stepping(thread, rip)
        if self.on and rip in self.code:
            self.thread = thread
            self.noted.append((rip, self.side.machine.registers(thread).copy()))
            scratch = cache = 0
            rt = self.side.rt
            if rt.version.extended_registers:
                p = rt.p(rt.allp[0])  # a check has one P
                scratch, cache = p.field_address("xRegs.scratch"), p.xRegs_cache
            self.scratch.append(scratch)
            self.cache.append(cache)

    def left(self, thread: Thread) -> None:
        """Observer's."""
        self.watch.left(thread)

    def entered(self, thread: Thread) -> None:
        """Observer's."""
        self.watch.entered(thread)


def _trampoline(rt: Runtime) -> Sequence[Function]:
    if rt.executable is not None:
        return rt.executable.trampoline.functions
    return [each for each in rt.text.functions if TEXT <= each.address < DATA]


def _callee(rt: Runtime) -> int | None:
    if rt.executable is not None:
        return rt.executable.callee
    return rt.text.address(CALLEE)


def _execute(followed: Followed, tracer: _Tracer, last: Registers, side: Side) -> None:
    """Runs what was noted again, on symbols."""
    memory = _Real()
    state = followed.state
    if followed.pushed is not None:
        for n in range(8):
            state.memory[Sum(PLACE, followed.pushed + n)] = Byte("interrupted PC", n)
    machine = Machine(state, memory)
    callee = _callee(side.rt)
    for number, (rip, before) in enumerate(tracer.noted):
        after = tracer.noted[number + 1][1] if number + 1 < len(tracer.noted) else last
        insn = tracer.code[rip]
        step = Step(number, insn, before, after, place(side.rt, rip))
        followed.steps.append(step)
        memory.registers = before
        # Where RSP is, is known; what it came from is of no interest.
        state.registers["RSP"] = bytes_of(Sum(PLACE, before["RSP"]))
        known = dict(state.registers)
        moved = {byte.value for data in known.values() for byte in data}
        machine.loaded, machine.stored = [], []
        if insn.near_branch_target == callee:
            _call(followed, step, tracer, number)
            continue
        _one(machine, insn, step)
        for register in _written(insn, known, state, before, after):
            followed.writers[register] = step
            followed.written.append((register, step))
            for byte in state.registers[register]:
                if byte not in known[register]:
                    followed.computed.setdefault(byte.value, step)
        data = {at.distance: state.memory[at] for at in machine.stored}
        for byte in data.values():
            if byte.value not in moved:
                followed.computed.setdefault(byte.value, step)
        if data:
            followed.stores.append(Store(step, data))
        if machine.loaded:
            here = [(at.distance, byte) for at, byte in machine.loaded]
            followed.loads[number] = here


def _one(machine: Machine, insn: Any, step: Step) -> None:
    """One instruction on symbols; where they end, what changed is the step's own."""
    flow = iced().FlowControl
    if insn.flow_control == flow.RETURN:
        machine.pop(8)
        return
    if insn.flow_control == flow.CALL:
        machine.push(tuple(Byte("return address", n) for n in range(8)))
        return
    if insn.flow_control != flow.NEXT:
        return
    try:
        machine.execute(insn)
    except UnknownError:
        for name, width in WIDTHS.items():
            if step.before[name] != step.after[name]:
                made: Bytes = tuple(Byte(("computed", step.number), n) for n in range(width))
                machine.state.registers[name] = made


def _written(
    insn: Any, known: dict[str, Bytes], state: State, before: Registers, after: Registers
) -> list[str]:
    """The registers that an instruction wrote, even with what they held."""
    module = iced()
    access = module.OpAccess
    writes = (access.WRITE, access.COND_WRITE, access.READ_WRITE, access.READ_COND_WRITE)
    names = [name for name in WIDTHS if state.registers[name] != known[name]]
    names += [name for name in WIDTHS if before[name] != after[name]]
    for used in module.InstructionInfoFactory().info(insn).used_registers():
        if used.access in writes:
            full = module.RegisterExt.full_register(used.register)
            if module.Register.RAX <= full <= module.Register.R15:
                names.append(GENERAL[full - module.Register.RAX])
            elif module.Register.XMM0 <= used.register < module.Register.XMM0 + 16:
                names.append(f"XMM{used.register - module.Register.XMM0}")
    if insn.rflags_modified:
        names.append("RFLAGS")
    return list(dict.fromkeys(names))


def _call(followed: Followed, step: Step, tracer: _Tracer, number: int) -> None:
    """asyncPreempt2: what it kept, and the vectors that it moved (preempt_xreg.go)."""
    followed.call = step
    state = followed.state
    rsp = step.before["RSP"]
    for dead in [at for at in state.memory if rsp - 4096 <= at.distance < rsp]:
        del state.memory[dead]
    for name, width in WIDTHS.items():
        kept = name in _KEPT or step.before[name] == step.after[name]
        if not kept:
            state.registers[name] = tuple(Byte(("asyncPreempt2", name), n) for n in range(width))
            followed.writers[name] = step
    if tracer.scratch[number] and number + 1 < len(tracer.cache) and tracer.cache[number + 1]:
        size = tracer.side.rt.layout.size("xRegState")
        scratch, cache = tracer.scratch[number], tracer.cache[number + 1]
        followed.moved = (scratch, cache, size)
        for store in list(followed.stores):
            moved = {
                at - scratch + cache: byte
                for at, byte in store.data.items()
                if scratch <= at < scratch + size
            }
            store.data.update(moved)
            for at, byte in moved.items():
                state.memory[Sum(PLACE, at)] = byte
