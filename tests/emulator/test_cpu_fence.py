"""What Unicorn would execute in another way is executed by us, or refused by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from small_cpu import CODE, DATA, assemble, small_cpu, state

from emulator.cpu import Stop, StopReason
from emulator.fault import FaultKind
from emulator.fence import Special, classify
from emulator.registers import Registers
from emulator.unicorn_cpu import UnicornCpu

Machine = Callable[..., UnicornCpu]


def test_rdtsc_reads_the_time_stamp_that_was_set(machine: Machine) -> None:
    cpu = machine("nop; rdtsc; nop; rdtscp; syscall", RAX=2**64 - 1, RDX=2**64 - 1, RCX=2**64 - 1)
    cpu.processor = 3
    seen = []

    def time_stamp() -> int:
        seen.append(cpu.executed())
        return 0x1122334455667788 + len(seen)

    cpu.time_stamp = time_stamp
    assert cpu.run(2) == Stop(StopReason.COUNT, 2)
    # SDM volume 2, RDTSC: EDX:EAX, the upper halves of RAX and RDX are cleared.
    assert (state(cpu)["RAX"], state(cpu)["RDX"]) == (0x55667789, 0x11223344)
    assert state(cpu)["RCX"] == 2**64 - 1
    assert cpu.run(9) == Stop(StopReason.SYSCALL, 3)
    assert (state(cpu)["RAX"], state(cpu)["RCX"]) == (0x5566778A, 3)
    assert seen == [1, 1]


def test_an_error_in_time_stamp_reaches_the_caller(machine: Machine) -> None:
    cpu = machine("rdtsc; syscall")

    def time_stamp() -> int:
        raise ZeroDivisionError

    cpu.time_stamp = time_stamp
    with pytest.raises(ZeroDivisionError):
        cpu.run(9)


# SDM volume 2, RDRAND: CF = 1 says that the value is good, the other arithmetic flags are 0.
def test_rdrand_and_rdseed_are_the_same_in_each_run(machine: Machine) -> None:
    text = "cmp eax, -1; rdrand r13; rdseed eax; rdrand cx; syscall"
    ends = []
    for chunk in (99, 1):
        cpu = machine(text, R13=1, RAX=2**64 - 1, RCX=2**64 - 1)
        executed = 0
        while (stop := cpu.run(chunk)).reason is StopReason.COUNT:
            executed += stop.executed
        assert executed + stop.executed == 5
        ends.append(state(cpu))
    assert ends[0].diff(ends[1]) == []
    assert ends[0]["R13"] >> 32
    assert 0 < ends[0]["RAX"] < 2**32
    assert ends[0]["RCX"] >> 16 == 2**48 - 1
    assert ends[0]["RFLAGS"] == 0x203
    assert ends[0].diff(Registers(ends[1].block)) == []


REFUSED = {
    "c5f458c0": "vaddps ymm0, ymm1, ymm0",
    "c4e1f446c9": "kxnorq k1, k1, k1",
    "c5f1fcc0": "vpaddb xmm0, xmm1, xmm0",
    "65c5fc5807": "vaddps ymm0, ymm0, ymmword ptr gs:[rdi]",
    "c4e2fbf6c1": "mulx rax, rax, rcx",
    "62f17c48580f": "vaddps zmm1, zmm0, zmmword ptr [rdi]",
    "62f17ecf7f07": "62 f1 7e cf 7f 07",  # no zeroing into memory
    "8fe878a2c130": "",
    "0f34": "sysenter",
    "f1": "int1",
    "67f3a4": "rep movsb byte ptr [edi], byte ptr [esi]",
    "f30fc7f8": "rdpid",
    "66480f38f6c1": "adcx rax, rcx",
    # What stepping beside the real processor has shown (test_cpu_truth).
    "0ffcc1": "paddb mm0, mm1",
    "0f77": "emms",
    "f20fd6c1": "movdq2q mm0, xmm1",
    "660f2a07": "cvtpi2pd xmm0",
    "0f53c1": "rcpps xmm0, xmm1",
    "660f3801c1": "phaddw xmm0, xmm1",
    "0fb1c1": "cmpxchg ecx, eax",
    "ff1f": "call",
    "cb": "retf",
    "8ed8": "mov ds, eax",
    "480fae27": "xsave64",
    "d9fe": "fsin: not exact here",
    "d9c0": "x87 stack underflow: ST(0) is empty",
    "0fae17": "ldmxcsr dword ptr [rdi]: MXCSR 0x0: SSE exceptions that are not masked",
}


@pytest.mark.parametrize("code", REFUSED)
def test_instructions_that_unicorn_misexecutes_are_refused_by_name(
    unicorn: Machine, code: str
) -> None:
    cpu = unicorn(b"\x90" + bytes.fromhex(code) + b"\x90", RDI=DATA)
    before = state(cpu)
    stop = cpu.run(99)
    assert (stop.reason, stop.executed) == (StopReason.FAULT, 1)
    assert stop.fault is not None
    assert (stop.fault.kind, stop.fault.pc) == (FaultKind.REFUSED, CODE + 1)
    assert REFUSED[code] in stop.fault.detail
    assert state(cpu).diff(before) == ["RIP"]


@pytest.mark.parametrize(("mxcsr", "ok"), [(0x1F80, True), (0x7FBF, True), (0x9F80, False)])
def test_mxcsr_loads_only_what_unicorn_obeys(unicorn: Machine, mxcsr: int, ok: bool) -> None:
    cpu = unicorn("ldmxcsr [rdi]; stmxcsr [rdi + 4]; syscall", RDI=DATA)
    cpu.memory.put_u32(DATA, mxcsr)
    stop = cpu.run(99)
    assert (stop.reason is StopReason.SYSCALL) is ok
    assert cpu.memory.u32(DATA + 4) == (mxcsr if ok else 0)
    block = state(cpu)
    block["MXCSR"] = mxcsr
    block["RIP"] = CODE
    cpu.load(block)
    assert state(cpu)["MXCSR"] == mxcsr
    stop = cpu.run(1)
    assert (stop.reason is StopReason.COUNT) is ok


def test_aligned_operands_run_in_a_loop_and_count(unicorn: Machine) -> None:
    text = "l: movaps xmm0, [rdi + rcx]; paddb xmm1, [rdi]; sub rcx, 16; jnz l; syscall"
    cpu = unicorn(text, RDI=DATA, RCX=160)
    assert cpu.run(17) == Stop(StopReason.COUNT, 17)
    assert cpu.run(999) == Stop(StopReason.SYSCALL, 41 - 17)
    cpu = unicorn(text, RDI=DATA, RCX=168)
    stop = cpu.run(999)
    assert (stop.reason, stop.executed, cpu.rip()) == (StopReason.FAULT, 0, CODE)
    cpu = unicorn("movdqa xmm1, fs:[rbx * 8 - 8]; syscall", RBX=1, FS_BASE=DATA + 8)
    stop = cpu.run(9)
    assert stop.fault is not None
    assert "0x600008 is not aligned" in stop.fault.detail


# SDM volume 2, 2.2.1.6: RIP-relative is from behind the instruction, its immediate included.
@pytest.mark.parametrize("text", ["paddb xmm0, [rip + {}]", "pshufd xmm0, [rip + {}], 1"])
def test_a_constant_operand_is_looked_at_once(
    unicorn: Machine, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 9 if text.endswith(", 1") else 8
    cpu = unicorn(f"{text.format(17 - size)}; syscall")
    stop = cpu.run(9)
    assert stop.fault is not None
    assert (stop.fault.kind, stop.executed) == (FaultKind.PRIVILEGED, 0)
    assert f"{CODE + 17:#x} is not aligned" in stop.fault.detail
    monkeypatch.setattr("emulator.checks.objection", None)  # nobody asks again
    cpu = unicorn(f"{text.format(16 - size)}; syscall")
    assert cpu.run(9) == Stop(StopReason.SYSCALL, 2)


# SDM volume 2, CMPXCHG: where the comparison holds the accumulator is not written; else EAX is,
# which clears the upper half of RAX.
def test_cmpxchg_of_32_bits_keeps_the_upper_half_of_rax_where_it_holds(machine: Machine) -> None:
    text = "lock cmpxchg [rbx], r12d; setz cl; syscall"
    for rax, holds in ((0, True), (1 << 39, True), (5, False), (1 << 39 | 5, False)):
        cpu = machine(text, RBX=DATA, R12=7, RAX=rax)
        if not holds:
            cpu.memory.put_u32(DATA, 9)
        assert cpu.run(9) == Stop(StopReason.SYSCALL, 3)
        assert cpu.memory.u32(DATA) == (7 if holds else 9)
        assert (state(cpu)["RAX"], state(cpu)["RCX"]) == (rax if holds else 9, holds)


def test_cmpxchg_in_a_block_is_watched(machine: Machine) -> None:
    # Every fourth time RAX has an upper half, and the comparison holds.
    text = (
        "l: mov eax, [rbx]; test cl, 3; jnz m; bts rax, 40; m: lock cmpxchg [rbx], r12d;"
        "shr rax, 32; add rdx, rax; mov r12d, ecx; dec rcx; jnz l; syscall"
    )
    ends = []
    for chunk in (10**6, 777):
        cpu = machine(text, RBX=DATA, R12=7, RCX=400)
        executed = 0
        while (stop := cpu.run(chunk)).reason is StopReason.COUNT:
            executed += stop.executed
        assert stop.reason is StopReason.SYSCALL
        assert executed + stop.executed == 400 * 9 + 100 + 1
        assert state(cpu)["RDX"] == 100 << 8
        ends.append(state(cpu))
    assert ends[0].diff(ends[1]) == []


def test_x87_runs_while_its_stack_holds(unicorn: Machine) -> None:
    cpu = unicorn("l: fld1; dec ecx; jnz l; syscall", RCX=9)
    stop = cpu.run(99)
    assert (stop.reason, stop.executed) == (StopReason.FAULT, 24)
    assert stop.fault is not None
    assert stop.fault.detail == "fld1: x87 stack overflow"
    cpu = unicorn("fld1; fld1; faddp; syscall", FCW=0x37B)
    assert cpu.run(9).executed == 0


# SDM volume 1, 4.8.3.4: a conversion makes a signalling NaN quiet; Unicorn stores it as it is.
def test_a_signalling_nan_is_not_stored_as_float_or_double(unicorn: Machine) -> None:
    for store in ("fstp dword ptr [rdi]", "fst qword ptr [rdi]", "fstp tbyte ptr [rdi]"):
        for fraction, refused in ((1 << 63 | 5, "tbyte" not in store), (3 << 62 | 5, False)):
            cpu = unicorn(f"fld tbyte ptr [rdi]; {store}; syscall", RDI=DATA)
            cpu.memory.write(DATA, fraction.to_bytes(8, "little") + b"\xff\x7f")
            stop = cpu.run(9)
            assert (stop.reason is StopReason.FAULT) is refused
            assert stop.fault is None or "signalling NaN" in stop.fault.detail


def test_a_refusal_of_the_caller_is_told_armed_or_not(machine: Machine) -> None:
    cpu = machine("nop; nop; syscall")
    cpu.refuse(CODE + 1, "not today")
    for armed in (True, False):
        stop = cpu.run(99, armed=armed)
        assert stop.reason is StopReason.FAULT
        assert stop.fault is not None
        assert (stop.fault.kind, stop.fault.detail) == (FaultKind.REFUSED, "not today")
    assert cpu.rip() == CODE + 1


def test_a_jump_into_an_instruction_meets_what_is_there(machine: Machine) -> None:
    # MOV EAX, imm32 whose immediate is RET FAR, or VZEROUPPER.
    cpu = machine(b"\xb8\xcb\x90\x90\x90\xeb\xfa")
    stop = cpu.run(99)
    assert (stop.reason, stop.executed) == (StopReason.FAULT, 2)
    assert stop.fault is not None
    assert stop.fault.pc == CODE + 1
    cpu = machine(b"\xb8\xc5\xf8\x77\x90\xeb\xfa")
    registers = state(cpu)
    registers["YMM7"] = 1 << 255 | 5
    cpu.load(registers)
    assert cpu.run(3) == Stop(StopReason.COUNT, 3)
    assert (cpu.rip(), state(cpu)["YMM7"]) == (CODE + 4, 5)


# SDM volume 2, CPUID: leaf 1, ECX bits 20, 23, 27, 28; leaf 7, EBX bits 3, 5, 8, 16; leaf 0DH.
def test_cpuid_tells_of_nothing_that_is_refused(unicorn: Machine) -> None:
    def told(leaf: int, subleaf: int = 0) -> list[int]:
        ones = {"RBX": 2**64 - 1, "RDX": 2**64 - 1}
        cpu = unicorn("cpuid; syscall", RAX=1 << 40 | leaf, RCX=1 << 40 | subleaf, **ones)
        assert cpu.run(9) == Stop(StopReason.SYSCALL, 2)
        return [state(cpu)[name] for name in ("RAX", "RBX", "RCX", "RDX")]

    assert told(1)[2] >> 27 & 3 == 1  # OSXSAVE, not AVX
    assert told(1)[2] >> 20 & 1 == 1  # SSE4.2, which is executed (emulator.string_compare)
    assert told(7)[1] & (1 << 3 | 1 << 5 | 1 << 8 | 1 << 16) == 0
    assert told(7)[1] & 1 << 9  # ERMS, as it was
    cpu = unicorn("xgetbv; syscall", RCX=0)
    cpu.run(9)
    assert told(0xD) == [state(cpu)["RAX"], 576, 576, 0]
    assert told(0xD, 1) == told(0xD, 2) == [0, 0, 0, 0]
    assert told(0)[0] == 0xD
    assert told(0x8000_0001)[3] >> 27 & 1  # RDTSCP


def test_what_goes_on_is_not_fenced() -> None:
    for text in ("les: movsb", "mov rax, [rbx + 0x6c]", "lock cmpxchg16b [rdi]", "pause", "ret"):
        assert classify(assemble(text).ljust(15, b"\x90")) is Special.PLAIN
    assert classify(assemble("rep stosq")) is Special.REPEAT
    assert classify(b"\x8f\xc0") is Special.PLAIN  # POP RAX
    assert classify(b"\x48\x66\x0f\xc7\xf0") is Special.RANDOM  # the REX in front is ignored


def test_code_that_is_known_early_is_examined_early() -> None:
    cpu = small_cpu("nop; rdtsc; rep movsb; syscall", RCX=0)
    cpu.load_code([(CODE, b"\x90"), (CODE + 1, b"\x0f\x31"), (CODE + 3, b"\xf3\xa4")])
    assert cpu.run(99) == Stop(StopReason.SYSCALL, 4)
