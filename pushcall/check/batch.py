"""Tries recorded boundaries in batches inside the machine (asm/go/batch_amd64.s, batch_hooks).

The runtime is left out: a second processor has the trampoline at its address, a stub in place of
asyncPreempt2 that overwrites all that it may with complements, and in place of the snippet a catch
at the boundaries whose frames are being tried. It goes through their lists by itself, in passes;
Python hears only of a frame that lost something. Catches are calls, so the PCs of one pass lie at
least a call's size apart.

Compared for each frame: RIP, RSP, general registers, RFLAGS, XMM0 to XMM15, MXCSR and the stack
window. Compared once for each pass: x87, what AVX adds (which no frame here has in use), and all
memory but the trampoline's own data, which must be as it was. A frame that loses anything says
what; of a pass after which anything else has changed each list is tried again by itself, and one
that does it again is for the direct way.
"""

from __future__ import annotations

import ctypes
import mmap
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from emulator.cpu import StopReason
from emulator.fault import GuestStopped
from emulator.hooks import host_address, machine_code_hooks
from emulator.memory import PAGE, Memory, Prot
from emulator.registers import LAYOUT, SIZE, Registers
from emulator.unicorn_cpu import UnicornCpu
from pushcall.check.batch_hooks import CALL_SIZE, ENTRIES, STEP, Word, python_steps
from runtime_model.assembly import assemble_batch, exports
from runtime_model.call import SHIFT
from runtime_model.events import Loss
from runtime_model.losses import memory_losses

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asm.image import Image
    from asm.source import Source
    from emulator.frames import FrameList, Frames
    from emulator.native.free_run import FreeCpu
    from runtime_model.runtime import Runtime
    from runtime_model.trampoline import Trampoline

CACHE: Final = 0x0F00_0000  # the block that p.xRegs.cache names
DONE: Final = 0x3E_0000  # gates
LOST: Final = 0x3E_0010
NO_INSTRUCTION: Final = b"\x06"  # invalid in 64-bit mode: any stray jump faults
POISON: Final = b"\xdb"
RUN: Final = 100_000  # instructions that one frame may take
CHUNK: Final = 20 * RUN  # that are run before a look at whether frames come and go
STRAYS: Final = 16  # frames that never come to their landing, before a pass is given up
DEAD_STACK: Final = 1024  # bytes below RSP that a batch overwrites, at least

_X87: Final = ("FCW", "FSW", "FTW", *(f"ST{i}" for i in range(8)))
_X87_AT: Final = slice(LAYOUT["FCW"][0], LAYOUT["XMM0"][0])
_UNCOMPARED: Final = frozenset({*_X87, "FS_BASE", "GS_BASE"})  # of each landing
_HOOKED: Final = {
    "judge": "batch.judge",
    "next": "batch.next",
    "begin": "batch.start",
    "save": "runtime.asyncPreempt2",
}
_STEP = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_void_p)


@dataclass
class Attempt:
    """What became of lists of frames: losses by boundary, and boundaries that are not judged.

    Those never came to their landing; or memory, x87 or what AVX adds is not as it was after their
    list. They are for the direct way.
    """

    lost: dict[int, list[Loss]] = field(default_factory=dict)
    unjudged: set[int] = field(default_factory=set)


