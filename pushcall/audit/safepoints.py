"""`pushcall safepoints`: every instruction of a function with its verdict, and why.

A Listing is one function, of a binary or of an assembled snippet. Views of it, as text and as
JSON, ask preempt.static_verdict through verdict_ranges and nothing else.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from emulator.disassembly import disassemble
from emulator.elf import ElfError
from pushcall.audit.unsafe_kinds import unsafe_kinds
from pushcall.usage import UsageError
from runtime_model.moduledata import GoBinary, NotGoError, UnknownVersionError
from runtime_model.pclntab_format import PclntabError
from runtime_model.preempt import BadRestartPCError, Reason
from runtime_model.safepoints import SAFE_REASONS, function_ranges, snippet_ranges
from runtime_model.symtab import SnippetFunc, funcpkgpath

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from asm.image import Image
    from emulator.disassembly import Decoded
    from runtime_model.func_info import Frame, GoFunc
    from runtime_model.preempt import Verdict
    from runtime_model.safepoints import VerdictRange
    from runtime_model.version import GoVersion

BadTableError: Final = (PclntabError, ElfError, BadRestartPCError)
_NEAR: Final = 5  # names to suggest
_ADDRESS: Final = re.compile(r"0x[0-9a-f]+$")
_RIP: Final = re.compile(r"\[rip ([+-]) (0x[0-9a-f]+|\d+)\]")


@dataclass(frozen=True, slots=True)
class Line:
    """One instruction of a listing; `frames` names its source, innermost inlined first."""

    address: int
    data: bytes
    text: str
    verdict: Verdict
    kind: str  # what an unsafe point is part of, where the code tells; else ""
    frames: tuple[Frame, ...] = ()
    source: str = ""  # of a snippet: its text


@dataclass(frozen=True, slots=True)
class Listing:
    """One function: its ranges, and its instructions when they are asked for."""

    name: str
    start: int
    end: int
    ranges: tuple[VerdictRange, ...]
    lines: Callable[[], Iterator[Line]]
    labels: tuple[str, ...] = ()  # what FuncID and FuncFlag say: "wrapper", "TOPFRAME" …


def open_binary(path: Path, version: GoVersion | None = None) -> GoBinary:
    """The Go binary in a file; UsageError, naming the place, for anything else."""
    try:
        binary = GoBinary(path, version)
        if binary.version.asynchronous:
            return binary
        raise UsageError(
            f"{path}: Go {binary.version} has no asynchronous preemption; 1.14 began it"
        )
    except (ElfError, NotGoError, PclntabError, UnknownVersionError) as error:
        text = str(error)
        raise UsageError(text if str(path) in text else f"{path}: {text}") from None


def select(
    binary: GoBinary, name: str | None = None, pc: int | None = None, package: str | None = None
) -> list[GoFunc]:
    """The functions asked for; UsageError, suggesting near names, where there are none.

    A name is the exact linker's name, else the end of one behind a dot or slash, else a pattern
    with * and ?.
    """
    if pc is not None:
        found = binary.findfunc(pc)
        if found is None:
            table = binary.table
            raise UsageError(
                f"{pc:#x} is not Go code: the functions lie in {table.start:#x}-{table.end:#x}"
            )
        return [found]
    functions: Iterable[GoFunc] = binary
    if package is not None:
        functions = [f for f in binary if funcpkgpath(f.name) == package]
        if not functions:
            raise no_package(binary, package)
    if name is None:
        return list(functions)
    ending = binary.table.named(name)
    if package is not None:
        ending = [f for f in ending if funcpkgpath(f.name) == package]
    chosen = [f for f in ending if f.name == name] or ending
    if not chosen and any(mark in name for mark in "*?"):
        pattern = re.escape(name).replace(r"\*", ".*").replace(r"\?", ".")
        chosen = [f for f in functions if re.fullmatch(pattern, f.name)]
    if not chosen:
        raise UsageError(f"no function {name}{_near(name, {f.name for f in functions})}")
    return chosen


def no_package(binary: GoBinary, package: str) -> UsageError:
    """The error for a package that the binary has no function of, suggesting near ones."""
    near = _near(package, {funcpkgpath(function.name) for function in binary})
    return UsageError(f"{binary.path}: no package {package}{near}")


def _near(name: str, names: set[str]) -> str:
    """Names with a last part near that of the wrong one, as the end of a message."""
    by_end: dict[str, list[str]] = {}
    wanted = name.rpartition(".")[2] or name
    for each in names:
        end = each.rpartition(".")[2]
        if abs(len(end) - len(wanted)) <= 3:
            by_end.setdefault(end, []).append(each)
    ends = difflib.get_close_matches(wanted, by_end, _NEAR)
    near = difflib.get_close_matches(name, [n for end in ends for n in by_end[end]], _NEAR, 0)
    return f"; there is {', '.join(near)}" if near else ""


def binary_listing(binary: GoBinary, function: GoFunc) -> Listing:
    """The listing of a binary's function; PclntabError or BadRestartPCError for broken tables."""
    end = function.end
    ranges = tuple(function_ranges(function, end, binary.version))

    def lines() -> Iterator[Line]:
        yield from _binary_lines(binary, function, ranges)

    return Listing(function.name, function.entry, end, ranges, lines, function.labels)


def _binary_lines(
    binary: GoBinary, function: GoFunc, ranges: tuple[VerdictRange, ...]
) -> Iterator[Line]:
    decoded = [_decoded(binary, each) for each in ranges]
    texts = [[text for _, _, text in instructions] for instructions in decoded]
    kinds = unsafe_kinds(binary, function, ranges, texts)
    for each, instructions, kind in zip(ranges, decoded, kinds, strict=True):
        for address, data, text in instructions:
            yield Line(address, data, text, each.verdict, kind.value, function.frames(address))


