"""Loops that never pass a safe point: cycles of the control-flow graph of unsafe instructions.

A goroutine can be stopped asynchronously at each boundary with a safe verdict, and by itself at
each call of a function that checks its stack bound. The graph here has an instruction for a node
where neither holds; a cycle in it is a path that nothing can interrupt, for as long as it goes
round. Loops are the strongly connected components of that graph, and, with a component's header
taken out, those inside of it. Decoding is iced-x86's, ten times as fast as Capstone's binding.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from iced_x86 import Code, Decoder, FlowControl, Mnemonic, OpKind, Register, RegisterExt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

_JUMP_TABLE_ENTRIES: Final = 4096
_JUMP_TABLE_REACH: Final = 16  # instructions between the LEA of a table and its jump
_SET_UP_REACH: Final = 24  # instructions in front of a loop in which its count is looked for
_DEEPEST: Final = 64  # loops in loops
_CHECK_REACH: Final = 6  # instructions in which a prologue has its stack check
_STACK_GUARD: Final = 0x10  # g.stackguard0

_BRANCHES: Final = (
    FlowControl.CONDITIONAL_BRANCH,
    FlowControl.UNCONDITIONAL_BRANCH,
    FlowControl.XBEGIN_XABORT_XEND,
)
_STOPS: Final = (
    FlowControl.UNCONDITIONAL_BRANCH,
    FlowControl.INDIRECT_BRANCH,
    FlowControl.RETURN,
    FlowControl.EXCEPTION,
    FlowControl.INTERRUPT,
)
_CALLS: Final = (FlowControl.CALL, FlowControl.INDIRECT_CALL)
_IMMEDIATES: Final = (
    OpKind.IMMEDIATE8,
    OpKind.IMMEDIATE16,
    OpKind.IMMEDIATE32,
    OpKind.IMMEDIATE64,
    OpKind.IMMEDIATE8TO16,
    OpKind.IMMEDIATE8TO32,
    OpKind.IMMEDIATE8TO64,
    OpKind.IMMEDIATE32TO64,
)
_NEAR: Final = (OpKind.NEAR_BRANCH16, OpKind.NEAR_BRANCH32, OpKind.NEAR_BRANCH64)


class Kind(Enum):
    """How long a loop that cannot be stopped may run, worst first."""

    UNBOUNDED = "unbounded"  # nothing visible ends it by counting
    COUNTED = "counted"  # until a register counts down, or reaches another
    REP = "rep"  # one repeated string instruction
    CONSTANT = "constant"  # a constant number of rounds


@dataclass(frozen=True, slots=True)
class Loop:
    """A loop: its first address, the end of its last instruction, its instructions, its bound."""

    start: int
    end: int
    addresses: tuple[int, ...]
    kind: Kind
    bound: str


@dataclass(frozen=True, slots=True)
class Code64:
    """What loops() asks of the program around a function."""

    can_stop: Callable[[int], bool]  # whether a call of this address surely reaches a stop
    u64: Callable[[int], int]  # a word of the program; an error where there is none


def decode(code: bytes | memoryview, address: int) -> Iterator[Any]:
    """The instructions of `code`, which lies at `address`."""
    found: Iterator[Any] = iter(Decoder(64, bytes(code), ip=address))
    return found


def count(code: bytes) -> int:
    """How many instructions there are."""
    return len(list(Decoder(64, code)))


# A branch forwards or a call: all that most unsafe ranges are.
_ONE_STEP: Final = re.compile(rb"(?:[\x70-\x7f]|\x0f[\x80-\x8f]...)[\x00-\x7f]|\xe8.{4}", re.DOTALL)
# What stands in a loop, wherever its bytes may lie: a branch whose distance is negative (LOOP,
# JRCXZ and XBEGIN, too); an indirect jump; REP or REPNE, other prefixes, a string instruction.
_MAY_LOOP: Final = re.compile(
    rb"[\x70-\x7f\xe0-\xe3\xeb][\x80-\xff]"
    rb"|(?:\x0f[\x80-\x8f]|\xe9|\xc7\xf8)...[\x80-\xff]"
    rb"|\xff[\x20-\x2f\x60-\x6f\xa0-\xaf\xe0-\xef]"
    rb"|[\xf2\xf3][\x26\x2e\x36\x3e\x40-\x4f\x64-\x67\xf0\xf2\xf3]*"
    rb"[\x6c-\x6f\xa4-\xa7\xaa-\xaf]",
    re.DOTALL,
)


def scan(code: bytes) -> tuple[int, bool]:
    """How many instructions there are, and whether suspects() may find any: False is certain."""
    if len(code) < 7 and _ONE_STEP.fullmatch(code):
        return 1, False
    return count(code), _MAY_LOOP.search(code) is not None


def is_target(instruction: Any) -> bool:
    """Whether the instruction has a near branch target."""
    return bool(instruction.op_count and instruction.op_kind(0) in _NEAR)


def is_repeated(instruction: Any) -> bool:
    """Whether it is a string instruction under a REP prefix: signals come between its rounds."""
    prefixed = instruction.has_rep_prefix or instruction.has_repne_prefix
    return bool(prefixed and instruction.is_string_instruction)


def suspects(instructions: Iterable[Any]) -> Iterator[tuple[int, int]]:
    """Where a loop may close: (address, where that goes back to).

    What repeats itself goes back to itself; so does, for what is known here, an indirect jump.
    """
    for each in instructions:
        flow = each.flow_control
        if flow == FlowControl.NEXT:
            if each.is_string_instruction and is_repeated(each):
                yield each.ip, each.ip
        elif flow in _BRANCHES:
            if each.near_branch_target <= each.ip:
                yield each.ip, each.near_branch_target
        elif flow == FlowControl.INDIRECT_BRANCH:
            yield each.ip, each.ip


def leads_to(start: int, end: int, at: Callable[[int], Any]) -> bool:
    """Whether a path leads from one address to another, calls taken to return.

    `at` gives the instruction at an address, None where no path may go.
    """
    seen = set()
    work = [start]
    while work:
        address = work.pop()
        if address in seen:
            continue
        seen.add(address)
        if (each := at(address)) is None:
            continue
        if address == end:
            return True
        flow = each.flow_control
        if flow not in _STOPS:
            work.append(each.next_ip)
        if flow in _BRANCHES and is_target(each):
            work.append(each.near_branch_target)
    return False


def checks_stack(instructions: Iterable[Any]) -> bool:
    """Whether code begins with the stack check of a prologue (obj6.go: stacksplit).

    It compares with g.stackguard0, or loads it: g is in R14, or in CX up to 1.16.
    """
    for _, each in zip(range(_CHECK_REACH), instructions, strict=False):
        if each.mnemonic in (Mnemonic.CMP, Mnemonic.MOV) and (
            each.memory_base in (Register.R14, Register.RCX)
            and each.memory_displacement == _STACK_GUARD
            and each.memory_index == Register.NONE
        ):
            return bool(each.mnemonic == Mnemonic.CMP or each.op0_register == Register.RSI)
        if each.flow_control not in (FlowControl.NEXT, FlowControl.CONDITIONAL_BRANCH):
            return False
    return False


def jump_table(instructions: list[Any], index: int, program: Code64) -> list[int] | None:
    """The targets of `JMP (table)(i*8)`; None if the table is not found (amd64/ssa.go)."""
    jump = instructions[index]
    if jump.op0_kind != OpKind.MEMORY or jump.memory_index_scale != 8:
        return None
    base = jump.memory_base
    for each in reversed(instructions[max(0, index - _JUMP_TABLE_REACH) : index]):
        if each.op_count and each.op0_kind == OpKind.REGISTER and each.op0_register == base:
            if each.mnemonic != Mnemonic.LEA or not each.is_ip_rel_memory_operand:
                return None
            table = each.ip_rel_memory_address
            break
    else:
        return None
    first, last = instructions[0].ip, instructions[-1].next_ip
    targets: list[int] = []
    for entry in range(_JUMP_TABLE_ENTRIES):
        try:
            target = program.u64(table + 8 * entry)
        except ValueError:
            break
        if not first <= target < last:
            break
        targets.append(target)
    return targets or None


def loops(instructions: list[Any], unsafe: Callable[[int], bool], program: Code64) -> list[Loop]:
    """The loops of one function, whose instructions are given in order, that nothing can stop.

    An indirect jump whose table is not found is taken to leave the function.
    """
    nodes = {
        each.ip: index
        for index, each in enumerate(instructions)
        if unsafe(each.ip) and not _stopped_by_call(each, program)
    }
    edges: dict[int, list[int]] = {}
    found: list[Loop] = []
    for index in nodes.values():
        each = instructions[index]
        if is_repeated(each):
            rounds = _constant(instructions, index, Register.RCX)
            kind = Kind.REP if rounds is None else Kind.CONSTANT
            bound = "the count in RCX" if rounds is None else f"RCX counts from {rounds}"
            found.append(Loop(each.ip, each.next_ip, (each.ip,), kind, bound))
        edges[index] = [
            nodes[target] for target in successors(instructions, index, program) if target in nodes
        ]
    found += [_loop(instructions, component, edges) for component in _nested(edges)]
    return sorted(found, key=lambda loop: (loop.start, -loop.end))


def _stopped_by_call(instruction: Any, program: Code64) -> bool:
    if instruction.flow_control not in _CALLS:
        return False
    return not is_target(instruction) or program.can_stop(instruction.near_branch_target)


def successors(instructions: list[Any], index: int, program: Code64) -> list[int]:
    """The addresses that an instruction may lead to, calls taken to return."""
    each = instructions[index]
    flow = each.flow_control
    found = [] if flow in _STOPS else [each.next_ip]
    if flow in _BRANCHES and is_target(each):
        found.append(each.near_branch_target)
    elif flow == FlowControl.INDIRECT_BRANCH:
        found += jump_table(instructions, index, program) or []
    return found


def _blocks(edges: Mapping[int, list[int]]) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
    """Basic blocks: (their nodes, the blocks that follow them), both by their first node.

    A node that only the one before it leads to, and that is all that one leads to, is in its block.
    """
    arrows = Counter(itertools.chain.from_iterable(edges.values()))
    blocks: dict[int, list[int]] = {}
    block: list[int] = []
    before: list[int] = []
    for node in edges:
        if not (before == [node] and arrows[node] == 1):
            block = blocks[node] = []
        block.append(node)
        before = edges[node]
    return blocks, {first: edges[block[-1]] for first, block in blocks.items()}


def _nested(edges: Mapping[int, list[int]]) -> Iterator[list[int]]:
    """Strongly connected components with a cycle, then those in each without its header."""
    blocks, after = _blocks(edges)
    work = [(component, 0) for component in components(blocks, after)]
    while work:
        component, depth = work.pop()
        yield [node for first in component for node in blocks[first]]
        if depth < _DEEPEST:
            members = set(component)
            # What follows a header in its block is reached through it alone.
            members.discard(_header(component, after))
            work += [(each, depth + 1) for each in components(members, after)]


def _header(component: list[int], edges: Mapping[int, list[int]]) -> int:
    """The node that loops go back to: the lowest that a later or the same node leads to."""
    members = set(component)
    targets = [to for at in component for to in edges[at] if to in members and to <= at]
    return min(targets)


def components(nodes: Iterable[int], edges: Mapping[int, list[int]]) -> list[list[int]]:
    """Strongly connected components that have a cycle, by Tarjan's algorithm, without recursion."""
    members = set(nodes)
    number: dict[int, int] = {}
    low: dict[int, int] = {}
    on_stack: set[int] = set()
    stack: list[int] = []
    found: list[list[int]] = []
    for root in sorted(members):
        if root in number:
            continue
        number[root] = low[root] = len(number)
        stack.append(root)
        on_stack.add(root)
        walk = [(root, iter(edges[root]))]
        while walk:
            node, rest = walk[-1]
            for to in rest:
                if to not in members:
                    continue
                if to not in number:
                    number[to] = low[to] = len(number)
                    stack.append(to)
                    on_stack.add(to)
                    walk.append((to, iter(edges[to])))
                    break
                if to in on_stack:
                    low[node] = min(low[node], number[to])
            else:
                walk.pop()
                if walk:
                    parent = walk[-1][0]
                    low[parent] = min(low[parent], low[node])
                if low[node] == number[node]:
                    component = []
                    while True:
                        member = stack.pop()
                        on_stack.discard(member)
                        component.append(member)
                        if member == node:
                            break
                    if len(component) > 1 or node in edges[node]:
                        found.append(sorted(component))
    return found


