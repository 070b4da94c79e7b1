"""The message of a check that fails in a test: what was lost, why, and the code around it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pushcall.check import explain
from runtime_model.boot import assembled

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pushcall.booted.check import FunctionCheck
    from pushcall.check.verdict import CheckResult
    from runtime_model.boot import Config

AROUND: Final = 4  # instructions on either side of the boundary
BOUNDARIES: Final = 3  # of which the code is shown


def of_snippet(config: Config, result: CheckResult) -> str:
    """The message for a snippet, each loss explained."""
    explain.attach(config, result)
    return "\n".join([*_plain(result), *code_of_snippet(config, result)])


def of_function(checked: FunctionCheck) -> str:
    """The message for a function of an executable."""
    result = checked.result
    return "\n".join([*_plain(result), *_code(result, checked.instructions)])


def _plain(result: CheckResult) -> Iterator[str]:
    return (line.removeprefix("! ") for line in result.lines())


def code_of_snippet(config: Config, result: CheckResult) -> Iterator[str]:
    """The instructions around the first boundaries of losses."""
    image = assembled(config).user
    functions = [image.findfunc(loss.first.place.pc) for loss in result.losses]
    code = {i.address: " ".join(i.source.split()) for f in functions if f for i in f.instructions}
    return _code(result, dict(sorted(code.items())))


def _code(result: CheckResult, code: Mapping[int, str]) -> Iterator[str]:
    shown = {loss.first.place.pc: loss.first for loss in reversed(result.losses)}
    for pc, boundary in list(reversed(shown.items()))[:BOUNDARIES]:
        yield f"around boundary {boundary.index}, {boundary.place}:"
        yield from _around(code, pc)


def _around(code: Mapping[int, str], pc: int) -> Iterator[str]:
    """The instructions around a PC, of texts by address in rising order; `>` marks the PC's own."""
    addresses = list(code)
    here = addresses.index(pc) if pc in code else 0
    for address in addresses[max(0, here - AROUND) : here + AROUND + 1]:
        yield f"  {'>' if address == pc else ' '} {address:#x}  {code[address]}"
