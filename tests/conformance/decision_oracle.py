"""Asks a Go binary's own newstack, canPreemptM, wantAsyncPreempt, isAsyncSafePoint, in Unicorn.

The binary is mapped but not started; g, m and p lie in memory that the model reads, too. What
newstack comes to is seen at the functions it calls: they are overwritten with a call of a trap.
Those that return (shrinkstack, casgstatus, copystack) are stepped over, the others end it; what
only prints returns at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import unicorn
from decision_cases import ASYNC_PREEMPT_STACK, BASE, G0, TLS, Bytes, G, M, answer
from safe_point_oracle import async_preempt_stack
from unicorn import x86_const as x86

from emulator.hooks import host_address
from emulator.memory import PAGE, Memory, Prot

if TYPE_CHECKING:
    from decision_cases import Case

    from runtime_model.moduledata import GoBinary

STACKS = BASE + 0x10_0000
STACKS_SIZE = 0x4_0000
RSP = BASE + 0x12_F000  # on g0's stack, which Bytes lays out
TRAP = BASE + 0x20_0000
CALL_TRAP = b"\x49\xbb" + TRAP.to_bytes(8, "little") + b"\x41\xff\xd3"  # MOVQ $TRAP, R11; CALL R11
TIMEOUT = 10_000_000  # microseconds a call
RETURNS = ("shrinkstack", "casgstatus", "copystack")
# goschedImpl is what gopreempt_m calls, where that is inlined.
ENDS = {name: name for name in ("gogo", "gopreempt_m", "preemptPark", "throw")}
ENDS["goschedImpl"] = "gopreempt_m"


class Decisions:
    """One binary's decisions on the g, m and p in `state`."""

    def __init__(self, binary: GoBinary) -> None:
        assert binary.version.register_abi
        self.binary = binary
        self.memory = Memory()
        self.state = Bytes(binary.version, self.memory)
        uc = self.uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
        self._map(binary)
        for region in self.memory.regions:
            uc.mem_map_ptr(
                region.start, region.size, unicorn.UC_PROT_ALL, host_address(region.view)
            )
        self.memory.put_u64(async_preempt_stack(binary), ASYNC_PREEMPT_STACK)
        self._traps: dict[int, str] = {}  # by the address behind the call of the trap
        for function in binary:
            name = function.name.removeprefix("runtime.")
            if name == function.name:
                continue
            if name in ENDS or name in RETURNS:
                self.memory.write(function.entry, CALL_TRAP)
                self._traps[function.entry + len(CALL_TRAP)] = name
            elif name.startswith(("print", "traceback", "gwrite")):
                self.memory.write(function.entry, b"\xc3")
        symbols = binary.elf.symbols
        self._limits = [symbols[f"runtime.{n}"][0] for n in ("maxstacksize", "maxstackceiling")]
        uc.reg_write(x86.UC_X86_REG_FS_BASE, TLS)

    def _map(self, binary: GoBinary) -> None:
        mapped = 0
        for segment in sorted(binary.elf.segments, key=lambda s: s.address):
            start = max(mapped, segment.address // PAGE * PAGE)
            mapped = max(mapped, -(-(segment.address + segment.size) // PAGE) * PAGE)
            if mapped > start:
                self.memory.map("segment", start, mapped - start, Prot.RW)
            if segment.file_size:
                data = binary.elf.view(segment.address, segment.file_size)
                self.memory.write(segment.address, data)
        self.memory.map("stacks", STACKS, STACKS_SIZE, Prot.RW)
        self.memory.map("trap", TRAP, PAGE, Prot.RW)

    def ask(self, function: str, case: Case) -> str:
        """The answer of one function on the state."""
        uc, memory = self.uc, self.memory
        for address in self._limits:
            memory.put_u64(address, case["maxstacksize"])
        memory.put_u64(RSP, TRAP)
        first = {"canPreemptM": M, "newstack": 0}.get(function, G)
        for register, value in (
            (x86.UC_X86_REG_RSP, RSP),
            (x86.UC_X86_REG_R14, G0),
            (x86.UC_X86_REG_RAX, first),
            (x86.UC_X86_REG_RBX, case["pc"]),
            (x86.UC_X86_REG_RCX, case["sp"]),
            (x86.UC_X86_REG_RDI, 0),
            (x86.UC_X86_REG_XMM15, 0),
        ):
            uc.reg_write(register, value)
        steps: list[str] = []
        pc = self.binary.names[f"runtime.{function}"].entry
        while True:
            try:
                uc.emu_start(pc, TRAP, timeout=TIMEOUT)
            except unicorn.UcError as error:
                if error.errno not in (unicorn.UC_ERR_READ_UNMAPPED, unicorn.UC_ERR_WRITE_UNMAPPED):
                    raise
                steps.append("fault")
                break
            rip, rsp = uc.reg_read(x86.UC_X86_REG_RIP), uc.reg_read(x86.UC_X86_REG_RSP)
            assert rip == TRAP, f"stopped at {rip:#x}"
            if rsp == RSP + 8:
                return self._result(function)
            name = self._traps[memory.u64(rsp)]
            steps.append(self._step(name))
            if name in ENDS:
                break
            pc = memory.u64(rsp + 8)
            uc.reg_write(x86.UC_X86_REG_RSP, rsp + 16)
        return answer(steps, self.state) if function == "newstack" else steps[-1]

    def _result(self, function: str) -> str:
        assert function != "newstack", "newstack never returns"
        if not self.uc.reg_read(x86.UC_X86_REG_AL):
            return "no"
        resume = f" {self.uc.reg_read(x86.UC_X86_REG_RBX):#x}"
        return "yes" + (resume if function == "isAsyncSafePoint" else "")

    def _step(self, name: str) -> str:
        read = self.uc.reg_read
        rax, rbx = read(x86.UC_X86_REG_RAX), read(x86.UC_X86_REG_RBX)
        if name == "throw":
            return f"throw {self.memory.read(rax, rbx).decode()}"
        if name == "copystack":
            return f"copystack {rbx}"
        if name == "casgstatus":
            return f"casgstatus {rbx} {read(x86.UC_X86_REG_RCX)}"
        return ENDS.get(name, name)
