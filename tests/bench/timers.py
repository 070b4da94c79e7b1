"""Exact timers: what they cost, and what a plain Unicorn script with `count=` does instead."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emulator.unicorn_raw import Engine, Register
from emulator.user_mode import enter_user_mode
from tests.bench.measure import Contender, Group
from tests.bench.programs import CODE, LOOPS, RSP, STACK, STACK_SIZE, code, processor

if TYPE_CHECKING:
    from collections.abc import Callable

ROUND = {"golang-nuts": 10, "registers": 5}  # instructions
EVERY = (10_000, 100_000, 1_000_000)


def timed(loop: str, counting: str | None, every: int, instructions: int) -> Callable[[], float]:
    """Runs so many instructions, with a stop every so many."""
    cpu = processor(loop, counting)

    def run() -> float:
        for _ in range(instructions // every):
            cpu.run(every)
        return instructions

    return run


def plain(loop: str, every: int, instructions: int) -> Callable[[], float]:
    """The same as a script does it: memory as it comes, `emu_start` with a count."""
    from unicorn import UC_ARCH_X86, UC_MODE_64, Uc
    from unicorn.x86_const import UC_X86_REG_RCX, UC_X86_REG_RIP, UC_X86_REG_RSP

    uc = Uc(UC_ARCH_X86, UC_MODE_64)
    uc.mem_map(CODE, 0x1000)
    uc.mem_map(STACK, STACK_SIZE)
    uc.mem_write(CODE, code(loop))
    uc.reg_write(UC_X86_REG_RSP, RSP)
    uc.reg_write(UC_X86_REG_RCX, 1 << 40)
    uc.reg_write(UC_X86_REG_RIP, CODE)

    def run() -> float:
        for _ in range(instructions // every):
            uc.emu_start(uc.reg_read(UC_X86_REG_RIP), 0, count=every)
        return instructions

    return run


def uncounted(loop: str) -> Callable[[], float]:
    """Unicorn with the same TLB and no hook on instructions or blocks, up to the loop's end."""
    cpu = processor(loop)
    cpu.run(2)  # sets the golang-nuts loop's variables
    engine = Engine()
    enter_user_mode(engine)
    cpu._hook(engine)
    cpu._tables.add_engine(engine)
    start = cpu.rip()
    rounds = 2_000_000

    def run() -> float:
        cpu.memory.put_u64(RSP + 16, 0x7FFF_FFFF - rounds)
        engine.write(Register.RSP, RSP)
        engine.write(Register.RCX, rounds)
        engine.start(start)
        return rounds * ROUND[loop]

    return run


def groups(scale: float) -> list[Group]:
    """One group for each loop."""
    fast, slow = (max(1, int(millions * scale)) * 1_000_000 for millions in (20, 4))
    found = []
    for loop in LOOPS:
        contenders = [Contender("no timer", timed(loop, None, fast, fast))]
        contenders += [
            Contender(f"timer every {every:,}", timed(loop, None, every, fast)) for every in EVERY
        ]
        contenders += [
            Contender("no counting at all", uncounted(loop)),
            Contender("each instruction counted, every 100,000",
                      timed(loop, "machine-code", 100_000, slow)),
            Contender("plain Unicorn script, count=100,000", plain(loop, 100_000, slow)),
        ]  # fmt: skip
        least = (0.8, 0.9, 4) if loop == "golang-nuts" else (0.55, 0.55, 1)
        wanted = [
            ("timer every 100,000", "no timer", least[0]),
            ("timer every 1,000,000", "no timer", least[1]),
            ("timer every 100,000", "plain Unicorn script, count=100,000", least[2]),
        ]
        found.append(Group(f"timers, {loop} loop", "instructions", contenders, wanted))
    return found
