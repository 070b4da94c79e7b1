"""A recording gives back every state that single-stepping passes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import small_computer as computers
from keystone import KS_ARCH_X86, KS_MODE_64, Ks
from small_cpu import CODE, DATA, DATA_END, small_cpu, state

from emulator import hooks, record_hooks
from emulator.counting_cpu import CountingCpu
from emulator.cpu import StopReason
from emulator.events import Executed
from emulator.memory import Prot
from emulator.recording import STRETCH, Recorder, Store
from emulator.register_batch import NUMBERS

if TYPE_CHECKING:
    from collections.abc import Callable

    from emulator.machine import Machine
    from emulator.recording import Recording
    from emulator.registers import Registers
    from emulator.unicorn_cpu import UnicornCpu

    Maker = Callable[..., UnicornCpu]

# Flags, strings, SSE, an aligned operand, x87, a call and a random number.
TEXT = """
    l: add rax, 3; mov [r12], rax; adc rdx, rax; push rdx; test al, 7; jnz odd
    lea rdi, [r12 + 64]; mov ecx, 3; rep stosb; fld1; fstp qword ptr [r12 + 8]
    odd: cvtsi2sd xmm1, rax; addpd xmm0, [r12 + 16]; movups [r12 + 32], xmm1; rdrand r9
    call f; pop rbx; dec r8; jnz l; ud2
    f: inc r10; ret
