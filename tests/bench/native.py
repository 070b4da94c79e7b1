"""Runs and the exhaustive check on the real processor, beside the same on Unicorn.

A point is a recorded boundary that a batch has tried: state loaded, trampoline run, all compared.
Times are those of this process and of the child, which a contender makes and ends.
"""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

from emulator.extended_images import Images
from emulator.frame_recorder import FrameRecorder
from emulator.frames import Frames
from emulator.host_cpuid import NativeUnavailableError
from emulator.memory import Memory
from emulator.native.fenced_child import FencedChild
from pushcall.api import check
from pushcall.check.native_batch import NativeBatch
from pushcall.check.survey import STRETCH
from tests.bench.check import EXAMPLE, batches, twin_of, whole
from tests.bench.measure import Contender, Group
from tests.bench.programs import real_processor
from tests.bench.timers import timed

if TYPE_CHECKING:
    from collections.abc import Callable


def native_batches(boundaries: int, go: str = "1.22") -> Callable[[], float]:
    """Batches over one recorded stretch, the start of their child included."""
    twin = twin_of(go)
    frames = Frames(STRETCH + 64, Images(STRETCH))
    stack = (twin.stack_lo, twin.stack_hi)
    recorder = FrameRecorder(twin.machine.cpu, frames, twin.code(), stack, 1024)  # type: ignore[arg-type]
    with recorder:
        twin.advance(STRETCH)
        lists, _ = recorder.take()

    def run() -> float:
        batch = NativeBatch(twin.rt, None, frames)
        done = 0
        while done < boundaries:
            attempt = batch.attempt(lists)
            assert not attempt.lost
            assert not attempt.unjudged
            done += STRETCH
        batch.close()
        return done

    return run


def native_check(loops: int, go: str) -> Callable[[], float]:
    """`pushcall check --engine native`, from the text to the verdict."""

    def run() -> float:
        result = check(EXAMPLE, defines={"LOOPS": loops}, go=go, engine="native")
        assert result.ok
        gc.collect()  # ends the child
        return result.points

    return run


def native_run(*, counted: bool, every: int, instructions: int) -> Callable[[], float]:
    """Runs so many instructions, with a stop every so many, the start of their child included."""

    def run() -> float:
        cpu = real_processor("golang-nuts", counted=counted)
        for _ in range(instructions // every):
            assert cpu.run(every).executed == every
        cpu.close()
        return instructions

    return run


def groups(scale: float) -> list[Group]:
    """Runs, batches alone, and the whole check; none without a child."""
    try:
        FencedChild(Memory()).close()
    except NativeUnavailableError:
        return []
    boundaries = max(STRETCH, int(4_000_000 * scale))
    loops = max(1000, int(300_000 * scale))
    name = "batches, native"
    far, near = max(1, int(20 * scale)) * 1_000_000, max(1, int(20 * scale)) * 1000
    return [
        Group(
            "runs on the real processor, golang-nuts loop",
            "instructions",
            [
                Contender(
                    "timer every 1,000,000",
                    native_run(counted=True, every=1_000_000, instructions=10 * far),
                ),
                Contender(
                    "timer every 10,000", native_run(counted=True, every=10_000, instructions=far)
                ),
                Contender(
                    "each instruction stepped",
                    native_run(counted=False, every=1000, instructions=near),
                ),
                Contender(
                    "Unicorn, timer every 1,000,000", timed("golang-nuts", None, 1_000_000, far)
                ),
            ],
        ),
        Group(
            "batches on the real processor, golang-nuts loop",
            "points",
            [
                Contender(name, native_batches(boundaries), 1 / 5_000_000),
                Contender("batches, native, Go 1.27", native_batches(boundaries, "1.27")),
                Contender("batches, Unicorn", batches(boundaries // 8)),
            ],
            [(name, "batches, Unicorn", 10)],
        ),
        Group(
            "check --engine native, golang-nuts loop, Go 1.22",
            "points",
            [
                Contender(f"check, native, {loops:,} rounds", native_check(loops, "1.22")),
                Contender(f"check, Unicorn, {loops:,} rounds", whole(loops, "1.22")),
            ],
        ),
    ]