def _decoded(binary: GoBinary, each: VerdictRange) -> list[tuple[int, bytes, str]]:
    """(address, bytes, text) of a range's instructions."""
    code = bytes(binary.code(each.start, each.end))
    places = [(i.address, i.size, _named(binary, i)) for i in disassemble(code, each.start)]
    end = places[-1][0] + places[-1][1] if places else each.start
    # What Capstone does not know, or data in the text, is shown as bytes.
    places += [(at, 1, f".byte {code[at - each.start]:#04x}") for at in range(end, each.end)]
    return [(at, code[at - each.start : at - each.start + size], t) for at, size, t in places]


def _named(binary: GoBinary, instruction: Decoded) -> str:
    """The instruction's text, with the name of the function or place that it goes to."""
    text = instruction.text
    relative = _RIP.search(text)
    if relative is not None:
        sign = 1 if relative[1] == "+" else -1
        place = instruction.address + instruction.size + sign * int(relative[2], 0)
        return f"{text[: relative.start()]}[{place:#x}]{text[relative.end() :]}"
    target = _ADDRESS.search(text)
    if target is None or not instruction.mnemonic.startswith(("call", "j")):
        return text
    address = int(target[0], 16)
    found = binary.findfunc(address)
    if found is None:
        return text
    offset = f"+{address - found.entry:#x}" if address != found.entry else ""
    return f"{text} <{found.name}{offset}>"


def snippet_listings(image: Image, compiled: bool, version: GoVersion) -> Iterator[Listing]:
    """The listings of an assembled snippet's functions."""
    for function in image.functions:
        named = SnippetFunc(function, compiled)
        ranges = tuple(snippet_ranges(named, version))

        def lines(
            function: Any = function, ranges: tuple[VerdictRange, ...] = ranges
        ) -> Iterator[Line]:
            for instruction in function.instructions:
                at = instruction.address
                verdict = next(r.verdict for r in ranges if r.start <= at < r.end)
                decoded = disassemble(instruction.data, at, 1)
                text = decoded[0].text if decoded else instruction.source
                kind = "put in by the assembler" if instruction.inserted else ""
                position = str(instruction.position)
                source = f"{position}  {instruction.source}"
                yield Line(at, instruction.data, text, verdict, kind, source=source)

        yield Listing(function.name, function.address, function.end, ranges, lines)


def text_lines(listing: Listing) -> Iterator[str]:
    """The listing as lines for show(): + for safe, ! for what is not."""
    size = listing.end - listing.start
    labels = "".join(f"  {label}" for label in listing.labels)
    yield f"# {listing.name}  {listing.start:#x}-{listing.end:#x}  {size} bytes{labels}"
    counts: Counter[Reason] = Counter()
    frames: tuple[Frame, ...] | None = None
    for line in listing.lines():
        counts[line.verdict.reason] += 1
        where = line.source or ("" if line.frames == frames else _where(line.frames))
        frames = line.frames
        mark = "+ " if line.verdict.safe else "! "
        why = _why(line)
        yield f"{mark}  {line.address:#x}  {line.text:<44}  {why:<44}  {where}".rstrip()
    yield count_text(counts)
    yield ""


def _why(line: Line) -> str:
    reason = line.verdict.reason
    text = {
        Reason.SAFE: "safe",
        Reason.UNSAFE_POINT: "unsafe point",
        Reason.ASSEMBLY: "assembly function",
        Reason.PACKAGE: "package never preempted",
        Reason.RESTART: f"restart at {line.verdict.resume:#x}",
        Reason.RESTART_AT_ENTRY: "restart at the function's entry",
    }[reason]
    return f"{text}: {line.kind}" if line.kind else text


def _where(frames: tuple[Frame, ...]) -> str:
    if not frames:
        return ""
    inner = frames[0]
    text = f"{inner.file.rpartition('/')[2]}:{inner.line}"
    if len(frames) == 1:
        return text
    chain = " in ".join(
        f"{callee.function}, inlined at {caller.file.rpartition('/')[2]}:{caller.line}"
        for callee, caller in itertools.pairwise(frames)
    )
    return f"{text} {chain}"


def count_text(counts: Counter[Reason]) -> str:
    """How many instructions are safe, and why the others are not."""
    total = sum(counts.values())
    safe = sum(n for r, n in counts.items() if r in SAFE_REASONS)
    parts = ", ".join(f"{n} {r.value}" for r, n in counts.most_common() if r not in SAFE_REASONS)
    rate = f"{safe / total:.0%}" if total else "none"
    return f"  {total} instructions, {safe} safe ({rate})" + (f"; not: {parts}" if parts else "")


def reason_name(reason: Reason) -> str:
    """The name of a reason in JSON documents: "unsafe-point"."""
    return reason.name.lower().replace("_", "-")


def to_json(listing: Listing) -> dict[str, Any]:
    """A function's entry in the document of `pushcall safepoints --json`."""
    # Only code tells kinds: what has no marks is not disassembled.
    kinds = {}
    if any(each.verdict.reason is Reason.UNSAFE_POINT for each in listing.ranges):
        marked = (x for x in listing.lines() if x.verdict.reason is Reason.UNSAFE_POINT)
        kinds = {line.address: line.kind for line in marked}
    return {
        "name": listing.name,
        "start": f"{listing.start:#x}",
        "end": f"{listing.end:#x}",
        "labels": list(listing.labels),
        "ranges": [
            {
                "start": f"{each.start:#x}",
                "end": f"{each.end:#x}",
                "safe": each.verdict.safe,
                "reason": reason_name(each.verdict.reason),
                "resume": each.resume,
                "kind": kinds.get(each.start, ""),
            }
            for each in listing.ranges
        ],
    }
