"""Random states of g, m and p, and what the model's decisions make of them.

The decisions are those of runtime/preempt.go and stack.go: canPreemptM, wantAsyncPreempt,
isAsyncSafePoint, newstack. Go's own machine code is asked about the same bytes by
tests/conformance/test_model_agrees.py, which also records its answers in
tests/runtime_model/go_decisions.json.
"""

from __future__ import annotations

import ast
import inspect
import random
import zlib
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from emulator.events import Event, EventStream
from emulator.memory import Memory, Prot, UnmappedError
from emulator.registers import Registers
from runtime_model import layout, newstack, preempt
from runtime_model.events import StackChecked
from runtime_model.panic import Throw
from runtime_model.runtime import Runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import CodeType, ModuleType

    from runtime_model.symtab import FuncTable
    from runtime_model.version import GoVersion

BASE = 0x7000_0000_0000
G, OTHER, G0, M, P, TLS = (BASE + 0x1000 * i for i in (0, 1, 2, 3, 5, 15))  # p has 16 KiB
ARENA_SIZE = 0xF000
LO, HI = BASE + 0x10_7000, BASE + 0x10_8000  # the stack that a good goroutine has
ASYNC_PREEMPT_STACK = 472
RECORDED = 300  # cases a function, of which the answers are recorded
FUNCTIONS = ("canPreemptM", "wantAsyncPreempt", "isAsyncSafePoint", "newstack")

_STATUSES = (2, 1, 3, 4, 6, 8, 9, 0x1002, 0x1003, 0x1004, 0x1009)
_NUMBERS = (0, 1, -1, 0x7FFF_FFFF, 0x100)
_BYTES = (0, 1)
# By field of g, m, p, or argument: the value that stands in nothing's way first.
VALUES: Mapping[str, tuple[int, ...]] = {
    "g.stack.lo": (LO, HI - 2048, HI - 0x8000, 0),
    "g.sched.sp": (HI - 256, LO + 8, LO + 7, LO, HI - 2048 + 8, HI - 2048 + 7),
    "g.throwsplit": _BYTES,
    "g.preempt": (1, 0),
    "g.preemptStop": _BYTES,
    "g.preemptShrink": _BYTES,
    "g.asyncSafePoint": _BYTES,
    "g.syncSafePoint": _BYTES,
    "g.atomicstatus": _STATUSES,
    "g.syscallsp": (0, LO),
    "m.g0": (G0, G),
    "m.curg": (G, OTHER, 0),
    "m.morebuf.g": (G, OTHER, 0),
    "m.morebuf.pc": (0x1000, 0),
    "m.p": (P, 0),
    "m.locks": _NUMBERS,
    "m.mallocing": _NUMBERS,
    "m.preemptoff.length": (0, 5, 1, 1 << 40),
    "m.throwing": _NUMBERS,
    "m.dying": _NUMBERS,
    "m.incgo": _BYTES,
    "m.spinning": _BYTES,
    "p.status": (1, 0, 2, 3, 4, 0x101),
    "p.preempt": _BYTES,
    "maxstacksize": (1_000_000_000, 8192, 8191, 4096, 4095),
    "sp": (HI - 256, LO + 472, LO + 471, LO, LO - 8, 0),
}
GUARDS = (2**64 - 1314, LO + 928, 2**64 - 275, 2**64 - 1234, 0)  # stack.go: stackPreempt, …

# How newstack ends by its event, where that has another name.
TOLD = {"not now": "gogo", "copystack": "gogo", "stack overflow": "throw stack overflow"}

Case = dict[str, int]


def cases(
    seed: int, count: int, pcs: tuple[int, ...], functions: tuple[int, ...]
) -> Iterator[Case]:
    """States in which few fields stand in the way, else none would ever decide.

    `pcs`: what isAsyncSafePoint is asked about; `functions`: PCs in which newstack was called.
    """
    chance = random.Random(seed)
    values = VALUES | {"pc": pcs, "g.sched.pc": functions}
    names = tuple(values)
    for _ in range(count):
        case = {name: choices[0] for name, choices in values.items()}
        case["g.stackguard0"] = chance.choice(GUARDS[: chance.choice((1, 2, 5))])
        case["g.preempt"], case["p.preempt"] = chance.choice(((1, 0), (0, 1)))
        for name in chance.sample(names, chance.choice((0, 1, 1, 1, 2, 2, 3, 6, len(names)))):
            case[name] = chance.choice(values[name])
        yield case


