"""What to run, from files and options: content is told apart, header comments give defaults.

A snippet may begin with comments of the form `// pushcall: key=value …`; options of the command
line go before them. Keys: entry, goroutines, procs, go, budget, cpu, expect (as in `--expect`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from asm.image import Position
from asm.source import AsmError, Diagnostic, Source, near_miss
from emulator.engines import UNICORN
from pushcall.usage import UsageError
from runtime_model import toolchain as toolchains
from runtime_model.boot import Config
from runtime_model.go_asm_h import Package
from runtime_model.layout import parse_version
from runtime_model.policy import Policy, forcePreemptNS
from runtime_model.trampoline import Trampoline, simd_source
from runtime_model.version import GoVersion

if TYPE_CHECKING:
    from collections.abc import Iterable

HEADER_KEYS: Final = ("entry", "goroutines", "procs", "go", "budget", "cpu", "expect")
_NUMBERS: Final = ("goroutines", "procs", "budget")
GOOS: Final = (  # go/build/syslist.go
    "aix", "android", "darwin", "dragonfly", "freebsd", "hurd", "illumos", "ios", "js", "linux",
    "nacl", "netbsd", "openbsd", "plan9", "solaris", "wasip1", "windows", "zos",
)  # fmt: skip
MAX_SOURCE: Final = 16 << 20  # bytes of an assembly file
_HEADER: Final = re.compile(r"^\s*//\s*pushcall:(.*)$")
_ELF_MAGIC: Final = b"\x7fELF"
_MACRO: Final = re.compile(r"^\s*#define\s+(\w+)\s+(\S.*?)\s*(?://.*)?$", re.MULTILINE)


@dataclass(frozen=True)
class Expectation:
    """A register's value at the end of every goroutine; `text` is as it was written."""

    register: str
    value: int
    text: str


@dataclass(frozen=True)
class ExpectedVerdict:
    """What a check is to find: `lost` at all, and which registers exactly, if they are named."""

    lost: bool
    registers: frozenset[str] | None = None

    def holds(self, lost: Iterable[str]) -> bool:
        """Whether a check that lost these registers found what was expected."""
        found = frozenset(lost)
        return bool(found) == self.lost and self.registers in {None, found}

    def __str__(self) -> str:
        if self.registers is not None:
            return f"lost:{','.join(sorted(self.registers))}"
        return "lost" if self.lost else "preserved"


@dataclass(frozen=True)
class Program:
    """A configuration, and what is expected of its run and of its check."""

    config: Config
    expectations: tuple[Expectation, ...] = ()
    verdict: ExpectedVerdict | None = None


@dataclass(frozen=True)
class Options:
    """Options of the command line; None where not given."""

    entry: str | None = None
    goroutines: int | None = None
    procs: int | None = None
    go: str | None = None
    budget: int | None = None
    stack: int | None = None  # bytes that a goroutine starts with, and may grow to
    max_stack: int | None = None
    expect: tuple[str, ...] = ()
    defines: tuple[str, ...] = ()
    include_dirs: tuple[Path, ...] = ()
    as_assembly: bool = False
    goos: str = "linux"
    syntax: str = "go"
    package: str | None = None
    goroot: Path | None = None
    trampoline: Source | None = None
    trampoline_syntax: str = "go"
    cpu: str | None = None  # of runtime_model.trampoline.CPUS
    policy: Policy = field(default_factory=lambda: Policy(forcePreemptNS))
    engine: str = UNICORN  # of emulator.engines


