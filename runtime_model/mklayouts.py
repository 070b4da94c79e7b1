"""Write, or check, the struct layouts in runtime_model/layouts from Go toolchains.

A toolchain (a GOROOT) tells the layouts of its runtime in two ways, and both are read:
the DWARF of a program that it builds gives every struct with its nested structs, and
`go tool compile -asmhdr` gives the constants that the runtime's assembly may use.

    python -m runtime_model.mklayouts [--note TEXT] ROOT...
        writes go<version>.json for each GOROOT
    python -m runtime_model.mklayouts --check ROOT...
        compares; exit status 1 if anything differs

The toolchain's ordinary build is what counts: linux/amd64, no experiment, no cgo.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elftools.elf.elffile import ELFFile

from runtime_model.layout import parse_version

if TYPE_CHECKING:
    from collections.abc import Iterator

LAYOUTS = Path(__file__).parent / "layouts"

# Go's own DWARF attribute of a type, and its value for structs (cmd/internal/dwarf, reflect.Kind).
DW_AT_GO_KIND = 0x2900
KIND_STRUCT = 25
TYPE_TAGS = ("DW_TAG_structure_type", "DW_TAG_typedef", "DW_TAG_base_type")

# What the kernel pushes for a signal, as the runtime names its parts.
SIGNAL_FRAME = ("ucontext", "mcontext", "sigcontext", "fpstate", "fpxreg", "xmmreg", "usigset")
# Structs to record; a version that lacks one lacks it in its file. Structs nested in them follow.
STRUCTS = (
    *("g", "m", "p", "gobuf", "stack", "schedt", "sysmontick", "note", "gList", "gQueue"),
    *("guintptr", "muintptr", "puintptr", "funcval", "mOS", "libcall", "sudog", "_panic", "_defer"),
    *("gsignalStack", "suspendGState", "stkframe", "stackpoolItem", "gcWork", "mutex"),
    *("xRegPerG", "xRegPerP", "xRegState", "xRegs"),
    *("moduledata", "pcHeader", "_func", "funcInfo", "functab", "findfuncbucket", "inlinedCall"),
    *("textsect", "stackmap", "stackObjectRecord", "bitvector"),
    *("sigctxt", "sigset", "sigactiont", "stackt", "siginfo", "timespec", "timeval", "itimerval"),
    *SIGNAL_FRAME,
)
# Constants to record besides those that the runtime's own amd64 assembly uses.
CONSTANTS = re.compile(
    r"_[GP](scan)?(idle|runn|sys|waiting|mori|dead|enq|copy|pree|gcstop|leaked|scan)\w*"
    r"|_?(stack|Stack)[A-Z]\w*|_?[fF]ixedStack\w*|waitReasonPreempted"
    r"|_S[AIS]_?[A-Z]\w+|_Sig[A-Z]\w+|sigPreempt"
    r"|_CLONE_\w+|_?(PCDATA|FUNCDATA|UnsafePoint|PCDATA_\w+)_\w+|_?[fF]unc(ID|Flag)_\w+"
    r"|forcePreemptNS|preemptMSupported|tlsSize|maxArgs|frameType\w*|osRelax\w*"
)
# The same, from the package that took them over in 1.21; recorded with "abi." before the name.
ABI_CONSTANTS = re.compile(r"(Func(ID|Flag)|PCDATA|FUNCDATA|UnsafePoint)_\w+|Stack[A-Z]\w+")

# 1.17 writes a Go-syntax dump of big.Int for what does not fit into 63 bits: from runtime/stack.go.
UNPRINTED = {
    "stackPreempt": 2**64 - 1314,
    "stackFork": 2**64 - 1234,
    "stackForceMove": 2**64 - 275,
}


class Toolchain:
    """A GOROOT for linux/amd64 and a scratch directory."""

    def __init__(self, root: Path, scratch: Path) -> None:
        self.root = root
        self.scratch = scratch
        self.environment = os.environ | {
            "GOROOT": str(root),
            "GOOS": "linux",
            "GOARCH": "amd64",
            "CGO_ENABLED": "0",
            "GOFLAGS": "",
            "GOEXPERIMENT": "",
            "GO111MODULE": "off",
            "GOTOOLCHAIN": "local",
            "GOCACHE": str(scratch / "cache"),
            "GOTMPDIR": str(scratch),
        }
        self.release = self.go("env", "GOVERSION") or self.go("version").split()[2]

    def go(self, *arguments: str) -> str:
        """Run the go command; its standard output, stripped."""
        done = subprocess.run(
            [self.root / "bin" / "go", *arguments],
            env=self.environment,
            cwd=self.scratch,
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise SystemExit(f"{self.root}: go {' '.join(arguments)}:\n{done.stderr}")
        return done.stdout.strip()

    def headers(self) -> dict[str, dict[str, str]]:
        """What -asmhdr defines, for the packages runtime and abi."""
        self.go("build", "-a", "-work", "runtime")
        found: dict[str, dict[str, str]] = {}
        for path in self.scratch.glob("go-build*/*/go_asm.h"):
            text = path.read_text()
            package = re.search(r"from package (\w+)", text)
            if package:
                found[package[1]] = dict(re.findall(r"^#define (\w+) (.*)$", text, re.MULTILINE))
        return found

    def program(self) -> Path:
        """A program built by the toolchain, with DWARF.

        The runtime keeps no variable of the signal frame's types, so DWARF leaves them out. The
        file that defines them is compiled into the program, with a variable of each.
        """
        definitions = (self.root / "src" / "runtime" / "defs_linux_amd64.go").read_text()
        definitions = re.sub(r"^package runtime$", "package main", definitions, flags=re.MULTILINE)
        (self.scratch / "defs.go").write_text(definitions)
        variables = "".join(f"\t_{name} {name}\n" for name in SIGNAL_FRAME)
        uses = "".join(f"\tprint(&_{name})\n" for name in SIGNAL_FRAME)
        (self.scratch / "main.go").write_text(
            "package main\n\n"
            "const (\n\t_si_max_size = 128\n\t_sigev_max_size = 64\n)\n\n"  # Linux's own sizes
            f"var (\n{variables})\n\nfunc main() {{\n{uses}}}\n"
        )
        binary = self.scratch / "main"
        self.go("build", "-o", str(binary), "main.go", "defs.go")
        return binary

    def assembly_constants(self) -> set[str]:
        """Constants of package runtime that its assembly for linux/amd64 uses."""
        used: set[str] = set()
        for path in (self.root / "src" / "runtime").glob("*amd64.s"):
            if not re.search(r"(windows|darwin|bsd|solaris|plan9|dragonfly)", path.name):
                used |= set(re.findall(r"\bconst_(\w+)", path.read_text()))
        return used


def resolve(die: Any) -> Any:
    """The type behind typedefs."""
    while die.tag == "DW_TAG_typedef":
        die = die.get_DIE_from_attribute("DW_AT_type")
    return die


def size_of(die: Any) -> int:
    """The size in bytes of a type."""
    if die.tag in ("DW_TAG_pointer_type", "DW_TAG_subroutine_type"):
        return 8
    return int(die.attributes["DW_AT_byte_size"].value)


def name_of(die: Any) -> str:
    """The name of a type or field, "" if it has none."""
    attribute = die.attributes.get("DW_AT_name")
    return attribute.value.decode() if attribute else ""


def is_struct(die: Any) -> bool:
    """Whether a type is a struct in Go's eyes: strings and slices are not."""
    go_kind = die.attributes.get(DW_AT_GO_KIND)
    return go_kind is not None and go_kind.value == KIND_STRUCT


