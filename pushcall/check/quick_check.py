"""`pushcall check BINARY --function F --quick`: calls of F, preempted without booting the program.

F is called in the model (runtime_model.call), with the arguments given or with random ones, and the
call is checked as a snippet is (check.py): every boundary that it executes, in whatever function,
through the executable's own asyncPreempt. Variables are as in the file, and there is no heap, so a
path may fault or come to no end: it is checked up to there.

Random arguments are pointers to zeroed memory, low enough to be lengths too, and small numbers; the
first call has pointers alone. cmd/compile/abi-internal.md says where they are passed; up to Go 1.16
that is the stack.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from emulator.engines import UNICORN
from pushcall.check import explain
from pushcall.check.exhaustive import check
from pushcall.check.verdict import CheckResult
from pushcall.usage import UsageError
from runtime_model.boot import Config
from runtime_model.call import SCRATCH, SCRATCH_SIZE, Call, CannotCallError, executable_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from runtime_model.func_info import GoFunc
    from runtime_model.version import GoVersion

CALLS: Final = 4  # with random arguments
BUDGET: Final = 200_000  # instructions of a call
INTEGERS: Final = ("RAX", "RBX", "RCX", "RDI", "RSI", "R8", "R9", "R10", "R11")
FLOATS: Final = tuple(f"XMM{n}" for n in range(15))
OTHERS: Final = ("RDX", "R12", "R13", "R15")  # RDX: the closure; the others hold nothing
# What a processor has beyond, by trampoline.CPUS.
_YMM: Final = tuple(f"YMM{n}" for n in range(16))
WIDE: Final = {
    "avx": _YMM,
    "avx2": _YMM,
    "avx512": (*(f"ZMM{n}" for n in range(32)), *(f"K{n}" for n in range(8))),
}
WORDS: Final = 16  # of arguments on the stack
LOW: Final = 0x8000  # random pointers point to the first so many bytes, in which all loops fit
SMALL: Final = 64


@dataclass(frozen=True)
class Arguments:
    """Integers with pointers, the bits of floating-point numbers, and all of them, in order."""

    integers: tuple[int, ...]
    floats: tuple[int, ...]
    words: tuple[int, ...]


def parse_arguments(texts: Sequence[str]) -> Arguments:
    """What --arg gave: 5, -1, 0x10; 1.5, 1.5f (float32); mem:N, a pointer to N zero bytes."""
    integers: list[int] = []
    floats: list[int] = []
    words: list[int] = []
    free = SCRATCH
    for text in texts:
        try:
            if text.startswith("mem:"):
                size = int(text[4:], 0)
                value, free = free, free + (size + 15 & -16)
                chosen = integers if size >= 0 and free <= SCRATCH + SCRATCH_SIZE else None
            elif _is_float(text):
                form = "<f4x" if text.endswith("f") else "<d"
                data = struct.pack(form, float(text.removesuffix("f")))
                value, chosen = int.from_bytes(data, "little"), floats
            else:
                value = int(text, 0)
                chosen = integers if -(1 << 63) <= value < 1 << 64 else None
        except (ValueError, OverflowError):
            chosen = None
        if chosen is None:
            known = f"a number such as 5, 0x10, 1.5, 1.5f, or mem:N, up to {SCRATCH_SIZE} in all"
            raise UsageError(f"--arg {text}: not {known}")
        chosen.append(value % (1 << 64))
        words.append(chosen[-1])
    return Arguments(tuple(integers), tuple(floats), tuple(words))


def _is_float(text: str) -> bool:
    if text.lower().startswith(("0x", "-0x")):
        return False
    return any(mark in text for mark in ".e") or text.lstrip("+-").startswith(("inf", "nan"))


def _given(path: Path, version: GoVersion, entry: int, given: Arguments) -> Call:
    """What is not given is zero."""
    if not version.register_abi:
        return Call(path, version, entry, words=(*given.words, *(0,) * WORDS))
    for kind, values, registers in (
        ("integers", given.integers, INTEGERS),
        ("floating-point numbers", given.floats, FLOATS),
    ):
        if len(values) > len(registers):
            raise UsageError(f"--arg: {len(registers)} registers take {kind}, not {len(values)}")
    passed = dict.fromkeys((*INTEGERS, *OTHERS, *FLOATS), 0)
    passed.update(zip(INTEGERS, given.integers, strict=False))
    passed.update(zip(FLOATS, given.floats, strict=False))
    return Call(path, version, entry, tuple(passed.items()))


def random_call(path: Path, version: GoVersion, function: GoFunc, seed: int, number: int) -> Call:
    """The call of that number, with the same arguments each time."""
    rng = random.Random(f"{seed} {number} {function.name}")  # noqa: S311  # reproducible

    def word() -> int:
        if number and rng.random() < 0.5:
            return rng.randrange(SMALL)
        return SCRATCH + rng.randrange(0, LOW, 8)

    registers = [(name, word()) for name in (*INTEGERS, *OTHERS)]
    for name in FLOATS:
        low = struct.pack("<d", rng.uniform(-1000, 1000))
        registers.append((name, int.from_bytes(low + rng.randbytes(8), "little")))
    return Call(
        path, version, function.entry, tuple(registers), tuple(word() for _ in range(WORDS))
    )


def _on(call: Call, cpu: str) -> Call:
    """The call on a processor, whose vector and mask registers hold something, all of them."""
    rng = random.Random(f"{cpu} {call.entry}")  # noqa: S311  # reproducible
    bits = {"Y": 256, "Z": 512, "K": 64}
    wide = [(name, rng.getrandbits(bits[name[0]])) for name in WIDE.get(cpu, ())]
    # The XMM registers of the call lie in the lowest parts.
    return dataclasses.replace(call, cpu=cpu, registers=(*wide, *call.registers))


def quick_check(
    path: Path,
    version: GoVersion,
    function: GoFunc,
    *,
    arguments: Sequence[str] = (),
    calls: int | None = None,
    seed: int = 0,
    budget: int | None = None,
    points: int | None = None,
    jobs: int = 1,
    engine: str = UNICORN,
    cpu: str = "",
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> CheckResult:
    """Checks calls of a function; see the module's text. Ctrl-C leaves what is known so far.

    engine: one of emulator.engines. cpu: see `Call`.
    """
    if arguments:
        if calls is not None:
            raise UsageError("--calls is for random arguments, and --arg gives them")
        chosen = [_given(path, version, function.entry, parse_arguments(arguments))]
    else:
        chosen = [random_call(path, version, function, seed, n) for n in range(calls or CALLS)]
    result = CheckResult(str(version), "")
    result.compared = "every register, the stack and the program's variables"
    result.finished = True
    try:
        base = executable_of(path, version).base
        configs = [
            Config(sources=(), version=version, call=_on(call, cpu), engine=engine)
            for call in chosen
        ]
        _check_calls(result, configs, budget or BUDGET, points, jobs, progress)
    except CannotCallError as error:
        raise UsageError(str(error)) from None
    result.notes.append(_reached(path, version, function, base, result.visited))
    return result


def _check_calls(
    result: CheckResult,
    configs: Sequence[Config],
    budget: int,
    points: int | None,
    jobs: int,
    progress: Callable[[int, int], None],
) -> None:
    with contextlib.ExitStack() as stack:
        pool = None
        for number, config in enumerate(configs, 1):
            if jobs > 1:
                from pushcall.check.pool import processes

                pool = stack.enter_context(processes(jobs, config)) if pool is None else pool
                pool = pool.of(config)
            one = check(config, progress, budget=budget, points=points, pool=pool, whole=False)
            explain.attach(config, one)
            result.engine = one.engine
            result.add(one)
            # Where a call dies is a boundary, too.
            result.boundaries += max(one.boundaries, one.points + one.unsafe)
            if one.of is not None:
                result.of = (result.of or 0) + one.of
            which = f"call {number} of {len(configs)}" if len(configs) > 1 else "the call"
            result.notes += [f"{which} {note}" for note in one.notes]
            if one.interrupted:
                return


def _reached(path: Path, version: GoVersion, function: GoFunc, base: int, visited: set[int]) -> str:
    code = executable_of(path, version).code.findfunc(function.entry + base)
    assert code is not None
    missing = [each for each in code.instructions if each.address not in visited]
    count = len(code.instructions)
    if not missing:
        return f"all {count} instructions of {function.name} were reached"
    first = missing[0]
    return (
        f"{count - len(missing)} of {count} instructions of {function.name} were reached; the "
        f"first that was not: {first.address:#x}  {first.source}  {first.position}"
    )