def read_source(path: Path) -> Source:
    """The text of an assembly file; UsageError for what cannot be one."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SOURCE + 1)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    if len(data) > MAX_SOURCE and not data.startswith(_ELF_MAGIC):
        raise UsageError(f"{path}: more than {MAX_SOURCE >> 20} MiB: not an assembly file")
    if data.startswith(_ELF_MAGIC):
        raise UsageError(f"{path}: an ELF file; this command reads assembly text")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UsageError(f"{path}:{line}: not text: byte {data[error.start]:#04x}") from None
    return Source(str(path), text)


def load(path: Path, options: Options) -> Program:
    """The program in a file, under the given options."""
    return from_source(read_source(path), options)


def from_source(source: Source, options: Options) -> Program:
    """The program in a text, under the given options."""
    header = _header(source)
    if options.goos not in GOOS:
        note = near_miss(options.goos, GOOS)
        raise UsageError(f"--goos {options.goos}: not known to Go" + (f"; {note}" if note else ""))
    package = Package.of(Path(source.name), options.package)
    toolchain = toolchains.at(options.goroot) if options.goroot is not None else None
    defines = dict(_define(text) for text in options.defines)
    config = Config(
        sources=(source,),
        policy=options.policy,
        defines=defines,
        package=package,
        toolchain=toolchain,
        engine=options.engine,
    )
    asked = options.go or header.get("go", (None,))[-1]
    go = asked or (toolchain.release if toolchain is not None else package.release)
    if go is not None:
        try:
            config = replace(config, version=GoVersion(*parse_version(go)))
        except ValueError as error:
            raise UsageError(str(error)) from None
    if toolchain is not None and toolchain.version != config.version.number:
        raise UsageError(f"--goroot {toolchain.root} is {toolchain.release}, not Go {asked}")
    for name in ("goroutines", "procs", "budget"):
        value = getattr(options, name)
        if value is None and name in header:
            value = int(header[name][-1], 0)
        if value is not None:
            config = replace(config, **{name: value})
    if options.stack is not None:
        config = replace(config, stack_size=options.stack)
    if options.max_stack is not None:
        config = replace(config, max_stack=options.max_stack)
    entry = options.entry or header.get("entry", ("",))[-1]
    config = replace(
        config,
        entry=entry,
        as_assembly=options.as_assembly,
        goos=options.goos,
        syntax=options.syntax,
        include_dirs=options.include_dirs,
        trampoline=_trampoline(options, header, config.version),
    )
    macros = dict(_MACRO.findall(source.text)) | defines
    verdict, registers = _split(header.get("expect", []))
    texts = options.expect or registers
    return Program(config, tuple(_expectation(text, macros) for text in texts), verdict)


def _trampoline(
    options: Options, header: dict[str, list[str]], version: GoVersion
) -> Trampoline | None:
    if options.trampoline is not None:
        if options.cpu is not None:
            raise UsageError("--cpu chooses Pushcall's own asyncPreempt, --trampoline another one")
        return Trampoline(options.trampoline, options.trampoline_syntax)
    cpu = options.cpu or header.get("cpu", (None,))[-1]
    if cpu is None or (options.cpu is None and not version.extended_registers):
        return None  # a version without GOEXPERIMENT=simd saves the same on each processor
    try:
        return Trampoline(simd_source(version, cpu))
    except ValueError as error:
        raise UsageError(f"cpu {cpu}: {error}") from None


def _header(source: Source) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for number, line in enumerate(source.text.splitlines(), 1):
        match = _HEADER.match(line)
        if match is None:
            if line.strip() and not line.lstrip().startswith("//"):
                break
            continue
        for word in match[1].split():
            key, equals, value = word.partition("=")
            message = None
            if not equals or key not in HEADER_KEYS:
                message = f"pushcall: no setting {key}; there are: {', '.join(HEADER_KEYS)}"
            elif key in _NUMBERS and not re.fullmatch(r"\d+|0x[0-9a-fA-F]+", value):
                message = f"pushcall: {key} is a number, not {value or 'nothing'}"
            if message is not None:
                position = Position(source.name, number, line.index(word) + 1)
                raise AsmError((Diagnostic(position, message, line, len(word)),))
            found.setdefault(key, []).append(value)
    return found


_VERDICT: Final = re.compile(r"(preserved)|lost(?::([A-Z0-9]+(?:,[A-Z0-9]+)*))?")


def _split(texts: Iterable[str]) -> tuple[ExpectedVerdict | None, tuple[str, ...]]:
    """The verdict that a header expects, and its expectations of registers."""
    verdict, registers = None, []
    for text in texts:
        match = _VERDICT.fullmatch(text)
        if match is None:
            registers.append(text)
        elif verdict is not None:
            raise UsageError(f"expect {text}: {verdict} is expected already")
        else:
            names = frozenset(match[2].split(",")) if match[2] else None
            verdict = ExpectedVerdict(match[1] is None, names)
    return verdict, tuple(registers)


def _define(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    if not name.isidentifier():
        raise UsageError(f"-D {text}: not NAME or NAME=VALUE")
    return name, value or "1"


_REGISTERS: Final = {f"R{i}" for i in range(8, 16)} | {
    f"R{n}" for n in ("AX", "BX", "CX", "DX", "SI", "DI", "BP", "SP")
}


def _expectation(text: str, macros: dict[str, str]) -> Expectation:
    register, colon, value = text.partition(":")
    name = register.upper()
    if name not in _REGISTERS and f"R{name}" in _REGISTERS:
        name = f"R{name}"
    if not colon or name not in _REGISTERS:
        raise UsageError(f"expect {text}: not REGISTER:VALUE with a general register")
    for _ in range(8):  # macros in macros
        value = re.sub(r"[A-Za-z_]\w*", lambda m: macros.get(m[0], m[0]), value)
    if not re.fullmatch(r"[0-9a-fA-FxX+*/() -]+", value):
        raise UsageError(f"expect {text}: {value} is not a number")
    try:
        number = _evaluate(value)
    except (ValueError, ZeroDivisionError):
        raise UsageError(f"expect {text}: {value} is not a number") from None
    return Expectation(name, number & 0xFFFF_FFFF_FFFF_FFFF, text)


def _evaluate(text: str) -> int:
    """An expression of integers, + - * / and parentheses, as Go's assembler evaluates it."""
    import ast  # only where a file expects something

    def value(node: ast.expr) -> int:
        match node:
            case ast.Constant(value=int(number)):
                return number
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -value(operand)
            case ast.BinOp(left=left, op=op, right=right):
                a, b = value(left), value(right)
                match op:
                    case ast.Add():
                        return a + b
                    case ast.Sub():
                        return a - b
                    case ast.Mult():
                        return a * b
                    case ast.Div():
                        return a // b
        raise ValueError(text)

    try:
        return value(ast.parse(text.strip(), mode="eval").body)
    except SyntaxError:
        raise ValueError(text) from None
