"""The exhaustive check, its pieces, and what a plain script on one engine does instead."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from emulator.frame_recorder import FrameRecorder
from emulator.frames import Frames
from pushcall.api import check, program
from pushcall.check.batch import Batch
from pushcall.check.survey import STRETCH
from pushcall.snippet.side import Side
from runtime_model.assembly import assemble_batch
from runtime_model.layout import load
from runtime_model.policy import Policy
from runtime_model.version import GoVersion
from tests.bench.measure import Contender, Group
from tests.bench.programs import CODE, RSP, STACK, STACK_SIZE, code

if TYPE_CHECKING:
    from collections.abc import Callable

EXAMPLE = Path(__file__).parents[2] / "examples" / "golang_nuts.s"
WINDOW = 496  # bytes of the stack that the script compares, as a batch does
GO = (1, 22)


def whole(loops: int, go: str, *, all_direct: bool = False) -> Callable[[], float]:
    """`pushcall check`, from the text to the verdict."""

    def run() -> float:
        result = check(EXAMPLE, defines={"LOOPS": loops}, go=go, all_direct=all_direct)
        assert result.ok
        return result.points

    return run


def twin_of(go: str = "1.22") -> Side:
    """The example, some steps into its loop."""
    config = program(EXAMPLE, defines={"LOOPS": 1 << 30}, go=go).config
    alone = dataclasses.replace(config, goroutines=1, policy=Policy(None), budget=None)
    twin = Side(alone)
    twin.begin()
    twin.advance(20)
    return twin


def _recorder(twin: Side) -> FrameRecorder:
    cpu = twin.machine.cpu
    frames = Frames(STRETCH + 64)
    return FrameRecorder(cpu, frames, twin.code(), (twin.stack_lo, twin.stack_hi), 1024)  # type: ignore[arg-type]


def recording(boundaries: int) -> Callable[[], float]:
    """The survey without batches."""
    twin = twin_of()
    recorder = _recorder(twin)

    def run() -> float:
        with recorder:
            for _ in range(0, boundaries, STRETCH):
                twin.advance(STRETCH)
                recorder.take()
        return boundaries

    return run


def batches(boundaries: int) -> Callable[[], float]:
    """Batches alone, over one recorded stretch."""
    twin = twin_of()
    recorder = _recorder(twin)
    with recorder:
        twin.advance(STRETCH)
        lists, _ = recorder.take()
    batch = Batch(twin.rt, None, recorder.frames)

    def run() -> float:
        for _ in range(0, boundaries, STRETCH):
            attempt = batch.attempt(lists)
            assert not attempt.lost
            assert not attempt.unjudged
        return boundaries

    return run


def straightforward(points: int) -> Callable[[], float]:
    """A script with the unicorn package: one engine, `emu_start` and `reg_read`."""
    from unicorn import UC_ARCH_X86, UC_MODE_64, Uc, x86_const

    version, layout = GoVersion(*GO), load(GO)
    image = assemble_batch(version, layout, {"batch.done": 0x3E_0000, "batch.lost": 0x3E_0010})
    trampoline = image.address("runtime.asyncPreempt") or 0
    stub = image.address("runtime.asyncPreempt2") or 0
    names = ["RAX", "RBX", "RCX", "RDX", "RSI", "RDI", *(f"R{i}" for i in range(8, 16))]
    names += [f"XMM{i}" for i in range(16)]
    poisoned = [getattr(x86_const, f"UC_X86_REG_{name}") for name in names]
    rip, rsp = x86_const.UC_X86_REG_RIP, x86_const.UC_X86_REG_RSP
    others = [rip, rsp, x86_const.UC_X86_REG_RBP, x86_const.UC_X86_REG_EFLAGS]
    registers = [*others, x86_const.UC_X86_REG_MXCSR, *poisoned]
    uc = Uc(UC_ARCH_X86, UC_MODE_64)
    for segment in image.segments:
        if segment.executable:
            start = segment.address & -0x1000
            uc.mem_map(start, -(-(segment.address + len(segment.data) - start) // 0x1000) * 0x1000)
            uc.mem_write(segment.address, segment.data)
    uc.mem_write(stub, b"\xc3")  # RET, behind what this script does itself
    uc.mem_map(CODE, 0x1000)
    uc.mem_map(STACK, STACK_SIZE)
    uc.mem_write(CODE, code("golang-nuts"))
    uc.reg_write(rsp, RSP - WINDOW)
    uc.reg_write(rip, CODE)

    def run() -> float:
        for _ in range(points):
            before = [uc.reg_read(register) for register in registers]
            pc, sp = before[0], before[1]
            stack = uc.mem_read(sp, WINDOW)
            uc.mem_write(sp - 1024, b"\xdb" * 1024)
            uc.mem_write(sp - 8, pc.to_bytes(8, "little"))
            uc.reg_write(rsp, sp - 8)
            uc.emu_start(trampoline, stub)
            for register, value in zip(poisoned, before[5:], strict=True):
                bits = 128 if register >= x86_const.UC_X86_REG_XMM0 and value >> 64 else 64
                uc.reg_write(register, value ^ ((1 << bits) - 1))
            uc.emu_start(stub, pc)
            assert [uc.reg_read(register) for register in registers] == before
            assert uc.mem_read(sp, WINDOW) == stack
            uc.emu_start(pc, 0, count=1)
        return points

    return run


def groups(scale: float) -> list[Group]:
    """The whole check against the script; its pieces."""
    loops = max(1000, int(100_000 * scale))
    boundaries = max(STRETCH, int(500_000 * scale))
    script = "a script with unicorn, one engine"
    long = f"check, {loops:,} rounds"
    return [
        Group(
            "exhaustive check, golang-nuts loop, Go 1.22",
            "points",
            [
                Contender(long, whole(loops, "1.22")),
                Contender("check, 2,000 rounds", whole(2000, "1.22")),
                Contender("check, 200 rounds", whole(200, "1.22")),
                Contender(f"check, {loops:,} rounds, Go 1.27", whole(loops, "1.27")),
                Contender("all through the whole runtime", whole(40, "1.22", all_direct=True)),
                Contender(script, straightforward(int(2000 * scale) or 1)),
            ],
            [(long, script, 150)],
        ),
        Group(
            "pieces of the exhaustive check",
            "points",
            [
                Contender("recording of frames", recording(boundaries)),
                Contender("batches", batches(boundaries)),
            ],
        ),
    ]
