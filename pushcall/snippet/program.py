"""What to run, from files and options: content is told apart, header comments give defaults.

A snippet may begin with comments of the form `// pushcall: key=value …` (header.py); options of the
command line go before them.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from asm.source import Source, near_miss
from emulator.engines import UNICORN
from emulator.linux.kernel_bugs import KernelBug
from pushcall.content import ELF_MAGIC, SAVED_MAGIC
from pushcall.snippet import header
from pushcall.snippet.expectation import Expected
from pushcall.snippet.expectation import parse as parse_expected
from pushcall.snippet.injection import Injection, parse
from pushcall.usage import UsageError, go_version
from runtime_model import toolchain as toolchains
from runtime_model.boot import Config
from runtime_model.go_asm_h import Package
from runtime_model.trampoline import Trampoline, darwin_source, simd_source

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from runtime_model.policy import Policy
    from runtime_model.version import GoVersion

GOOS: Final = (  # go/build/syslist.go
    "aix", "android", "darwin", "dragonfly", "freebsd", "hurd", "illumos", "ios", "js", "linux",
    "nacl", "netbsd", "openbsd", "plan9", "solaris", "wasip1", "windows", "zos",
)  # fmt: skip
MAX_SOURCE: Final = 16 << 20  # bytes of an assembly file
_MACRO: Final = re.compile(r"^\s*#define\s+(\w+)\s+(\S.*?)\s*(?://.*)?$", re.MULTILINE)


@dataclass(frozen=True)
class Program:
    """A configuration, when it is to be preempted, and what is expected of it."""

    config: Config
    injection: Injection = field(default_factory=Injection)
    expected: Expected = field(default_factory=Expected)
    budget: int | None = None  # of instructions, if one was asked for


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
    goos: str | None = None
    syntax: str | None = None  # "go", "intel", "att"
    package: str | None = None
    goroot: Path | None = None
    trampoline: Source | None = None
    trampoline_syntax: str | None = None
    cpu: str | None = None  # of runtime_model.trampoline.CPUS
    engine: str = UNICORN  # of emulator.engines
    policy: Policy | None = None  # None: as the header says, or 10 ms
    variant: str | None = None
    godebug: tuple[str, ...] = ()
    kernel_bug: tuple[str, ...] = ()


def read_source(path: Path) -> Source:
    """The text of an assembly file; UsageError for what cannot be one."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SOURCE + 1)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    if data.startswith(SAVED_MAGIC):
        raise UsageError(f"{path}: a saved run; `pushcall run` goes on with it")
    if len(data) > MAX_SOURCE and not data.startswith(ELF_MAGIC):
        raise UsageError(f"{path}: more than {MAX_SOURCE >> 20} MiB: not an assembly file")
    if data.startswith(ELF_MAGIC):
        raise UsageError(f"{path}: an ELF file; this command reads assembly text")
    data = data.removeprefix(codecs.BOM_UTF8)  # Go's scanner passes over it, too
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
    settings = header.read(source).of(options.variant)
    goos = options.goos or settings.get("goos", ("linux",))[-1]
    if goos not in GOOS:
        note = near_miss(goos, GOOS)
        raise UsageError(f"--goos {goos}: not known to Go" + (f"; {note}" if note else ""))
    package = Package.of(Path(source.name), options.package)
    toolchain = toolchains.at(options.goroot) if options.goroot is not None else None
    defines = dict(_define(text) for text in (*settings.get("define", ()), *options.defines))
    timers: dict[str, str] = {key: settings[key][-1] for key in header.TIMERS if key in settings}
    policy, injection = parse(timers)
    config = Config(
        sources=(source,),
        policy=_godebug(options.policy or policy, options.godebug or settings.get("godebug", ())),
        bugs=_bugs(options.kernel_bug or settings.get("kernel-bug", ())),
        defines=defines,
        package=package,
        toolchain=toolchain,
        engine=options.engine,
    )
    asked = options.go or settings.get("go", (None,))[-1]
    go = asked or (toolchain.release if toolchain is not None else package.release)
    if go is not None:
        version = go_version(go)
        assert version is not None
        config = replace(config, version=version)
    if toolchain is not None and toolchain.version != config.version.number:
        raise UsageError(f"--goroot {toolchain.root} is {toolchain.release}, not Go {asked}")
    budget = _number("budget", options.budget, settings)
    numbers = {
        "goroutines": _number("goroutines", options.goroutines, settings),
        "procs": _number("procs", options.procs, settings),
        "budget": budget,
        "stack_size": _number("stack", options.stack, settings),
        "max_stack": options.max_stack,
    }
    given: dict[str, Any] = {name: n for name, n in numbers.items() if n is not None}
    config = replace(
        config,
        **given,
        entry=options.entry or settings.get("entry", ("",))[-1],
        as_assembly=options.as_assembly or settings.get("as-assembly", ("0",))[-1] != "0",
        goos=goos,
        syntax=options.syntax or "go",
        include_dirs=options.include_dirs,
        trampoline=_trampoline(options, settings, source, config.version, goos),
    )
    macros = dict(_MACRO.findall(source.text)) | defines
    expected = parse_expected(settings.get("expect", ()), macros)
    return Program(config, injection, _instead(expected, options.expect, macros), budget)


