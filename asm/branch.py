"""Jump targets within a function (cmd/internal/obj/pass.go: linkpatch, brloop)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asm.mnemonics import JUMPS
from asm.operand import Kind, Prog, Text
from asm.source import Diagnostics, Fault, near_miss

if TYPE_CHECKING:
    from collections.abc import Mapping


def resolve(text: Text, diagnostics: Diagnostics) -> None:
    """Gives every jump to a label or to n(PC) its target; jumps to jumps go to the end."""
    by_number = {prog.number: prog for prog in text.progs}
    for prog in text.progs:
        if prog.op not in JUMPS or not prog.operands:
            continue
        operand = prog.operands[-1]
        if operand.kind is not Kind.BRANCH:
            continue
        if len(prog.operands) > 1:
            diagnostics.add(Fault(prog.operands[0].span, f"{prog.op} takes one operand"))
            prog.op = "UNKNOWN"
            continue
        try:
            prog.target = _target(text, by_number, prog)
        except Fault as fault:
            diagnostics.add(fault)
            prog.op = "UNKNOWN"
    known: dict[int, Prog] = {}
    for prog in text.progs:
        if prog.target is not None:
            prog.target = _last_of_chain(prog.target, known)


def _target(text: Text, by_number: Mapping[int, Prog], prog: Prog) -> Prog:
    operand = prog.operands[-1]
    if operand.label:
        target = text.labels.get(operand.label)
        if target is None:
            note = near_miss(operand.label, text.labels)
            raise Fault(operand.span, f"no label {operand.label} in {text.name}", note)
        return target
    target = by_number.get(prog.number + operand.offset)
    if target is None:
        raise Fault(
            operand.span,
            f"{operand.offset}(PC) leaves {text.name}, which has {len(text.progs)} statements",
        )
    return target


def _last_of_chain(target: Prog, known: dict[int, Prog]) -> Prog:
    """Where a chain of jumps ends; in a loop of jumps, some place in it."""
    path: dict[int, Prog] = {}
    at = target
    while at.op == "JMP" and (following := at.target) is not None and id(at) not in path:
        if id(at) in known:
            at = known[id(at)]
            break
        path[id(at)] = at
        at = following
    known |= dict.fromkeys(path, at)
    return at