class Batch:
    """The processor that tries frames, for the trampoline of a booted runtime."""

    code_writable = Prot.NONE  # or WRITE, where it catches what lands by itself
    done = DONE  # the gate behind the last frame
    base_word: Final = int.from_bytes(8 * POISON, "little")

    def __init__(self, rt: Runtime, trampoline: Trampoline | Source | None, frames: Frames) -> None:
        self.rt = rt
        self.frames = frames
        self.dead = max(DEAD_STACK, -(-rt.asyncPreemptStack // 64) * 64)
        image = self._assembled(trampoline)
        self.memory = Memory()
        self._unchanging: list[memoryview] = []  # regions that no preemption may change
        self._own: list[tuple[memoryview, bytes]] = []  # the trampoline's, and ours
        for segment in image.segments:
            if segment.data:
                prot = Prot.READ | (Prot.WRITE if segment.writable else Prot.NONE)
                view = self._map(
                    segment.name, segment.address, segment.data, prot, segment.executable
                )
                if segment.writable:
                    self._own.append((view, bytes(view)))
        for region in rt.memory.regions:
            # The goroutine's stack, poisoned; g, m and p as they are, for TLS and p.xRegs.
            if region.name.startswith("stack of goroutine"):
                self._stack = region.start
                view = self._map("stack", region.start, POISON * region.size, Prot.RW)
                self._unchanging.append(view)
            elif region.name == "heap":
                used = rt.memory.u64(rt.heap) - region.start
                view = self._map("heap", region.start, bytes(region.view[:used]), Prot.RW)
                self._unchanging.append(view)
        self.code = [
            (s.address, -(-len(s.data) // PAGE) * PAGE) for s in rt.user.segments if s.executable
        ]
        for address, size in self.code:
            prot = Prot.READ | self.code_writable
            view = self._map("snippet", address, NO_INSTRUCTION * size, prot, executable=True)
            if self.code_writable:
                self._unchanging.append(view)
        # In an executable asyncPreempt stands among the code that it interrupts.
        own = rt.executable
        self._standing = own.standing(exports(image)) if own is not None else []
        for address, data in self._standing:
            self.memory.write(address, data)
        for segment in rt.user.segments:
            if segment.data and not segment.executable:
                prot = Prot.RW if segment.writable else Prot.READ
                view = self._map(segment.name, segment.address, segment.data, prot)
                if segment.writable or self.code_writable:
                    self._unchanging.append(view)
        self._state = symbol_address(image, "batch.state")
        self._next = symbol_address(image, "batch.next")
        self._start = symbol_address(image, "batch.start")
        self._landed = symbol_address(image, "batch.landed")
        self._scratch_stack = symbol_address(image, "batch.stack") + 64
        self._caught: tuple[int, ...] = ()
        self._words = self._block()
        self._prepare_words(image)
        self._prepare_p()
        self.cpu = self._processor(image)
        self._base = self._content()

    # What another processor than Unicorn does in another way (native_batch.py).

    def _assembled(self, trampoline: Trampoline | Source | None) -> Image:
        rt, own = self.rt, self.rt.executable
        if own is None:
            gates = {"batch.done": DONE, "batch.lost": LOST}
            return assemble_batch(rt.version, rt.layout, gates, trampoline)
        self.done = DONE + SHIFT
        gates = {"batch.done": self.done, "batch.lost": LOST + SHIFT}
        return assemble_batch(rt.version, rt.layout, gates, own.trampoline, shift=SHIFT)

    def _block(self) -> memoryview[int]:
        """The words that the steps work on."""
        return memoryview(mmap.mmap(-1, PAGE)).cast("Q")

    def _processor(self, image: Image) -> UnicornCpu | FreeCpu:
        cpu = UnicornCpu(self.memory, counting=_counting(self.rt))
        cpu.add_gates(self.done, self.done + LOST - DONE + 16)
        self._hook(cpu, image)
        return cpu

    def _place(self, address: int) -> int:
        """Where the steps find the guest's memory."""
        view, offset = self.memory.locate(address, 1)
        return host_address(view) + offset

    def _map(
        self, name: str, address: int, data: bytes, prot: Prot, executable: bool = False
    ) -> memoryview:
        size = -(-len(data) // PAGE) * PAGE
        region = self.memory.map(
            name, address, size, prot | (Prot.EXEC if executable else Prot.NONE)
        )
        region.view[: len(data)] = data
        return region.view

    def _prepare_words(self, image: Image) -> None:
        words = self._words
        words[Word.STATE] = self._place(self._state)
        words[Word.LOAD] = self._place(symbol_address(image, "batch.load"))
        words[Word.OPPOSITE] = self._place(symbol_address(image, "batch.opposite"))
        words[Word.VERDICT] = self._place(symbol_address(image, "batch.verdict"))
        words[Word.DELTA] = (self._place(self._stack) - self._stack) % 2**64
        words[Word.DEAD] = self.dead // 8
        words[Word.BASE] = self.base_word

    def _prepare_p(self) -> None:
        """The P that the trampoline finds from g has a cached block, and poison in scratch."""
        rt = self.rt
        if not rt.version.extended_registers:
            return
        pp = rt.p(rt.allp[0])
        size = rt.layout.size("xRegState")
        self._map("xRegState", CACHE, POISON * size, Prot.RW)
        self.memory.put_u64(pp.field_address("xRegs.cache"), CACHE)
        scratch = pp.field_address("xRegs.scratch")
        self.memory.write(scratch, POISON * size)
        self._words[Word.SCRATCH] = self._place(scratch)
        self._words[Word.CACHE] = self._place(CACHE)
        self._words[Word.AREA] = size // 8

    def _hook(self, cpu: UnicornCpu, image: Image) -> None:
        """Has the host step in where batch_amd64.s says so."""
        machine = machine_code_hooks({"STEP": STEP}) if cpu.counting != "python" else None
        if machine is not None:
            self._kept: object = machine[0]
            steps = {name: machine[1]["STEP"] + offset for name, offset in ENTRIES.items()}
        else:
            callbacks = {
                name: _STEP(lambda *_, step=step: step())
                for name, step in python_steps(self._words).items()
            }
            self._kept = callbacks
            steps = {
                name: ctypes.cast(callback, ctypes.c_void_p).value or 0
                for name, callback in callbacks.items()
            }
        block = host_address(self._words.cast("B"))
        for name, symbol in _HOOKED.items():
            cpu.call_before(symbol_address(image, symbol), steps[name], block)

    def _content(self) -> list[bytes]:
        return [bytes(view) for view in self._unchanging]

    def renew(self) -> None:
        """Forgets what the trampoline keeps of the preemptions so far."""
        for view, data in self._own:
            view[:] = data

    def attempt(self, lists: Sequence[FrameList]) -> Attempt:
        """Tries the frames of these lists."""
        attempt = Attempt()
        for group in self._passes(lists, attempt):
            if not self._pass(group, attempt):
                for frames in group:
                    if len(group) == 1 or not self._pass([frames], attempt):
                        attempt.unjudged.update(map(self.frames.index, self.frames.walk(frames)))
        return attempt

    def _passes(self, lists: Sequence[FrameList], attempt: Attempt) -> list[list[FrameList]]:
        """The lists in groups whose PCs lie a call's size apart."""
        groups: list[list[FrameList]] = []
        for frames in sorted(lists, key=lambda frames: frames.pc):
            if not self._room(frames.pc):  # no CALL fits at the end of the snippet's pages
                attempt.unjudged.update(map(self.frames.index, self.frames.walk(frames)))
                continue
            for group in groups:
                if self._apart(group[-1].pc, frames.pc):
                    group.append(frames)
                    break
            else:
                groups.append([frames])
        return groups

    def _room(self, pc: int) -> bool:
        if any(at < pc + CALL_SIZE and pc < at + len(data) for at, data in self._standing):
            return False
        return any(start <= pc <= start + size - CALL_SIZE for start, size in self.code)

    def _apart(self, one: int, other: int) -> bool:
        """Whether what lands at these PCs, the lower one first, can be caught in the same pass."""
        return one + CALL_SIZE <= other

    def _pass(self, group: list[FrameList], attempt: Attempt) -> bool:
        """Tries a group; if memory or x87 changed, nothing is noted and the answer is False."""
        for frames, following in zip(group, [*group[1:], None], strict=True):
            self.frames.link(frames.tail, following.head if following is not None else 0)
        self._catch(tuple(frames.pc for frames in group))
        self._words[Word.FRAME] = group[0].head
        self._words[Word.CHANGED] = self._words[Word.LAST_RSP] = 0
        registers = self.frames.registers(group[0].head)
        x87 = bytes(registers.block[_X87_AT])
        registers["RIP"], registers["RSP"] = self._start, self._scratch_stack
        registers["RFLAGS"] = Registers()["RFLAGS"]
        registers.extended = b""
        self.cpu.load(registers)
        found = Attempt()
        ended = self._run(registers, found)
        self.cpu.save(registers)
        kept = not registers.extended and registers.block[_X87_AT] == x87
        ended = ended and not self._words[Word.CHANGED]
        if not ended or not kept or self._content() != self._base:
            self._reset()
            return False
        attempt.lost.update(found.lost)
        attempt.unjudged.update(found.unjudged)
        return True

    def _catch(self, pcs: tuple[int, ...]) -> None:
        """Has the snippet's code end in calls at these PCs and nowhere else."""
        if pcs == self._caught:
            return
        for pc in self._caught:
            self.memory.write(pc, NO_INSTRUCTION * CALL_SIZE)
        for pc in pcs:
            displacement = (self._landed - pc - CALL_SIZE) & 0xFFFF_FFFF
            self.memory.write(pc, b"\xe8" + displacement.to_bytes(4, "little"))
        changed = sorted({*pcs, *self._caught})
        start = changed[0]
        for pc, following in zip(changed, [*changed[1:], None], strict=True):
            # One call for all that lie close together: it costs the same.
            if following is None or following - pc > PAGE:
                self.cpu.flush_code(start, pc + CALL_SIZE - start)
                start = following or 0
        self._caught = pcs

    def _run(self, registers: Registers, attempt: Attempt) -> bool:
        """Runs to the end of the list; False where it makes no sense to go on."""
        words = self._words
        strays = 0
        budget = CHUNK
        while True:
            frame = words[Word.FRAME]
            stop = self.cpu.run(budget)
            budget = CHUNK
            rip = self.cpu.rip()
            if stop.reason is StopReason.GATE and rip == self.done:
                return True
            if stop.reason is StopReason.GATE:
                frame = words[Word.FRAME]
                losses = self._losses(frame)
                if any(loss.register == "RSP" for loss in losses):
                    # batch·landed's own CALL then wrote to the window.
                    attempt.unjudged.add(self.frames.index(frame))
                else:
                    attempt.lost[self.frames.index(frame)] = losses
                self.cpu.save(registers)
                registers["RIP"] = self.memory.u64(registers["RSP"])
                registers["RSP"] += 8
                self.cpu.load(registers)
            elif stop.reason is StopReason.FAULT or words[Word.FRAME] == frame:
                # It never came to its landing: on with the next one, from a clean state.
                frame = words[Word.FRAME]
                attempt.unjudged.add(self.frames.index(frame))
                strays += 1
                if strays > STRAYS:
                    return False
                registers = self.frames.registers(frame)
                registers["RSP"] = self._scratch_stack
                registers["RIP"] = self._next
                registers["RFLAGS"] = Registers()["RFLAGS"]
                self.cpu.load(registers)
            elif stop.reason is not StopReason.COUNT:
                raise GuestStopped(f"the batch check stopped at {rip:#x}: {stop.reason.value}")

    def _losses(self, address: int) -> list[Loss]:
        """What the landing differs in: the state that batch·landed stored, and the window."""
        frame = self.frames.registers(address)
        state = Registers(self.memory.read(self._state, SIZE), self._extended(frame))
        rsp = frame["RSP"]
        if state["RSP"] != rsp:
            return [Loss(register="RSP", before=rsp, after=state["RSP"])]
        state["RIP"] = self.memory.u64(rsp - 8) - CALL_SIZE
        losses = [
            Loss(register=name, before=frame[name], after=state[name])
            for name in frame.diff(state)
            if name not in _UNCOMPARED
        ]
        before = self.frames.window(address)
        return losses + memory_losses(rsp, before, self.memory.read(rsp, len(before)))

    def _extended(self, frame: Registers) -> bytes:  # noqa: ARG002  # of use to others
        """What AVX adds to the state of the landing that is a loss."""
        return b""

    def _reset(self) -> None:
        for view, data in zip(self._unchanging, self._base, strict=True):
            view[:] = data


def _counting(rt: Runtime) -> str | None:
    """The same way of counting as the runtime's processor has."""
    return getattr(rt.machine.cpu, "counting", None)


def symbol_address(image: Image, name: str) -> int:
    """The address of a symbol that is there."""
    address = image.address(name)
    assert address is not None, name
    return address