def _loop(instructions: list[Any], component: list[int], edges: Mapping[int, list[int]]) -> Loop:
    members = set(component)
    kind, bound = Kind.UNBOUNDED, ""
    for index in component:
        each = instructions[index]
        if each.flow_control != FlowControl.CONDITIONAL_BRANCH:
            continue
        inside = [to for to in edges[index] if to in members]
        if len(inside) > 1:
            continue  # it does not leave the loop
        answer = _bound(instructions, component, index)
        if answer is not None and (kind is Kind.UNBOUNDED or answer[0] is Kind.CONSTANT):
            kind, bound = answer
    addresses = tuple(instructions[index].ip for index in component)
    return Loop(addresses[0], instructions[component[-1]].next_ip, addresses, kind, bound)


def _bound(instructions: list[Any], component: list[int], branch: int) -> tuple[Kind, str] | None:
    """What counts the rounds, read from the compare in front of the branch that leaves."""
    each = instructions[branch]
    if each.code in (Code.LOOP_REL8_64_RCX, Code.LOOPE_REL8_64_RCX, Code.LOOPNE_REL8_64_RCX):
        return _counted_from(instructions, component[0], Register.RCX)
    test = next(
        (
            instructions[at]
            for at in range(branch - 1, max(-1, branch - 5), -1)
            if instructions[at].mnemonic in (*_COUNTS, Mnemonic.CMP, Mnemonic.TEST)
        ),
        None,
    )
    if test is None:
        return None
    steps = {
        _full(instructions[at].op0_register)
        for at in component
        if instructions[at].op_count
        and instructions[at].op0_kind == OpKind.REGISTER
        and _steps_by_constant(instructions[at])
    }
    operands = [
        _full(test.op_register(i)) if test.op_kind(i) == OpKind.REGISTER else None
        for i in range(test.op_count)
    ]
    register = next((each for each in operands if each in steps), None)
    if register is None:
        return None
    if test.mnemonic != Mnemonic.CMP:
        return _counted_from(instructions, component[0], register)
    other = operands[1 - operands.index(register)]
    if other is not None:
        return Kind.COUNTED, f"{_name(register)} goes to {_name(other)}"
    if test.op1_kind not in _IMMEDIATES:
        return Kind.COUNTED, f"{_name(register)} goes to a value in memory"
    limit = test.immediate(1)
    start = _constant(instructions, component[0], register)
    if start is not None:
        return Kind.CONSTANT, f"{_name(register)} goes from {start} to {limit}"
    return Kind.COUNTED, f"{_name(register)} goes to {limit}"