class Bytes:
    """g, m and p of a version in memory."""

    def __init__(self, version: GoVersion, memory: Memory) -> None:
        self.memory = memory
        self.layout = layout.load(version.number)
        memory.map("g, m, p", BASE, ARENA_SIZE, Prot.RW)
        self.places: dict[str, list[tuple[int, int]]] = {}
        for name in (*VALUES, "g.stackguard0", "g.sched.pc"):
            self.places[name] = self._places(*name.split(".", 1)) if "." in name else []
        constants = [
            *((g, "g", "m", M) for g in (G, OTHER, G0)),
            *((g, "g", "stack.hi", HI) for g in (G, OTHER)),
            (G0, "g", "stack.lo", BASE + 0x12_0000),
            (G0, "g", "stack.hi", BASE + 0x13_0000),
            (G0, "g", "stackguard0", BASE + 0x12_0000 + 928),
            (G0, "g", "stackguard1", BASE + 0x12_0000 + 928),
            (P, "p", "m", M),
        ]
        memory.put_u64(TLS - 8, G0)
        for base, struct, path, value in constants:
            memory.put_u64(base + self.layout.offset(struct, path), value)
        self._empty = memory.read(BASE, ARENA_SIZE)
        self._image = bytearray(self._empty)

    def _places(self, struct: str, path: str) -> list[tuple[int, int]]:
        """(offset from BASE, size) of the places of a field; none in a version without it."""
        of_string = path == "preemptoff.length"
        path = "preemptoff" if of_string else path
        if not self.layout.has(struct, path):
            return []
        field = self.layout.field(struct, path)
        offset, size = (field.offset + 8, 8) if of_string else (field.offset, field.size)
        # Whichever g is curg is in the same state.
        bases = {"g": (G, OTHER), "m": (M,), "p": (P,)}[struct]
        return [(base - BASE + offset, size) for base in bases]

    def lay_out(self, case: Case) -> None:
        """Writes a state, and zero into all the rest."""
        image = bytearray(self._empty)
        for name, places in self.places.items():
            for offset, size in places:
                value = case[name] & ((1 << 8 * size) - 1)
                image[offset : offset + size] = value.to_bytes(size, "little")
        self._image = image
        self.again()

    def again(self) -> None:
        """Writes the same state once more."""
        self.memory.write(BASE, self._image)

    def digest(self) -> int:
        """A checksum of all of it."""
        return zlib.crc32(self.memory.view(BASE, ARENA_SIZE))


def answer(steps: list[str], state: Bytes) -> str:
    """One line: what newstack did, and a checksum of what it left where it goes on."""
    goes_on = not steps[-1].startswith(("throw", "fault"))
    return "; ".join([*steps, f"{state.digest():08x}"] if goes_on else steps)


# The model.


@dataclass
class _Thread:
    registers: Registers
    tid: int = 1


@dataclass
class _Machine:
    memory: Memory
    events: EventStream
    now: int = 0

    def registers(self, thread: Any) -> Any:
        """As Machine.registers: no processor holds any."""
        return thread.registers


class _Gone(BaseException):
    """Newstack left for something that does not return."""


_MODULES = {
    preempt: ("canPreemptM", "wantAsyncPreempt", "isAsyncSafePoint"),
    newstack: ("newstack", "_preempt", "_newsize"),
}


class _DropCondition(ast.NodeTransformer):
    """Drops condition number `number`: an if's whole test, or one operand of and, or."""

    def __init__(self, number: int) -> None:
        self.left = number
        self.dropped = ""

    def _take(self, node: ast.expr) -> bool:
        self.left -= 1
        if self.left == -1:
            self.dropped = ast.unparse(node)
        return self.left == -1

    def visit_If(self, node: ast.If) -> ast.AST:
        if self._take(node.test):
            node.test = ast.Constant(False)
        return self.generic_visit(node)

    def visit_While(self, node: ast.While) -> ast.AST:
        if self._take(node.test):
            node.test = ast.Constant(False)
        return self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        for operand in tuple(node.values):
            if self._take(operand):
                node.values.remove(operand)
        self.generic_visit(node)
        return node if len(node.values) > 1 else node.values[0]


