"""A Go toolchain of this machine, asked for the go_asm.h of a package.

go_asm.h holds a package's integer constants, struct sizes and field offsets; the compiler writes
it (`go tool compile -asmhdr`, cmd/compile/internal/gc/export.go) and `go build` gives it to the
assembler. Nothing of this module runs unless a header is asked for.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runtime_model.layout import parse_version

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping

    from runtime_model.layout import Version

TIMEOUT = 600  # seconds: a cold build of package runtime and what is below takes about a minute
_RUNTIME = Path("src/runtime/runtime2.go")


class ToolchainError(ValueError):
    """A directory that is no GOROOT, or a toolchain that cannot do what was asked."""


@dataclass(frozen=True)
class Toolchain:
    """A GOROOT with a go command; `release` is what its file VERSION says, as "go1.22.10"."""

    root: Path
    release: str

    def __str__(self) -> str:
        return f"{self.release} in {self.root}"

    @property
    def version(self) -> Version:
        """The minor version: (1, 22)."""
        return parse_version(self.release)


def release_of(root: Path) -> str | None:
    """What the file VERSION of a GOROOT says, or None if the directory is none."""
    try:
        text = (root / "VERSION").read_text(encoding="utf-8").split("\n", 1)[0].strip()
        parse_version(text)
    except (OSError, ValueError):
        return None
    return text if (root / _RUNTIME).is_file() else None


def at(root: Path) -> Toolchain:
    """The toolchain in a GOROOT; ToolchainError if there is none."""
    release = release_of(root)
    if release is None:
        raise ToolchainError(f"{root}: not a GOROOT: no VERSION and {_RUNTIME} in it")
    if not (root / "bin/go").is_file():
        raise ToolchainError(f"{root}: no bin/go in it")
    return Toolchain(root, release)


def holding(file: Path) -> tuple[Path, str] | None:
    """The GOROOT that a file lies in and the import path of its directory, if in one."""
    directory = Path(os.path.abspath(file)).parent  # noqa: PTH100  # symbolic links stay
    for root in directory.parents:
        source = root / "src"
        if directory.is_relative_to(source) and directory != source and release_of(root):
            return root, directory.relative_to(source).as_posix()
    return None


def installed(near: Path | None) -> list[Toolchain]:
    """The toolchains to be found: near a file (its GOROOT), by $GOROOT, by go on the PATH."""
    roots = [near] if near is not None else []
    if os.environ.get("GOROOT"):
        roots.append(Path(os.environ["GOROOT"]))
    import shutil

    command = shutil.which("go")
    if command is not None:
        done = _run([command, "env", "GOROOT"], {"GOTOOLCHAIN": "local"}, Path.cwd(), 20)
        roots.append(Path(done.stdout.strip() or "/nonexistent"))
    found: list[Toolchain] = []
    for root in roots:
        try:
            toolchain = at(root)
        except ToolchainError:
            continue
        if toolchain not in found:
            found.append(toolchain)
    return found


@functools.cache
def go_asm_h(toolchain: Toolchain, package: str, directory: Path, goos: str = "linux") -> str:
    """The go_asm.h of a package for amd64; a build of the package, in a directory, makes it.

    Args:
        toolchain: whose compiler to ask.
        package: an import path, or "." for the package in the directory.
        directory: where to build.
        goos: the operating system.

    Raises:
        ToolchainError: the package does not build; the message has the go command's first line.
    """
    import secrets  # these are slow to import, and few runs ask a toolchain
    import tempfile

    with tempfile.TemporaryDirectory(prefix="pushcall") as scratch:
        environment = {
            "GOROOT": str(toolchain.root),
            "GOTOOLCHAIN": "local",
            "GOOS": goos,
            "GOARCH": "amd64",
            "CGO_ENABLED": "0",
            "GOTMPDIR": scratch,
        }
        if package != ".":
            # A package of Go's own; what a module around FILE says is nothing to it.
            environment |= {"GOFLAGS": "", "GO111MODULE": "off", "GOWORK": "off"}
        if not any(os.environ.get(name) for name in ("GOCACHE", "XDG_CACHE_HOME", "HOME")):
            environment["GOCACHE"] = str(Path(scratch, "cache"))
        # A flag that no build had before: the package itself is compiled, what it imports may
        # come out of go's cache.
        flag = f"-D=pushcall_{secrets.token_hex(8)}"
        flags = f"-asmflags={flag}" if package == "." else f"-asmflags={package}={flag}"
        command = [str(toolchain.root / "bin/go"), "build", "-work"]
        command += ["-o", str(Path(scratch, "out")), flags, package]
        done = _run(command, environment, directory, TIMEOUT)
        header = next(Path(scratch).glob("go-build*/b001/go_asm.h"), None)
        if header is None:
            said = (s for s in done.stderr.splitlines() if not s.startswith(("WORK=", "#")))
            why = next(said, "it has no assembly files")
            raise ToolchainError(f"{toolchain} made no go_asm.h of package {package}: {why}")
        return header.read_text(encoding="utf-8")


def _run(
    command: list[str], environment: Mapping[str, str], directory: Path, timeout: int
) -> subprocess.CompletedProcess[str]:
    import subprocess

    try:
        return subprocess.run(  # noqa: S603  # the go command that the user has
            command,
            env=os.environ | environment,
            cwd=directory,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolchainError(f"{command[0]}: {error}") from None