_COUNTS: Final = (Mnemonic.DEC, Mnemonic.SUB, Mnemonic.INC, Mnemonic.ADD)


def _steps_by_constant(instruction: Any) -> bool:
    if instruction.mnemonic in (Mnemonic.DEC, Mnemonic.INC):
        return True
    if instruction.mnemonic == Mnemonic.LEA:
        base = _full(instruction.memory_base)
        return base == _full(instruction.op0_register) and not instruction.memory_index
    return instruction.mnemonic in _COUNTS and instruction.op1_kind in _IMMEDIATES


def _counted_from(instructions: list[Any], first: int, register: int) -> tuple[Kind, str]:
    start = _constant(instructions, first, register)
    if start is not None:
        return Kind.CONSTANT, f"{_name(register)} counts from {start}"
    return Kind.COUNTED, f"{_name(register)} counts down"


def _constant(instructions: list[Any], first: int, register: int) -> int | None:
    """The constant that the register has in front of the loop, if it is set in plain sight."""
    for each in reversed(instructions[max(0, first - _SET_UP_REACH) : first]):
        if each.flow_control != FlowControl.NEXT and each.flow_control not in _BRANCHES:
            return None
        if not each.op_count or each.op0_kind != OpKind.REGISTER:
            continue
        if _full(each.op0_register) != register or each.mnemonic in (Mnemonic.CMP, Mnemonic.TEST):
            continue
        if each.mnemonic == Mnemonic.MOV and each.op1_kind in _IMMEDIATES:
            return int(each.immediate(1))
        if each.mnemonic == Mnemonic.XOR and each.op1_kind == OpKind.REGISTER:
            return 0 if each.op1_register == each.op0_register else None
        return None
    return None


def _full(register: int) -> int:
    return int(RegisterExt.full_register(register))


_NAMES: Final[dict[int, str]] = {
    value: name for name, value in vars(Register).items() if isinstance(value, int)
}


def _name(register: int) -> str:
    return _NAMES.get(register, "?")