def _number(name: str, option: int | None, settings: header.Settings) -> int | None:
    if option is None and name in settings:
        return int(settings[name][-1], 0)
    return option


def _instead(expected: Expected, texts: Iterable[str], macros: Mapping[str, str]) -> Expected:
    """What `--expect` says, registers or counts, in place of the header's."""
    asked = parse_expected(texts, macros)
    other = asked.check or asked.scan or asked.audit or asked.end
    if other is not None:
        raise UsageError(f"--expect {other}: of a run, REGISTER:VALUE or a count such as copies:>1")
    return replace(
        expected,
        registers=asked.registers or expected.registers,
        counts=asked.counts or expected.counts,
    )


def _trampoline(
    options: Options, settings: header.Settings, source: Source, version: GoVersion, goos: str
) -> Trampoline | None:
    if options.trampoline is not None:
        if options.cpu is not None:
            raise UsageError("--cpu chooses Pushcall's own asyncPreempt, --trampoline another one")
        return Trampoline(options.trampoline, options.trampoline_syntax or "go")
    file = settings.get("trampoline", (None,))[-1]
    if file is not None and options.cpu is None:
        beside = read_source(Path(source.name).parent / file)
        return Trampoline(beside, options.trampoline_syntax or "go")
    if options.trampoline_syntax is not None:
        raise UsageError("--trampoline-syntax goes with --trampoline")
    if goos == "darwin" and version.clears_upper_halves_on_darwin and options.cpu is None:
        return Trampoline(darwin_source(version))
    cpu = options.cpu or settings.get("cpu", (None,))[-1]
    if cpu is None or (options.cpu is None and not version.extended_registers):
        return None  # a version without GOEXPERIMENT=simd saves the same on each processor
    try:
        return Trampoline(simd_source(version, cpu))
    except ValueError as error:
        raise UsageError(f"cpu {cpu}: {error}") from None


_GODEBUG: Final = ("asyncpreemptoff", "gcshrinkstackoff")


def _godebug(policy: Policy, texts: Iterable[str]) -> Policy:
    for text in texts:
        name, _, value = text.partition("=")
        if name not in _GODEBUG or value not in ("0", "1"):
            raise UsageError(f"godebug {text}: not {' or '.join(f'{n}=1' for n in _GODEBUG)}")
        policy = replace(policy, **{name: value == "1"})
    return policy


def _bugs(names: Iterable[str]) -> frozenset[KernelBug]:
    known = {bug.value: bug for bug in KernelBug}
    wrong = [name for name in names if name not in known]
    if wrong:
        raise UsageError(f"kernel-bug {wrong[0]}: there are: {', '.join(known)}")
    return frozenset(known[name] for name in names)


def _define(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    if not name.isidentifier():
        raise UsageError(f"-D {text}: not NAME or NAME=VALUE")
    return name, value or "1"
