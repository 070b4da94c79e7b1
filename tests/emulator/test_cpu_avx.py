"""AVX and AVX-512 instructions that preemption code needs, by the rules of Intel's SDM.

Expected values follow from volume 2's descriptions; random forms run beside the real processor in
test_cpu_truth_sample and in the conformance test.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import avx_forms
import pytest
from small_cpu import CODE, DATA, DATA_END, small_cpu, state

from emulator import computed, extended
from emulator.cpu import Stop, StopReason
from emulator.extended_history import ExtendedHistory
from emulator.fault import FaultKind
from emulator.memory import Prot
from emulator.recording import Recorder
from emulator.registers import Registers
from emulator.unicorn_cpu import UnicornCpu

Machine = Callable[..., UnicornCpu]

# Machine code as GNU as and `go tool asm` write it; RDI is the address.
LOAD_Y1 = "c5fe6f0f"  # VMOVDQU YMM1, [RDI]
LOAD_X1 = "c5fa6f0f"  # VMOVDQU XMM1, [RDI]
LEGACY_X1 = "f30f6f0f"  # MOVDQU XMM1, [RDI]
STORE_Y1 = "c5fe7f0f"  # VMOVDQU [RDI], YMM1
ALIGNED_Y1 = "c5fd6f0f"  # VMOVDQA YMM1, [RDI]
VZEROUPPER, VZEROALL = "c5f877", "c5fc77"
LOAD_Z17_1 = "62e1fe486f4f01"  # VMOVDQU64 ZMM17, [RDI+64]: disp8 is 1
STORE_Z1_K1 = "62f17e497f0f"  # VMOVDQU32 [RDI]{K1}, ZMM1
LOAD_Z1_K1 = "62f17e496f0f"  # VMOVDQU32 ZMM1{K1}, [RDI]
LOAD_Z1_K1Z = "62f17ec96f0f"  # VMOVDQU32 ZMM1{K1}{z}, [RDI]
SYSCALL = "0f05"

ONES = (1 << 512) - 1
CONTENT = bytes(range(1, 129))


def value(start: int, size: int) -> int:
    return int.from_bytes(CONTENT[start : start + size], "little")


def run(machine: Machine, *code: str, rdi: int = DATA, **values: int) -> tuple[UnicornCpu, Stop]:
    """Runs the code over CONTENT, which lies at RDI as far as there is room."""
    cpu = machine(bytes.fromhex("".join(code)) + b"\x0f\x05")
    if DATA <= rdi < DATA_END:
        cpu.memory.write(rdi, CONTENT[: DATA_END - rdi])
    registers = state(cpu)
    for name, number in (values | {"RDI": rdi}).items():
        registers[name] = number
    cpu.load(registers)
    return cpu, cpu.run(99)


def test_names_address_the_parts_of_one_register() -> None:
    registers = Registers()
    registers["ZMM3"] = value(0, 64)
    assert [registers[f"{kind}MM3"] for kind in "XYZ"] == [value(0, n) for n in (16, 32, 64)]
    registers["XMM3"] = 7
    assert registers["ZMM3"] == value(0, 64) - value(0, 16) + 7
    registers["ZMM20"] = value(0, 64)
    assert (registers["XMM20"], registers["YMM20"]) == (value(0, 16), value(0, 32))
    registers["K2"] = 2**64 - 1
    assert extended.in_use(registers.extended) == extended.FEATURES
    assert registers.names()[-3:] == ["ZMM3", "ZMM20", "K2"]
    for name in ("ZMM3", "ZMM20", "K2"):
        registers[name] = 0
    assert registers == Registers()
    for name in ("XMM32", "YMM", "K8", "ZMM-1", "RXX"):
        with pytest.raises(KeyError):
            registers[name]


# SDM volume 1, 13.4.3 and the example in 13.5: what CPUID tells on every processor by Intel.
def test_the_state_lies_as_in_an_xsave_area() -> None:
    offsets = {"YMM0": 576, "YMM15": 816, "K0": 1088, "K7": 1144, "ZMM15": 1632, "ZMM16": 1664}
    for name, offset in offsets.items():
        _, at, _ = extended.pieces(name)[-1]
        assert at + extended.AREA_OFFSET == offset
    assert extended.AREA_OFFSET + extended.SIZE == 2688


def test_a_difference_is_named_by_the_widest_register_that_has_it() -> None:
    one, other = Registers(), Registers()
    other["XMM7"] = 1
    assert one.diff(other) == ["XMM7"]
    other["YMM7"] = 1 << 128
    assert one.diff(other) == ["YMM7"]
    other["ZMM7"] = 1 << 256 | 1 << 128 | 1
    other["ZMM31"] = 1
    other["K5"] = 1
    assert one.diff(other) == ["XMM7", "ZMM7", "ZMM31", "K5"]


# SDM volume 2, VMOVDQU: bits above the vector length are zeroed; MOVDQU leaves them.
def test_vex_moves_zero_what_lies_above_and_legacy_sse_keeps_it(machine: Machine) -> None:
    cpu, stop = run(machine, LOAD_Y1, ZMM1=ONES)
    assert stop == Stop(StopReason.SYSCALL, 2)
    assert state(cpu)["ZMM1"] == value(0, 32)
    cpu, _ = run(machine, LOAD_X1, ZMM1=ONES)
    assert state(cpu)["ZMM1"] == value(0, 16)
    cpu, _ = run(machine, LEGACY_X1, ZMM1=ONES)
    assert state(cpu)["ZMM1"] == ONES - 2**128 + 1 + value(0, 16)


# SDM volume 2, VZEROUPPER and VZEROALL: registers 16 to 31 stay, masks as well.
def test_vzeroupper_and_vzeroall_touch_the_first_16_registers_only(machine: Machine) -> None:
    values = {"ZMM0": ONES, "ZMM15": ONES, "ZMM16": ONES, "K3": 5}
    cpu, _ = run(machine, VZEROUPPER, **values)
    names = ("ZMM0", "ZMM15", "ZMM16", "K3")
    assert [state(cpu)[name] for name in names] == [2**128 - 1, 2**128 - 1, ONES, 5]
    cpu, _ = run(machine, VZEROALL, **values)
    assert [state(cpu)[name] for name in names] == [0, 0, ONES, 5]


# SDM volume 2, 2.7.5: an 8-bit displacement counts in vector lengths.
def test_a_compressed_displacement_is_scaled(machine: Machine) -> None:
    cpu, _ = run(machine, LOAD_Z17_1)
    assert state(cpu)["ZMM17"] == value(64, 64)


# SDM volume 2, 2.7.4: merging keeps what the mask leaves out, zeroing clears it.
def test_masks_choose_elements(machine: Machine) -> None:
    mask = {"K1": 0x8001, "ZMM1": ONES}
    first, last = value(0, 4), value(60, 4) << 480
    cpu, _ = run(machine, LOAD_Z1_K1Z, **mask)
    assert state(cpu)["ZMM1"] == first | last
    cpu, _ = run(machine, LOAD_Z1_K1, **mask)
    kept = ONES & ~(0xFFFF_FFFF | 0xFFFF_FFFF << 480)
    assert state(cpu)["ZMM1"] == kept | first | last
    cpu, _ = run(machine, STORE_Z1_K1, **mask)
    expected = b"\xff" * 4 + CONTENT[4:60] + b"\xff" * 4
    assert cpu.memory.read(DATA, 64) == expected


# SDM volume 2, 2.8.1 to 2.8.4: elements that are not selected do not fault.
def test_what_a_mask_leaves_out_does_not_fault(machine: Machine) -> None:
    cpu, stop = run(machine, LOAD_Z1_K1Z, rdi=DATA_END - 8, K1=3)
    assert stop == Stop(StopReason.SYSCALL, 2)
    assert state(cpu)["ZMM1"] == value(0, 8)
    for code, kind in ((LOAD_Z1_K1Z, FaultKind.READ), (STORE_Z1_K1, FaultKind.WRITE)):
        cpu, stop = run(machine, code, rdi=DATA_END - 8, K1=4, ZMM1=ONES)
        assert stop.fault is not None
        assert (stop.executed, cpu.rip()) == (0, CODE)
        assert (stop.fault.kind, stop.fault.address) == (kind, DATA_END)
        assert state(cpu)["ZMM1"] == ONES


@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_kmov_moves_so_many_bits_and_clears_the_rest(machine: Machine, width: int) -> None:
    # KMOV K1, R9; KMOV EAX/RAX, K1; KMOV K2, [RDI]; KMOV [RDI+64], K3. SDM volume 2, KMOV.
    codes = {
        1: ("c4c17992c9", "c5f993c1", "c5f99017", "c5f9915f40"),
        2: ("c4c17892c9", "c5f893c1", "c5f89017", "c5f8915f40"),
        4: ("c4c17b92c9", "c5fb93c1", "c4e1f99017", "c4e1f9915f40"),
        8: ("c4c1fb92c9", "c4e1fb93c1", "c4e1f89017", "c4e1f8915f40"),
    }
    values = {"R9": 0xF1E2_D3C4_B5A6_9788, "RAX": 2**64 - 1, "K1": 2**64 - 1, "K2": 2**64 - 1}
    cpu, stop = run(machine, *codes[width], K3=2**64 - 1, **values)
    assert stop == Stop(StopReason.SYSCALL, 5)
    mask = (1 << 8 * width) - 1
    after = state(cpu)
    assert (after["K1"], after["RAX"]) == (values["R9"] & mask,) * 2
    assert after["K2"] == value(0, width)
    assert cpu.memory.read(DATA + 64, 8) == b"\xff" * width + CONTENT[64 + width : 72]


# SDM volume 2, 2.8.1: type 1 instructions fault with #GP on an address that is not aligned.
def test_aligned_moves_fault_on_other_addresses(unicorn: Machine) -> None:
    cpu, stop = run(unicorn, ALIGNED_Y1, rdi=DATA + 32)
    assert state(cpu)["YMM1"] == value(0, 32)
    cpu, stop = run(unicorn, ALIGNED_Y1, rdi=DATA + 16, YMM1=9)
    assert stop.fault is not None
    assert (stop.executed, stop.fault.kind, stop.fault.address) == (0, FaultKind.PRIVILEGED, None)
    assert "0x600010 is not aligned to 32 bytes" in stop.fault.detail
    assert state(cpu)["YMM1"] == 9


def test_a_page_fault_is_told_at_its_address_and_nothing_has_changed(machine: Machine) -> None:
    for rdi, kind, address in (
        (DATA_END - 8, FaultKind.READ, DATA_END),
        (0x1234, FaultKind.READ, 0x1234),
        (1 << 47, FaultKind.PRIVILEGED, None),
    ):
        cpu, stop = run(machine, LOAD_Y1, rdi=rdi, YMM1=9)
        assert stop.fault is not None
        assert (stop.fault.kind, stop.fault.address) == (kind, address)
        assert (stop.executed, stop.fault.pc, state(cpu)["YMM1"]) == (0, CODE, 9)
    cpu, stop = run(machine, STORE_Y1, rdi=DATA_END - 8, YMM1=9)
    assert stop.fault is not None
    assert (stop.fault.kind, stop.fault.address) == (FaultKind.WRITE, DATA_END)
    assert cpu.memory.read(DATA_END - 8, 8) == CONTENT[:8]
    cpu, stop = run(machine, STORE_Y1, rdi=0x610000)  # constants
    assert stop.fault is not None
    assert (stop.fault.kind, stop.fault.address) == (FaultKind.WRITE_PROTECTED, 0x610000)


def test_they_run_in_a_loop_and_count(machine: Machine) -> None:
    # VMOVDQU YMM1, [RDI]; VMOVDQU [RDI], YMM1; DEC RCX; JNZ; SYSCALL
    code = bytes.fromhex(LOAD_Y1 + STORE_Y1 + "48ffc9" + "75f3" + SYSCALL)
    cpu = machine(code, RDI=DATA, RCX=10)
    assert cpu.run(13) == Stop(StopReason.COUNT, 13)
    assert cpu.rip() == CODE + 4
    assert cpu.run(999) == Stop(StopReason.SYSCALL, 41 - 13)


def test_a_store_into_code_is_seen(machine: Machine) -> None:
    # VMOVDQU [RIP], YMM1 over what follows: INC RAX and SYSCALL instead of 32 INT3.
    cpu = machine(bytes.fromhex("c5fe7f0d00000000") + b"\xcc" * 40, code=Prot.RW | Prot.EXEC)
    registers = state(cpu)
    registers["YMM1"] = int.from_bytes(b"\x48\xff\xc0\x0f\x05".ljust(32, b"\xcc"), "little")
    registers["RAX"] = 41
    cpu.load(registers)
    assert cpu.run(9) == Stop(StopReason.SYSCALL, 3)
    assert state(cpu)["RAX"] == 42


def test_what_cannot_be_exact_is_refused() -> None:
    cpu = small_cpu(bytes.fromhex(VZEROUPPER))
    registers = state(cpu)
    registers["RFLAGS"] |= 1 << 18  # AC: misaligned accesses fault
    cpu.load(registers)
    stop = cpu.run(1)
    assert stop.fault is not None
    assert (stop.fault.kind, stop.executed) == (FaultKind.REFUSED, 0)
    assert "RFLAGS.AC" in stop.fault.detail


def test_every_form_of_each_mnemonic_is_done() -> None:
    rng = random.Random(1)
    for code, name in avx_forms.NAMES.items():
        for _ in range(3):
            made = avx_forms.encode(code, rng, flips=0)
            operation = computed.decode(made)
            assert operation is not None, name
            assert operation.size == len(made), name
    assert len(avx_forms.NAMES) == 140


def test_a_recording_has_the_steps_and_what_they_overwrote(machine: Machine) -> None:
    cpu = machine(bytes.fromhex(LOAD_Y1 + STORE_Y1 + "90" + SYSCALL), RDI=DATA)
    cpu.memory.write(DATA, CONTENT)
    with Recorder(cpu) as recorder:
        cpu.run(99)
    recording = recorder.recording
    assert [recording.pc(step) - CODE for step in range(len(recording))] == [0, 4, 8, 9]
    assert [store.address for store in recording.stores(1)] == [DATA + 8 * i for i in range(4)]
    assert b"".join(store.before for store in recording.stores(1)) == CONTENT[:32]
    assert [recording.registers(step)["YMM1"] for step in range(4)] == [0] + 3 * [value(0, 32)]


def test_a_history_of_states_is_small_and_gives_each_back() -> None:
    rng = random.Random(2)
    history, registers, states = ExtendedHistory(), Registers(), {}
    for number in range(0, 3000, 3):
        registers[rng.choice(["ZMM3", "YMM7", "K2", "ZMM30"])] = rng.choice(
            (0, rng.getrandbits(256))
        )
        history.add(number, registers.extended)
        states[number] = registers.extended
    assert history.at(-1) == extended.INITIAL
    for number in [*states, *rng.sample(sorted(states), 300)]:
        assert history.at(number) == history.at(number + 2) == states[number]
    assert history.size() < 150 * len(states)
