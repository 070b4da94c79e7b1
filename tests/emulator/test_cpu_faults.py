"""A fault leaves the state of the boundary before the instruction, and names it.

Kinds and which accesses fault: SDM volume 3, chapter 6; addresses as Linux reports CR2.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from small_cpu import CODE, CODE_END, CONSTANTS, DATA_END, STACK, assemble, small_cpu, state

from emulator.cpu import Stop, StopReason
from emulator.fault import Fault, FaultKind
from emulator.memory import Memory, Prot
from emulator.registers import USER_RFLAGS
from emulator.unicorn_cpu import UnicornCpu

Machine = Callable[..., UnicornCpu]

# Each runs after `inc rax; jmp` in the middle of a block; RBX is the address.
MEMORY_FAULTS = {
    "read": ("mov rcx, [rbx]", 0x12345, FaultKind.READ, 0x12345),
    "write": ("mov [rbx + 8], rcx", 0x12345, FaultKind.WRITE, 0x1234D),
    "write of a constant": ("mov [rbx], cl", CONSTANTS + 5, FaultKind.WRITE_PROTECTED, None),
    "add to a constant": ("add [rbx], cl", CONSTANTS, FaultKind.WRITE_PROTECTED, None),
    "push": ("mov rsp, rbx; push rcx", STACK, FaultKind.WRITE_PROTECTED, STACK - 8),
    "call": ("mov rsp, rbx; call 0x400100", STACK, FaultKind.WRITE_PROTECTED, STACK - 8),
    "pop": ("mov rsp, rbx; pop rcx", 0x5000, FaultKind.READ, 0x5000),
    "guard": ("mov rcx, [rbx]", STACK - 0x1000, FaultKind.READ_PROTECTED, None),
    "read across": ("mov rcx, [rbx]", DATA_END - 4, FaultKind.READ, DATA_END),
    "write across": ("mov [rbx], rcx", DATA_END - 4, FaultKind.WRITE, DATA_END),
    "read across from": ("mov rcx, [rbx]", 0x8FFC, FaultKind.READ, 0x8FFC),
    "vector": ("movups [rbx], xmm0", DATA_END - 8, FaultKind.WRITE, DATA_END),
    # Of what is read and then written the page-fault error code tells a write (SDM volume 3, 4.7).
    "exchange": ("xchg [rbx], rcx", DATA_END, FaultKind.WRITE, DATA_END),
    "add": ("add [rbx], cl", DATA_END, FaultKind.WRITE, DATA_END),
    "bit": ("bts [rbx], rcx", DATA_END + 8, FaultKind.WRITE, DATA_END + 8),
    "string": ("mov rdi, rbx; stosq", DATA_END, FaultKind.WRITE, DATA_END),
    "write of code": ("mov [rbx], cl", CODE + 0x100, FaultKind.WRITE_PROTECTED, None),
}


@pytest.mark.parametrize("name", MEMORY_FAULTS)
def test_memory_faults(machine: Machine, name: str) -> None:
    text, rbx, kind, address = MEMORY_FAULTS[name]
    before = "inc rax; " + "".join(f"{part};" for part in text.split(";")[:-1])
    pc = CODE + len(assemble(before))
    cpu = machine(f"inc rax; {text}; inc rax; syscall", RBX=rbx, RCX=7)
    stop = cpu.run(99)
    fault = Fault(kind, pc, rbx if address is None else address)
    assert stop == Stop(StopReason.FAULT, before.count(";"), fault)
    faulted = state(cpu)
    stepped = machine(f"inc rax; {text}; inc rax; syscall", RBX=rbx, RCX=7)
    stepped.run(before.count(";"))
    assert faulted.diff(state(stepped)) == []
    assert cpu.run(99) == Stop(StopReason.FAULT, 0, fault)


def test_a_store_that_spans_into_a_bad_page_writes_nothing(machine: Machine) -> None:
    cpu = machine("mov [rbx], rcx", RBX=DATA_END - 4, RCX=2**64 - 1)
    assert cpu.run(9).reason is StopReason.FAULT
    assert cpu.memory.read(DATA_END - 4, 4) == bytes(4)


def test_a_rep_that_faults_has_done_the_iterations_before(machine: Machine) -> None:
    cpu = machine("mov al, 0xaa; rep stosb; nop", RDI=DATA_END - 5, RCX=9)
    fault = Fault(FaultKind.WRITE, CODE + 2, DATA_END)
    assert cpu.run(99) == Stop(StopReason.FAULT, 6, fault)
    assert state(cpu)["RCX"] == 4
    assert cpu.memory.read(DATA_END - 5, 5) == b"\xaa" * 5


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        (0x123456, FaultKind.FETCH),
        (0, FaultKind.FETCH),
        (STACK + 0x10, FaultKind.FETCH_PROTECTED),
        (CONSTANTS, FaultKind.FETCH_PROTECTED),
        (STACK - 0x800, FaultKind.FETCH_PROTECTED),
    ],
)
def test_jumps_to_nowhere(machine: Machine, target: int, kind: FaultKind) -> None:
    cpu = machine("nop; jmp rbx", RBX=target)
    stop = Stop(StopReason.FAULT, 2, Fault(kind, target, target))
    assert cpu.run(2) == Stop(StopReason.COUNT, 2)
    assert cpu.rip() == target
    cpu = machine("nop; jmp rbx", RBX=target)
    assert cpu.run(99) == stop
    assert cpu.rip() == target


def test_code_that_runs_off_the_end_of_memory_runs_to_its_end(machine: Machine) -> None:
    cpu = machine(b"\x90" * (CODE_END - CODE), RIP=CODE_END - 5)
    fault = Fault(FaultKind.FETCH, CODE_END, CODE_END)
    assert cpu.run(3) == Stop(StopReason.COUNT, 3)
    assert cpu.run(99) == Stop(StopReason.FAULT, 2, fault)


def test_an_instruction_that_memory_ends_in_faults_where_it_starts(machine: Machine) -> None:
    code = b"\x90" * (CODE_END - CODE - 2) + b"\x48\xb8"  # MOV RAX, imm64, cut off
    cpu = machine(code, RIP=CODE_END - 4)
    fault = Fault(FaultKind.FETCH, CODE_END - 2, CODE_END)
    assert cpu.run(99) == Stop(StopReason.FAULT, 2, fault)


def test_a_loop_at_the_end_of_memory_is_translated_again_as_a_whole(machine: Machine) -> None:
    # The DIV falls through only in the last round; the loop's block is followed by nothing.
    loop = assemble("l: inc rax; dec rbx; jnz l")
    code = b"\x90" * (CODE_END - CODE - len(loop)) + loop
    cpu = machine(code, RIP=CODE_END - len(loop) - 1, RBX=50)
    fault = Fault(FaultKind.FETCH, CODE_END, CODE_END)
    assert cpu.run(9999) == Stop(StopReason.FAULT, 151, fault)


PROCESSOR_FAULTS = {
    "div ecx": FaultKind.DIVIDE,
    "idiv rcx": FaultKind.DIVIDE,
    "ud2": FaultKind.INVALID,
    "int3": FaultKind.BREAKPOINT,
    "int 0x80": FaultKind.REFUSED,
    "int 0x0d": FaultKind.PRIVILEGED,
    "sysenter": FaultKind.REFUSED,
    "mov rcx, [rdi]": FaultKind.PRIVILEGED,  # RDI is not canonical
    "movaps xmm0, [rsp + 1]": FaultKind.PRIVILEGED,
    "paddb xmm9, [rip + 1 - 9]": FaultKind.PRIVILEGED,  # it is at CODE + 4, and 9 bytes long
    "iretq": FaultKind.REFUSED,
}
PRIVILEGED = [
    "cli", "sti", "hlt", "in al, dx", "out 0x80, eax", "insb", "rep outsd", "rdmsr", "wrmsr",
    "mov rax, cr0", "mov cr3, rax", "mov dr0, rax", "lgdt [rax]", "lidt [rax]", "ltr ax", "clts",
    "invlpg [rax]", "wbinvd", "invd", "swapgs",
]  # fmt: skip


@pytest.mark.parametrize("text", [*PROCESSOR_FAULTS, *PRIVILEGED])
def test_faults_of_the_processor(machine: Machine, text: str) -> None:
    kind = PROCESSOR_FAULTS.get(text, FaultKind.PRIVILEGED)
    for _ in range(2):
        cpu = machine(f"inc rax; nop; {text}; inc rax", RDI=1 << 63)
        # Twice on one engine: Unicorn itself takes the second for a double fault.
        for _ in range(3):
            start = state(cpu)
            start["RIP"] = CODE
            start["RAX"] = 5
            cpu.load(start)
            stop = cpu.run(99)
            assert (stop.reason, stop.executed) == (StopReason.FAULT, 2)
            assert stop.fault is not None
            assert (stop.fault.kind, stop.fault.pc) == (kind, CODE + 4)
            assert cpu.rip() == CODE + 4
            assert state(cpu)["RAX"] == 6


# SDM volume 2, POPF: with CPL 3 and IOPL 0, IF and IOPL stay as they are, and nothing faults.
def test_popfq_leaves_if_and_iopl_alone(machine: Machine) -> None:
    cpu = machine("push 0x3cd7; popfq; pushfq; pop rax; syscall")
    registers = state(cpu)
    # All of 0x3cd7 but TF, which is not in it; IOPL = 3 and IF = 0 are not taken.
    assert cpu.run(9).reason is StopReason.SYSCALL
    assert state(cpu)["RAX"] == 0xCD7 | USER_RFLAGS
    assert registers["RFLAGS"] == USER_RFLAGS


def test_selectors_are_those_of_a_linux_program(machine: Machine) -> None:
    cpu = machine("mov eax, cs; mov ecx, ss; syscall")
    cpu.run(9)
    assert (state(cpu)["RAX"], state(cpu)["RCX"]) == (0x33, 0x2B)


def test_fsgsbase_is_allowed_as_linux_5_9_has_it(machine: Machine) -> None:
    cpu = machine("wrfsbase rbx; mov rax, fs:[8]; rdgsbase rcx; syscall", RBX=STACK, GS_BASE=77)
    cpu.memory.put_u64(STACK + 8, 1234)
    assert cpu.run(9).reason is StopReason.SYSCALL
    registers = state(cpu)
    assert (registers["RAX"], registers["RCX"], registers["FS_BASE"]) == (1234, 77, STACK)


def test_the_trap_flag_traps_behind_the_next_instruction(machine: Machine) -> None:
    cpu = machine("push 0x302; popfq; nop; nop")
    stop = cpu.run(9)
    assert (stop.reason, stop.executed) == (StopReason.FAULT, 3)
    assert stop.fault is not None
    assert stop.fault.kind is FaultKind.EXCEPTION
    assert cpu.rip() == CODE + len(assemble("push 0x302; popfq; nop"))


def test_flags_of_the_kernel_are_not_loaded(machine: Machine) -> None:
    cpu = machine("nop")
    registers = state(cpu)
    registers["RFLAGS"] = 0x3202
    with pytest.raises(ValueError, match="0x3202"):
        cpu.load(registers)
    # RF, which a signal frame has after a fault, is gone once an instruction was executed.
    registers["RFLAGS"] = 0x10246
    cpu.load(registers)
    cpu.run(1)
    assert state(cpu)["RFLAGS"] == 0x246


def test_address_zero_cannot_be_mapped() -> None:
    memory = Memory()
    memory.map("zero", 0, 0x1000, Prot.RX)
    with pytest.raises(ValueError, match="address 0"):
        UnicornCpu(memory)


RWX = Prot.RW | Prot.EXEC


def test_a_program_may_write_its_own_code_and_it_counts_once(machine: Machine) -> None:
    # The third byte of INC RAX, in the same block, becomes that of DEC RAX.
    cpu = machine("mov byte ptr [rip + 3], 0xc8; nop; inc rax; nop; syscall", code=RWX)
    assert cpu.run(99) == Stop(StopReason.SYSCALL, 5)
    assert state(cpu)["RAX"] == 2**64 - 1
    cpu = machine("mov byte ptr [rip + 3], 0xc8; nop; inc rax; nop; syscall", code=RWX)
    for _ in range(4):
        assert cpu.run(1) == Stop(StopReason.COUNT, 1)
    assert cpu.run(1) == Stop(StopReason.SYSCALL, 1)


def test_a_loop_that_changes_itself(machine: Machine) -> None:
    text = "l: xor ebx, 0xc8 ^ 0xc0; inc rax; mov [rip - 9], bl; dec ecx; jnz l; syscall"
    patched = CODE + len(assemble("xor ebx, 0xc8 ^ 0xc0")) + 2
    code = assemble(text.replace("[rip - 9]", f"[{patched:#x}]"))
    cpu = machine(code, code=RWX, RBX=0xC0, RCX=4)
    # INC, then DEC, INC, DEC.
    assert cpu.run(99) == Stop(StopReason.SYSCALL, 21)
    assert state(cpu)["RAX"] == 0


def test_written_code_goes_through_the_fence(unicorn: Machine) -> None:
    # RETF, then VADDPS XMM0, XMM0, [RDI].
    cpu = unicorn("mov dword ptr [rip + 1], 0x90cb; nop; nop; nop; nop; syscall", code=RWX)
    stop = cpu.run(99)
    assert (stop.reason, stop.executed) == (StopReason.FAULT, 2)
    cpu = unicorn("mov dword ptr [rip + 1], 0x0758f8c5; nop; nop; nop; nop; nop", code=RWX)
    stop = cpu.run(99)
    assert (stop.reason, stop.executed) == (StopReason.FAULT, 2)
    assert stop.fault is not None
    assert stop.fault.kind is FaultKind.REFUSED


def test_an_instruction_that_writes_over_itself_is_refused() -> None:
    cpu = small_cpu("nop; mov byte ptr [rip - 2], 1; nop", code=RWX)
    stop = cpu.run(99)
    assert stop.fault is not None
    assert stop.fault.kind is FaultKind.REFUSED
    assert "writes over itself" in stop.fault.detail


def test_data_in_executable_memory_is_only_data(machine: Machine) -> None:
    cpu = machine("l: mov [rbx], rcx; add rdx, [rbx]; dec rcx; jnz l; syscall", code=RWX, RCX=50)
    registers = state(cpu)
    registers["RBX"] = CODE + 0x1000
    cpu.load(registers)
    assert cpu.run(999) == Stop(StopReason.SYSCALL, 201)
    assert state(cpu)["RDX"] == 50 * 51 // 2