def fields_of(die: Any) -> Iterator[tuple[str, int, Any]]:
    """Name, offset and type of each field of a type; blank fields are left out."""
    for member in die.iter_children() if is_struct(die) else ():
        if name_of(member) != "_":
            offset = member.attributes["DW_AT_data_member_location"].value
            yield name_of(member), offset, resolve(member.get_DIE_from_attribute("DW_AT_type"))


def read_structs(binary: Path) -> dict[str, Any]:
    """The recorded structs, and those nested in them, from a program's DWARF."""
    wanted = {f"runtime.{name}": name for name in STRUCTS}
    wanted |= {f"main.{name}": name for name in SIGNAL_FRAME}
    structs: dict[str, Any] = {}
    with binary.open("rb") as stream:
        pending = [
            (wanted[name_of(die)], resolve(die))
            for unit in ELFFile(stream).get_dwarf_info().iter_CUs()
            for die in unit.iter_DIEs()
            if die.tag in TYPE_TAGS and name_of(die) in wanted
        ]
        while pending:
            name, die = pending.pop()
            if name in structs:
                continue
            fields: dict[str, list[int | str]] = {}
            for field, offset, kind in fields_of(die):
                fields[field] = [offset, size_of(kind)]
                if is_struct(kind):
                    inner = name_of(kind).removeprefix("runtime.").removeprefix("main.")
                    if inner.startswith("struct {"):
                        inner = f"{name}.{field}"
                    fields[field].append(inner)
                    pending.append((inner, kind))
            structs[name] = {"size": size_of(die), "fields": fields}
    order = {name: index for index, name in enumerate(STRUCTS)}
    return dict(sorted(structs.items(), key=lambda item: (order.get(item[0], len(order)), item[0])))


