"""The engine and the real processor, step by step: a sample of what tests/conformance does."""

from __future__ import annotations

import pytest
from cpu_differential import CODE, Differential
from instruction_forms import GROUPS
from native_host import native_objection

from emulator.cpu import StopReason
from emulator.fault import Fault, FaultKind
from emulator.memory import Memory, Prot
from emulator.native.cpu import NativeCpu
from emulator.registers import Registers

STEPS = 800  # of each group
SEED = 20260


@pytest.fixture(scope="module", autouse=True)
def _traceable() -> None:
    if why := native_objection():
        pytest.skip(why)


@pytest.mark.parametrize("group", GROUPS)
def test_random_instructions_do_what_the_processor_does(group: str) -> None:
    differential = Differential(SEED, (group,))
    try:
        differential.run(STEPS)
    finally:
        differential.close()
    assert not differential.differences, "\n".join(map(str, differential.differences))
    assert differential.steps >= STEPS


def test_a_wrong_engine_is_found_out() -> None:
    differential = Differential(SEED, ("integer",))
    load = differential.engine.load

    def wrong(registers: Registers) -> None:
        changed = registers.copy()
        changed["RFLAGS"] ^= 1
        load(changed)

    differential.engine.load = wrong  # type: ignore[method-assign]
    try:
        differential.run(200)
    finally:
        differential.close()
    assert differential.differences


# SDM volume 3, 6.15: #DE is SIGFPE in Linux, and RIP is the instruction's.
def test_a_fault_of_the_processor_is_told_by_its_signal() -> None:
    memory = Memory()
    memory.map("code", CODE, 0x1000, Prot.RX)
    memory.write(CODE, b"\x90\xf7\xf1")
    native = NativeCpu(memory)
    try:
        registers = Registers()
        registers["RIP"] = CODE
        native.load(registers)
        fault = Fault(FaultKind.DIVIDE, CODE + 1)
        assert [native.run(1).reason, native.run(1).fault] == [StopReason.COUNT, fault]
        native.save(registers)
        assert registers["RIP"] == CODE + 1
    finally:
        native.close()