"""


def stepped(cpu: UnicornCpu) -> list[Registers]:
    """The state before each instruction, and behind the last."""
    states = [state(cpu)]
    while cpu.run(1).reason is StopReason.COUNT:
        states.append(state(cpu))
    return states


def undo(recording: Recording, cpu: UnicornCpu) -> None:
    for step in reversed(range(len(recording))):
        for store in reversed(recording.stores(step)):
            cpu.memory.write(store.address, store.before)


@pytest.mark.parametrize("chunk", [10**6, 7, 1])
def test_every_step_has_the_registers_of_single_stepping(machine: Maker, chunk: int) -> None:
    rounds = 12 if chunk == 1 else 120
    expected = stepped(machine(TEXT, R8=rounds, R12=DATA))
    cpu = machine(TEXT, R8=rounds, R12=DATA)
    before = [cpu.memory.read(DATA, DATA_END - DATA), cpu.memory.read(state(cpu)["RSP"] - 64, 64)]
    with Recorder(cpu) as recorder:
        executed = 0
        while (stop := cpu.run(chunk)).reason is StopReason.COUNT:
            executed += stop.executed
    recording = recorder.recording
    executed += stop.executed
    assert stop.fault is not None
    assert len(recording) == executed == len(expected) - 1
    assert len(recording) > STRETCH or chunk == 1
    for step, registers in enumerate(recording):
        assert registers.diff(expected[step]) == []
        assert recording.pc(step) == expected[step]["RIP"]
    assert recording.registers(executed).diff(expected[-1]) == []
    undo(recording, cpu)
    rsp = expected[0]["RSP"]
    assert [cpu.memory.read(DATA, DATA_END - DATA), cpu.memory.read(rsp - 64, 64)] == before


def test_stores_tell_what_they_overwrite(machine: Maker) -> None:
    cpu = machine("mov [rbx], eax; push rax; movups [rbx], xmm0; nop; syscall", RBX=DATA, RAX=5)
    cpu.memory.put_u64(DATA, 0x1122334455667788)
    with Recorder(cpu) as recorder:
        cpu.run(99)
    recording = recorder.recording
    assert recording.stores(0) == [Store(DATA, b"\x88\x77\x66\x55")]
    assert recording.stores(1) == [Store(recording.registers(0)["RSP"] - 8, bytes(8))]
    assert [store.address for store in recording.stores(2)] == [DATA, DATA + 8]
    assert recording.stores(2)[0].before == b"\x05\0\0\0\x44\x33\x22\x11"
    assert recording.stores(3) == []


def test_faults_and_changed_registers_are_no_steps(machine: Maker) -> None:
    cpu = machine("inc rax; mov [rbx], rax; inc rax; syscall", RBX=0x1234)
    with Recorder(cpu) as recorder:
        assert cpu.run(99).fault is not None
        assert cpu.run(99).fault is not None
        registers = state(cpu)
        registers["RBX"] = DATA
        cpu.load(registers)
        assert cpu.run(99).executed == 3
    recording = recorder.recording
    assert [recording.pc(step) - CODE for step in range(len(recording))] == [0, 3, 6, 9]
    assert [recording.registers(step)["RBX"] for step in range(5)] == [0x1234, *[DATA] * 4]
    assert recording.stores(1) == [Store(DATA, bytes(8))]


def test_code_that_writes_itself_is_recorded_once(machine: Maker) -> None:
    text = "mov byte ptr [rip + 3], 0xc8; nop; inc rax; nop; syscall"
    expected = stepped(machine(text, code=Prot.RW | Prot.EXEC))
    cpu = machine(text, code=Prot.RW | Prot.EXEC)
    with Recorder(cpu) as recorder:
        cpu.run(99)
    assert len(recorder.recording) == 5
    for step in range(5):
        assert recorder.recording.registers(step).diff(expected[step]) == []
    assert recorder.recording.stores(0) == [Store(CODE + 10, b"\xc0")]


def test_what_ran_before_and_after_is_not_in_it() -> None:
    cpu = small_cpu("l: inc rax; dec rbx; jnz l; syscall", RBX=100_000)
    cpu.run(9000)
    recorder = Recorder(cpu, stores=False)
    with recorder:
        cpu.run(4000)
        with pytest.raises(RuntimeError, match="already"):
            Recorder(cpu).start()
    cpu.run(9000)
    with recorder:
        cpu.run(3)
    recording = recorder.recording
    assert len(recording) == 4003
    assert recording.registers(0)["RAX"] == 3000
    assert recording.registers(4000)["RAX"] == 7334
    assert recording.registers(3999)["RAX"] == 3000 + 3999 // 3
    with pytest.raises(IndexError):
        recording.registers(4004)


def test_a_million_steps_take_less_than_100_mb() -> None:
    cpu = small_cpu("l: mov rax, [rsp]; inc rax; mov [rsp], rax; cmp rax, rbx; jne l", RBX=1 << 60)
    with Recorder(cpu) as recorder:
        cpu.run(50_000)
    assert recorder.recording.size() * 20 < 100e6


@pytest.mark.parametrize("name", ["RECORD", "STORE"])
def test_record_hooks_are_their_assembly_and_use_the_words_that_they_name(name: str) -> None:
    text = getattr(record_hooks, f"{name}_TEXT")
    lines = [line.partition(";") for line in text.splitlines()]
    code = bytes(Ks(KS_ARCH_X86, KS_MODE_64).asm("\n".join(line[0] for line in lines))[0])
    assert code == getattr(record_hooks, "STORE_CODE" if name == "STORE" else name)
    for instruction, _, comment in lines:
        word = comment.strip()
        if word == "RECORD_BLOCK":
            assert f"+ {hooks.Field[word] * 8}]" in instruction
        elif word:
            number = record_hooks.Word[word] * 8
            assert f" + {number}]" in instruction or (number == 0 and "]" in instruction)
    assert f"cmp     r10d, {record_hooks.WORDS}" in text or name == "STORE"
    assert len(NUMBERS) < 60


def test_a_machine_with_threads_and_signals_is_recorded_whole() -> None:
    texts = {
        computers.CODE: f"mov ecx, 50; l: inc rbx; dec ecx; jnz l; {computers.syscall(60, 0)}",
        computers.OTHER: f"{computers.syscall(computers.TGKILL, computers.PID, computers.PID, 10)}"
        f"push rax; {computers.syscall(60, 0)}",
        computers.HANDLER: "inc r15; ret",
    }

    def machine(**options: int) -> Machine:
        made = computers.computer(texts, slice_ns=40, **options)
        computers.start(made)
        computers.start(made, computers.OTHER)
        computers.install(made, 10)
        return made

    stepped, seen = machine(step_all=True), []
    stepped.events.executed_wanted = True
    stepped.events.subscribe(lambda event: seen.append(event) if type(event) is Executed else None)
    stepped.run()
    recorded = machine()
    assert isinstance(recorded.cpu, CountingCpu)
    with Recorder(recorded.cpu) as recorder:
        recorded.run()
    recording = recorder.recording
    assert len(recording) == recorded.instructions == len(seen)
    for step, event in enumerate(seen):
        assert recording.registers(step) == event.before
    assert any(event.pc == computers.HANDLER for event in seen)