def read_constants(toolchain: Toolchain, headers: dict[str, dict[str, str]]) -> dict[str, int]:
    """The recorded integer constants, by name."""
    used = toolchain.assembly_constants()
    words = {"true": 1, "false": 0}
    constants = {}
    for package, prefix, wanted in (("runtime", "", CONSTANTS), ("abi", "abi.", ABI_CONSTANTS)):
        for define, value in headers.get(package, {}).items():
            name = define.removeprefix("const_")
            if name == define or not (wanted.fullmatch(name) or (not prefix and name in used)):
                continue
            if value in words:
                constants[prefix + name] = words[value]
            elif re.fullmatch(r"-?(\d+|0x[0-9a-f]+)", value):
                constants[prefix + name] = int(value, 0)
            elif value.startswith("constant.intVal{"):
                constants[prefix + name] = UNPRINTED[name]
    return dict(sorted(constants.items()))


def cross_check(structs: dict[str, Any], header: dict[str, str]) -> list[str]:
    """Where DWARF and -asmhdr of the same toolchain differ."""
    wrong = []
    for name, struct in structs.items():
        told = {f"{name}__size": struct["size"]} if struct["fields"] else {}
        told |= {f"{name}_{field}": place[0] for field, place in struct["fields"].items()}
        for define, value in told.items():
            if f"{name}__size" in header and header.get(define) != str(value):
                wrong.append(f"{define}: DWARF {value}, -asmhdr {header.get(define)}")
    return wrong


def extract(root: Path, note: str = "") -> dict[str, Any]:
    """The layout document of one GOROOT; the note goes into its "source"."""
    with tempfile.TemporaryDirectory() as scratch:
        toolchain = Toolchain(root.resolve(), Path(scratch))
        headers = toolchain.headers()
        structs = read_structs(toolchain.program())
        wrong = cross_check(structs, headers["runtime"])
        if wrong:
            raise SystemExit(f"{toolchain.release} contradicts itself:\n" + "\n".join(wrong))
        return {
            "version": "{}.{}".format(*parse_version(toolchain.release)),
            "source": f"DWARF of a program built by {toolchain.release} for linux/amd64; "
            f"constants from its -asmhdr{note and '; '}{note}",
            "structs": structs,
            "constants": read_constants(toolchain, headers),
        }


def dump(document: dict[str, Any]) -> str:
    """The document as JSON, with one field or constant a line."""
    text = json.dumps(document, indent=1, ensure_ascii=False)
    return re.sub(r"\[\s+(\d+),\s+(\d+)(?:,\s+(\"[^\n]*\"))?\s+\]", _one_line, text) + "\n"


def _one_line(match: re.Match[str]) -> str:
    return "[" + ", ".join(filter(None, match.groups())) + "]"


def differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """The places where two documents differ, the "source" aside."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old.keys() | new.keys():
            if (path, key) != ("", "source"):
                yield from differences(old.get(key), new.get(key), f"{path}/{key}")
    elif old != new:
        yield f"{path[1:]}: recorded {old}, toolchain {new}"


def check(roots: list[Path]) -> list[str]:
    """Every difference between the recorded layouts and those of the given GOROOTs."""
    found = []
    for root in roots:
        document = extract(root)
        path = LAYOUTS / f"go{document['version']}.json"
        recorded = json.loads(path.read_text())
        found += [f"{path.name}: {line}" for line in sorted(differences(recorded, document))]
    return found


def main() -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    parser.add_argument("--note", default="", help='text to add to "source"')
    parser.add_argument("roots", nargs="+", type=Path, metavar="ROOT", help="a GOROOT")
    arguments = parser.parse_args()
    if arguments.check:
        wrong = check(arguments.roots)
        print("\n".join(wrong) or "the recorded layouts are those of the toolchains")
        return bool(wrong)
    for root in arguments.roots:
        document = extract(root, arguments.note)
        path = LAYOUTS / f"go{document['version']}.json"
        path.write_text(dump(document))
        print(f"{path.name}: {document['source']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
