"""The mutation score of `check`: every single fault of a trampoline, and who notices it.

Each fault (mutations.py) is made in the machine code and the trampoline then checked on a snippet
in which everything is alive (asm/go/probe_amd64.s). A mutant is

    killed      `check` finds a loss, or that the goroutine was not descheduled once
    equivalent  it is proven to keep everything, whatever it interrupts (preserving.py)
    survived    neither: a hole in `check`, or a proof that nobody has found

The proof is tried first, and what is proven is not checked, unless that is asked for: then a loss
that `check` finds is a contradiction, and counts as `survived`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any, Final

from asm import go, rewrite
from asm.source import Source
from emulator.engines import UNICORN
from emulator.memory import PAGE
from pushcall.check import exhaustive as checking
from pushcall.snippet.side import Side
from pushcall.trampoline.dataflow import differences
from pushcall.trampoline.mutations import Mutation, mutations, text
from pushcall.trampoline.preserving import Contract, paths
from pushcall.trampoline.symbols import Sum, UnknownError
from runtime_model.boot import GOROUTINE_STACK, BadProgramError, Config
from runtime_model.policy import Policy
from runtime_model.trampoline import CALLEE, NAME, Trampoline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from asm.rewrite import Line
    from pushcall.trampoline.preserving import Path
    from runtime_model.version import GoVersion

# The probe's stack ends a page above a multiple of 64 KiB.
STACKS: Final = 0xC0_0040_0000 - PAGE - GOROUTINE_STACK + PAGE

_SHARE: Final = 8  # mutants that a process takes at a time
KILLED: Final = "killed"
EQUIVALENT: Final = "equivalent"
SURVIVED: Final = "survived"


@dataclass(frozen=True)
class Mutant:
    """A fault and what became of it. `why` is the loss, the proof, or what hindered one."""

    number: int
    kind: str
    detail: str
    address: int
    instruction: str
    source: str
    position: str
    verdict: str
    why: str

    def to_json(self) -> dict[str, Any]:
        """An entry of `mutants`."""
        return {
            "number": self.number,
            "kind": self.kind,
            "detail": self.detail,
            "address": f"{self.address:#x}",
            "instruction": self.instruction,
            "source": self.source,
            "position": self.position,
            "verdict": self.verdict,
            "why": self.why,
        }

    def __str__(self) -> str:
        became = self.detail if self.detail.startswith(self.kind) else f"became {self.detail}"
        return f"{self.position}  {self.source}: {became}"


@dataclass
class Score:
    """The mutants of one trampoline under one Go version, by number."""

    go: str
    trampoline: str
    instructions: int
    total: int
    mutants: list[Mutant] = field(default_factory=list)
    interrupted: bool = False

    def of(self, verdict: str) -> list[Mutant]:
        """Those with a verdict."""
        return [mutant for mutant in self.mutants if mutant.verdict == verdict]

    @property
    def status(self) -> int:
        """The exit status of the command."""
        if self.interrupted:
            return 130
        return 1 if self.of(SURVIVED) else 0

    def to_json(self) -> dict[str, Any]:
        """The document of `pushcall mutants --json`."""
        document: dict[str, Any] = {
            "schema": "pushcall.mutants/1",
            "go": self.go,
            "trampoline": self.trampoline,
            "instructions": self.instructions,
            "total": self.total,
        }
        document |= {verdict: len(self.of(verdict)) for verdict in (KILLED, EQUIVALENT, SURVIVED)}
        document["mutants"] = [mutant.to_json() for mutant in self.mutants]
        if self.interrupted:
            document["interrupted"] = True
        return document

    def lines(self) -> Iterable[str]:
        """The text of the command; styles as in show.py."""
        killed, survived, proven = (self.of(v) for v in (KILLED, SURVIVED, EQUIVALENT))
        reasons: dict[str, list[Mutant]] = {}
        for mutant in proven:
            reasons.setdefault(mutant.why, []).append(mutant)
        for reason, mutants in sorted(reasons.items(), key=lambda item: -len(item[1])):
            yield f"# {len(mutants)} equivalent: {reason}"
            yield from (f"  {mutant}" for mutant in mutants)
        yield (
            f"{self.trampoline}, Go {self.go}: {self.instructions} instructions, "
            f"{self.total} single faults"
        )
        for kind in dict.fromkeys(mutant.kind for mutant in self.mutants):
            there = [mutant for mutant in self.mutants if mutant.kind == kind]
            dead, same = (sum(m.verdict == v for m in there) for v in (KILLED, EQUIVALENT))
            yield f"  {kind:<10} {dead:5} of {len(there) - same} killed, {same} equivalent"
        style = "+ " if not survived else "! "
        yield (
            f"{style}killed {len(killed)} of {len(killed) + len(survived)}; "
            f"{len(proven)} more are equivalent, which is proven"
        )
        for mutant in survived:
            yield f"! survived: {mutant}"
            yield f"!   {mutant.why}"
        if self.interrupted:
            left = self.total - len(self.mutants)
            yield f"! interrupted: {left} mutants were not tried"


class Workshop:
    """A trampoline taken apart, and what its mutants are judged by."""

    def __init__(self, trampoline: Trampoline, version: GoVersion, engine: str = UNICORN) -> None:
        if not version.asynchronous:
            raise BadProgramError(f"Go {version} has no asyncPreempt to make mutants of")
        self.trampoline = trampoline
        self.version = version
        self.engine = engine  # what the checks run on
        self.config = self._config(trampoline)
        side = Side(replace(self.config, engine=UNICORN))
        rt = side.rt
        function, callee = rt.text.function(NAME), rt.text.function(CALLEE)
        if function is None or callee is None:
            raise BadProgramError(f"{trampoline.name}: no asyncPreempt")
        try:
            self.code: list[Line] = rewrite.lines(function)
        except rewrite.CannotRewriteError as error:
            raise BadProgramError(str(error)) from None
        self.contract = Contract(
            version, rt.layout, rt.asyncPreemptStack, callee.address, rt.asyncPreempt2Stack
        )
        self.mutations: list[Mutation] = list(mutations(self.code))
        side.begin()
        self.start = side.start()
        self.name = trampoline.name if trampoline.source else "Pushcall's asyncPreempt"

    def _config(self, trampoline: Trampoline) -> Config:
        name = "probe_amd64.s"
        probe = Source(name, go.text(name))
        policy = Policy(force_preempt_ns=None)
        return Config(
            (probe,),
            self.version,
            policy=policy,
            budget=None,
            trampoline=trampoline,
            stacks=STACKS,
            engine=self.engine,
        )

    @cached_property
    def sound(self) -> list[Path] | None:
        """All ways through the unchanged trampoline; None if it is not proven itself."""
        try:
            return paths(self.code, self.contract, history=True)
        except UnknownError:
            return None

    def refuse_unsound(self) -> None:
        """A trampoline that loses something already says nothing about its mutants."""
        result = checking.check(self.config, until_lost=True)
        if not result.ok:
            found = [*map(str, result.losses), *result.findings]
            raise BadProgramError(f"{self.name} is not sound before it is changed: {found[0]}")

    def judge(self, number: int, *, confirm: bool = False) -> Mutant:
        """The verdict on one mutant. confirm: check even what is proven."""
        mutation = self.mutations[number]
        proof, obstacle = "", ""
        try:
            proof = self.prove(mutation)
        except UnknownError as error:
            obstacle = str(error)
        loss = "" if proof and not confirm else self.loss(mutation)
        if proof and loss:
            return self._mutant(number, SURVIVED, f"check and proof contradict: {loss}; {proof}")
        if proof:
            return self._mutant(number, EQUIVALENT, proof)
        if loss:
            return self._mutant(number, KILLED, loss)
        return self._mutant(number, SURVIVED, f"no loss was found, and none excluded: {obstacle}")

    def _mutant(self, number: int, verdict: str, why: str) -> Mutant:
        mutation = self.mutations[number]
        line = self.code[mutation.index]
        return Mutant(
            number,
            mutation.kind,
            mutation.detail,
            line.insn.ip,
            text(line.insn),
            " ".join(line.source.split()),
            str(line.position),
            verdict,
            why,
        )

    def mutant_config(self, mutation: Mutation) -> Config:
        """The probe with a mutant in place of asyncPreempt."""
        return self._config(Trampoline(self.trampoline.source, self.trampoline.syntax, mutation))

    def loss(self, mutation: Mutation) -> str:
        """What `check` finds first, or nothing."""
        config = self.mutant_config(mutation)
        result = checking.check(config, until_lost=True, start=self.start)
        if result.interrupted:
            raise KeyboardInterrupt
        return next(iter([*map(str, result.losses), *result.findings]), "")

    # Proofs.

    def prove(self, mutation: Mutation) -> str:
        """Why the mutant keeps everything. Raises UnknownError."""
        changed = mutation(self.code)
        found = paths(changed, self.contract)
        original = self.sound
        if original is None or len(original) != 1 or len(found) != 1:
            return _GENERAL
        unreached = _unreached(mutation, self.code, original[0], found[0])
        if unreached:
            return unreached
        found = paths(changed, self.contract, history=True)
        return _reason(mutation, self.code, original[0], found[0])


_GENERAL: Final = "on every path every register, the flags and the stack end as they began"
_NOTHING: Final = {
    "swapped": "in either order the two leave the same registers and memory",
    "doubled": "the second time changes no register and no memory",
    "dropped": "without it registers and memory are the same",
}


def _unreached(mutation: Mutation, code: Sequence[Line], original: Path, mutant: Path) -> str:
    """The reason where what was changed is never executed; else nothing."""
    if original.steps != mutant.steps:
        return ""
    touched = {line.insn.ip for line in code[mutation.index : mutation.index + mutation.width]}
    if not touched & set(original.steps):
        return "no path leads there"
    return "the second one is never reached" if mutation.kind == "doubled" else ""


def _reason(mutation: Mutation, code: Sequence[Line], original: Path, mutant: Path) -> str:
    """The special reason why a mutant that is proven already makes no difference."""
    last = mutation.index + mutation.width
    ips = [line.insn.ip for line in code[last:]]
    both = [ip for ip in ips if ip in original.before and ip in mutant.before]
    if not both:
        return _GENERAL
    different = [differences(original.before[ip], mutant.before[ip]) for ip in both]
    if not different[0]:
        return _NOTHING.get(mutation.kind, "it leaves the same registers and memory")
    what = " and ".join(dict.fromkeys(map(_called, different[0])))
    same = next((n for n, parts in enumerate(different) if not parts), None)
    if same is None:
        return f"{what} differs, and nothing reads it"
    by = next(text(line.insn) for line in code if line.insn.ip == both[same - 1])
    called = original.at_call is not None and mutant.at_call is not None
    kept = called and bool(differences(original.at_call, mutant.at_call))  # type: ignore[arg-type]
    during = ", asyncPreempt2 only keeps it" if kept else ""
    return f"{what} differs until {by}, nothing reads it{during}; then all is the same"


def _called(part: str | Sum) -> str:
    """A register, or the memory that a byte lies in."""
    if isinstance(part, str):
        return part
    return "dead stack" if part.origin == "RSP" else "what is unused of p.xRegs"


def score(
    workshop: Workshop,
    *,
    jobs: int = 1,
    confirm: bool = False,
    progress: Callable[[int], None] = lambda _: None,
    numbers: Sequence[int] | None = None,
) -> Score:
    """Judges all mutants of a trampoline, or those of the given numbers.

    jobs: processes. confirm: check what is proven, too. Raises BadProgramError. A Ctrl-C ends it
    with what is known so far.
    """
    chosen = list(range(len(workshop.mutations))) if numbers is None else list(numbers)
    result = Score(str(workshop.version), workshop.name, len(workshop.code), len(chosen))
    try:
        workshop.refuse_unsound()
        judged = (
            (workshop.judge(n, confirm=confirm) for n in chosen)
            if jobs == 1
            else _in_processes(workshop, chosen, jobs, confirm=confirm)
        )
        for mutant in judged:
            result.mutants.append(mutant)
            progress(len(result.mutants))
    except KeyboardInterrupt:
        result.interrupted = True
    result.mutants.sort(key=lambda mutant: mutant.number)
    return result


_workshop: Workshop | None = None  # of a worker process


def _start(trampoline: Trampoline, version: GoVersion, engine: str) -> None:
    import signal  # the parent says when to stop

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    global _workshop  # noqa: PLW0603  # a worker process has one
    _workshop = Workshop(trampoline, version, engine)


def _judge(number: int, *, confirm: bool) -> Mutant:
    assert _workshop is not None
    return _workshop.judge(number, confirm=confirm)


def _in_processes(
    workshop: Workshop, chosen: list[int], jobs: int, *, confirm: bool
) -> Iterable[Mutant]:
    # Spawned: a fork would share the guests' memory, which is mapped shared.
    arguments = (workshop.trampoline, workshop.version, workshop.engine)
    with get_context("spawn").Pool(jobs, _start, arguments) as pool:  # its end ends the workers
        yield from pool.imap_unordered(partial(_judge, confirm=confirm), chosen, _SHARE)