@dataclass(frozen=True)
class Condition:
    """A condition of one of the model's functions."""

    function: str
    number: int
    text: str


def conditions() -> list[Condition]:
    """All conditions of the model's decisions."""
    found = []
    for module, names in _MODULES.items():
        for name in names:
            for number in range(100):
                _, text = _compiled(module, name, number)
                if not text:
                    break
                found.append(Condition(name, number, text))
    return found


@cache
def _compiled(module: ModuleType, name: str, without: int) -> tuple[CodeType, str]:
    """A function's code without one of its conditions, and that condition."""
    drop = _DropCondition(without)
    tree = ast.parse(inspect.getsource(getattr(module, name)))
    if without >= 0:
        tree = ast.fix_missing_locations(drop.visit(tree))
    return compile(tree, module.__name__, "exec"), drop.dropped


def _functions(without: Condition | None) -> dict[str, Callable[..., Any]]:
    """The model's functions, which call each other, less a condition."""
    functions: dict[str, Callable[..., Any]] = {}
    for module, names in _MODULES.items():
        for name in names:
            dropped = without is not None and name == without.function
            code, _ = _compiled(module, name, without.number if dropped else -1)
            namespace = dict(vars(module))
            exec(code, namespace)  # our own source
            functions[name] = namespace[name]
    for function in functions.values():
        inspect.unwrap(function).__globals__.update(functions)
    return functions


class Model:
    """The model's decisions on the state in `state`; `without` one of their conditions."""

    def __init__(
        self,
        version: GoVersion,
        state: Bytes,
        functions: FuncTable,
        without: Condition | None = None,
    ) -> None:
        self.state = state
        self.rt = rt = Runtime(_Machine(state.memory, EventStream()), state.layout, version)
        rt.functions = functions
        rt.asyncPreemptStack = ASYNC_PREEMPT_STACK
        constants = state.layout.constants
        rt.stackGuard = constants.get("stackGuard") or constants["_StackGuard"]
        rt.gogo = self._leave("gogo")
        self._steps: list[str] = []
        self._functions = _functions(without)
        for name in _MODULES[newstack]:
            inspect.unwrap(self._functions[name]).__globals__.update(self._ends())
        registers = Registers()
        registers["FS_BASE"] = TLS
        self._thread = _Thread(registers)
        self._decision = ""
        rt.machine.events.subscribe(self._told)

    def _leave(self, name: str) -> Callable[..., int]:
        def left(*_: object) -> int:
            self._steps.append(name)
            raise _Gone

        return left

    def _ends(self) -> dict[str, Callable[..., Any]]:
        steps = self._steps

        def copystack(_: Runtime, __: object, newsize: int) -> None:
            steps.append(f"copystack {newsize}")

        def casgstatus(_: Runtime, __: object, old: int, new: int) -> None:
            steps.append(f"casgstatus {old} {new}")

        return {
            "gopreempt_m": self._leave("gopreempt_m"),
            "preemptPark": self._leave("preemptPark"),
            "shrinkstack": lambda *_: steps.append("shrinkstack"),
            "copystack": copystack,
            "casgstatus": casgstatus,
        }

    def ask(self, function: str, case: Case) -> str:
        """The answer of one function on the state."""
        rt = self.rt
        call = self._functions[function]
        rt.maxstacksize = case["maxstacksize"]
        with rt.acting(self._thread):
            try:
                if function == "newstack":
                    return self._newstack()
                if function == "canPreemptM":
                    return "no" if call(rt, rt.m(M)) is not None else "yes"
                if function == "wantAsyncPreempt":
                    return "yes" if call(rt, rt.g(G)) else "no"
                verdict = call(rt, rt.g(G), case["pc"], case["sp"])
            except UnmappedError:
                return "fault"
        return f"yes {verdict.resume:#x}" if verdict.safe else "no"

    def _told(self, event: Event) -> None:
        if isinstance(event, StackChecked):
            self._decision = TOLD.get(event.decision, event.decision)

    def _newstack(self) -> str:
        steps = self._steps
        steps.clear()
        self._decision = ""
        try:
            self._functions["newstack"](self.rt)
        except Throw as throw:
            steps.append(f"throw {throw.reason}")
        except UnmappedError:
            steps.append("fault")
        except _Gone:
            pass
        if self._decision not in ("", steps[-1]):
            steps.append(f"but told {self._decision}")
        return answer(steps, self.state)
