"""Tries recorded boundaries in batches inside the machine (asm/go/batch_amd64.s).

The runtime is left out: a second processor has the trampoline at its address, a stub in place of
asyncPreempt2 that overwrites all that it may with complements, and in place of the snippet a catch
at the one boundary whose frames are being tried. Frames of equal PC are tried together; the guest
code goes through their list by itself and calls Python only for a frame that lost something.

Compared for each frame: RIP, RSP, general registers, RFLAGS, XMM0 to XMM15, MXCSR and the stack
window. Compared once for each list: x87, and all memory, which must be as it was. A frame that
loses anything says what; a list whose memory or x87 changed is for the direct way to try again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from emulator.cpu import StopReason
from emulator.fault import GuestStopped
from emulator.memory import PAGE, Memory, Prot
from emulator.registers import GENERAL, LAYOUT, SIZE, XMM, Registers
from emulator.unicorn_cpu import UnicornCpu
from runtime_model.assembly import assemble_batch
from runtime_model.events import Loss
from runtime_model.watch import memory_losses

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asm.image import Image
    from asm.source import Source
    from runtime_model.runtime import Runtime
    from runtime_model.trampoline import Trampoline

FRAME: Final = 1024
WORDS: Final = 560
NEXT: Final = 568
WINDOW: Final = 576
WINDOW_WORDS: Final = (FRAME - WINDOW) // 8

FRAMES: Final = 0x1000_0000
BATCH: Final = 4096  # frames in the guest's buffer
DONE: Final = 0x3E_0000  # gates
LOST: Final = 0x3E_0010
NO_INSTRUCTION: Final = b"\x06"  # invalid in 64-bit mode: any stray jump faults
POISON: Final = b"\xdb"
RUN: Final = 100_000  # instructions that one frame may take

CALL_SIZE: Final = 5
_COMPARED: Final = frozenset({*GENERAL, "RIP", "RFLAGS", "MXCSR", *XMM})
_X87: Final = ("FCW", "FSW", "FTW", *(f"ST{i}" for i in range(8)))


@dataclass(frozen=True)
class Attempt:
    """What became of a list of frames: losses by slot, and slots that the batch cannot judge.

    Those never came to their landing; or, all of the list, memory or x87 is not as it was, and
    nobody knows which frame did it. They are for the direct way.
    """

    lost: dict[int, list[Loss]]
    unjudged: frozenset[int]


class Batch:
    """The processor that tries frames, for the trampoline of a booted runtime."""

    def __init__(self, rt: Runtime, trampoline: Trampoline | Source | None) -> None:
        self.rt = rt
        image = assemble_batch(
            rt.version, rt.layout, {"batch.done": DONE, "batch.lost": LOST}, trampoline
        )
        self.memory = Memory()
        self.cpu = UnicornCpu(self.memory)
        self.cpu.add_gates(DONE, LOST + 16)
        for segment in image.segments:
            if segment.data:
                prot = Prot.READ | (Prot.WRITE if segment.writable else Prot.NONE)
                self._map(segment.name, segment.address, segment.data, prot, segment.executable)
        for region in rt.memory.regions:
            # The goroutine's stack, poisoned; g, m and p as they are, for TLS and p.xRegs.
            if region.name.startswith("stack of goroutine"):
                self._map(region.name, region.start, POISON * region.size, Prot.RW)
            elif region.name == "heap":
                used = rt.memory.u64(rt.heap) - region.start
                self._map(region.name, region.start, bytes(region.view[:used]), Prot.RW)
        self.code = [
            (s.address, -(-len(s.data) // PAGE) * PAGE) for s in rt.user.segments if s.executable
        ]
        for address, size in self.code:
            self._map("snippet", address, NO_INSTRUCTION * size, Prot.READ, executable=True)
        for segment in rt.user.segments:
            if segment.data and not segment.executable:
                prot = Prot.RW if segment.writable else Prot.READ
                self._map(segment.name, segment.address, segment.data, prot)
        self.frames = self._map("frames", FRAMES, bytes(BATCH * FRAME), Prot.READ)
        self._start = _address(image, "batch.start")
        self._next = _address(image, "batch.next")
        self._state = _address(image, "batch.state")
        self._landed = _address(image, "batch.landed")
        self._frame = _address(image, "batch.frame")
        self._stack = _address(image, "batch.stack") + 64
        self._prepare_p()
        own = {"batch.frame", "batch.state", "batch.stack"}
        self._own = [(s.address, s.size) for s in image.data if s.name in own]
        self._base = self._content()

    def _map(
        self, name: str, address: int, data: bytes, prot: Prot, executable: bool = False
    ) -> memoryview:
        size = -(-len(data) // PAGE) * PAGE
        region = self.memory.map(
            name, address, size, prot | (Prot.EXEC if executable else Prot.NONE)
        )
        region.view[: len(data)] = data
        self.cpu.attach(region)
        return region.view

    def _prepare_p(self) -> None:
        """The P that the trampoline finds from g has a cached block, and poison in scratch."""
        rt = self.rt
        if not rt.version.extended_registers:
            return
        pp = rt.p(rt.allp[0])
        size = rt.layout.size("xRegState")
        self._map("xRegState", FRAMES - 0x10_0000, POISON * size, Prot.RW)
        self.memory.put_u64(pp.field_address("xRegs.cache"), FRAMES - 0x10_0000)
        self.memory.write(pp.field_address("xRegs.scratch"), POISON * size)

    def _content(self) -> list[bytes]:
        """All writable memory but the batch code's own variables and the saved vectors."""
        content = []
        for region in self.memory.regions:
            if region.prot & Prot.WRITE and region.name != "xRegState":
                data = bytearray(region.view)
                for address, size in self._own:
                    if region.start <= address < region.end:
                        data[address - region.start : address - region.start + size] = bytes(size)
                content.append(bytes(data))
        return content

    def put(self, slot: int, registers: bytes | bytearray | memoryview, window: bytes) -> None:
        """Puts a boundary into a slot of the buffer: a register block and the stack from RSP up."""
        start = slot * FRAME
        self.frames[start : start + SIZE] = registers
        used = min(len(window) // 8, WINDOW_WORDS)
        self.frames[start + WORDS : start + WORDS + 8] = used.to_bytes(8, "little")
        self.frames[start + WINDOW : start + WINDOW + 8 * used] = window[: 8 * used]

    def attempt(self, slots: Sequence[int]) -> Attempt:
        """Tries the frames in these slots, which share one PC."""
        pc = self._link(slots)
        if not self._room(pc):
            return Attempt({}, frozenset(slots))  # no CALL fits at the end of the snippet's pages
        code = self.memory.read(pc, CALL_SIZE)
        displacement = (self._landed - pc - CALL_SIZE) & 0xFFFF_FFFF
        self._patch(pc, b"\xe8" + displacement.to_bytes(4, "little"))
        registers = self.registers(slots[0])
        x87 = [registers[name] for name in _X87]
        registers["RIP"] = self._start
        self.cpu.load(registers)
        attempt = self._run(registers, slots)
        self._patch(pc, code)
        self.cpu.save(registers)
        if [registers[name] for name in _X87] != x87 or self._content() != self._base:
            self._reset()
            return Attempt({}, frozenset(slots))
        return attempt

    def registers(self, slot: int) -> Registers:
        """The register block in a slot."""
        return Registers(bytes(self.frames[slot * FRAME : slot * FRAME + SIZE]))

    def _room(self, pc: int) -> bool:
        return any(start <= pc <= start + size - CALL_SIZE for start, size in self.code)

    def _link(self, slots: Sequence[int]) -> int:
        for slot, following in zip(slots, [*slots[1:], -1], strict=True):
            address = FRAMES + following * FRAME if following >= 0 else 0
            start = slot * FRAME + NEXT
            self.frames[start : start + 8] = address.to_bytes(8, "little")
        self.memory.put_u64(self._frame, FRAMES + slots[0] * FRAME)
        offset = slots[0] * FRAME + LAYOUT["RIP"][0]
        return int.from_bytes(self.frames[offset : offset + 8], "little")

    def _patch(self, address: int, data: bytes) -> None:
        self.memory.write(address, data)
        self.cpu.flush_code(address, len(data))

    def _run(self, registers: Registers, slots: Sequence[int]) -> Attempt:
        lost: dict[int, list[Loss]] = {}
        stray: set[int] = set()
        budget = RUN * len(slots)
        while True:
            stop = self.cpu.run(min(budget, RUN * 64))
            budget -= stop.executed
            rip = self.cpu.rip()
            if stop.reason is StopReason.GATE and rip == DONE:
                return Attempt(lost, frozenset(stray))
            slot = (self.memory.u64(self._frame) - FRAMES) // FRAME
            if stop.reason is StopReason.GATE:
                losses = self._losses(slot)
                if any(loss.register == "RSP" for loss in losses):
                    stray.add(slot)  # batch·landed's own CALL then wrote to the window
                else:
                    lost[slot] = losses
                self.cpu.save(registers)
                registers["RIP"] = self.memory.u64(registers["RSP"])
                registers["RSP"] += 8
                self.cpu.load(registers)
            elif stop.reason is StopReason.FAULT and slot in stray:
                # Not even the code between two frames runs: memory that it needs is not there.
                return Attempt({}, frozenset(slots))
            elif stop.reason is StopReason.FAULT or budget <= 0:
                # It never came to its landing: on with the next one, from a clean state.
                stray.add(slot)
                registers = Registers()
                registers["FS_BASE"] = self.registers(slot)["FS_BASE"]
                registers["RSP"] = self._stack
                registers["RIP"] = self._next
                self.cpu.load(registers)
                budget = max(budget, RUN)
            elif stop.reason is not StopReason.COUNT:
                raise GuestStopped(f"the batch check stopped at {rip:#x}: {stop.reason.value}")

    def _losses(self, slot: int) -> list[Loss]:
        """What the landing differs in: the state that batch·landed stored, and the window."""
        frame = self.registers(slot)
        state = Registers(self.memory.read(self._state, SIZE))
        losses = [
            Loss(register=name, before=frame[name], after=state[name])
            for name in frame.diff(state)
            if name in _COMPARED
        ]
        start = slot * FRAME
        words = int.from_bytes(self.frames[start + WORDS : start + WORDS + 8], "little")
        before = bytes(self.frames[start + WINDOW : start + WINDOW + 8 * words])
        rsp = frame["RSP"]
        return losses + memory_losses(rsp, before, self.memory.read(rsp, len(before)))

    def _reset(self) -> None:
        index = 0
        for region in self.memory.regions:
            if region.prot & Prot.WRITE and region.name != "xRegState":
                region.view[:] = self._base[index]
                index += 1


def _address(image: Image, name: str) -> int:
    address = image.address(name)
    assert address is not None, name
    return address
