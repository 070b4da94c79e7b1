"""The commands on Go binaries: `pushcall safepoints` and `pushcall audit`."""

from __future__ import annotations

import fnmatch
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pushcall.cli.booted import option_name
from pushcall.cli.snippet import DEFINES, FILE, INCLUDES, JOBS
from pushcall.content import is_elf
from pushcall.show import json_text, progress, show, show_json
from pushcall.usage import UsageError, go_version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pushcall.audit.safepoints import Listing
    from runtime_model.version import GoVersion

KINDS = ("unbounded", "counted", "rep", "constant")  # control_flow.Kind, without its imports


def rules(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say which rules apply, and how a text is to be read."""
    for option in reversed(
        (
            click.option("--go", metavar="VERSION", help="Go version whose rules apply."),
            DEFINES,
            INCLUDES,
            click.option(
                "--as-assembly", is_flag=True, help="Apply Go's rule for assembly to a snippet."
            ),
            click.option(
                "--variant", metavar="NAME", help="Variant of a snippet that its header names."
            ),
            click.option("--json", "as_json", is_flag=True, help="Print one JSON document."),
        )
    ):
        command = option(command)
    return command


def _refuse_of_text(file: Path, given: dict[str, Any]) -> None:
    for name, value in given.items():
        if value not in (None, False, ()):
            raise UsageError(f"{option_name(name)} is for snippets, and {file} is an executable")


@click.command(short_help="Show which instructions can be preempted, and why not.")
@FILE
@click.argument("function", required=False)
@click.option("--pc", metavar="ADDR", help="The function that holds this address.")
@click.option("--package", metavar="PATH", help="Functions of this package only.")
@rules
@click.option("--entry", metavar="SYMBOL", help="Of a snippet: where goroutines start.")
def safepoints(
    file: Path,
    function: str | None,
    pc: str | None,
    package: str | None,
    go: str | None,
    as_json: bool,
    **given: Any,
) -> int:
    """Show which instructions of FILE can be preempted, and why the others cannot.

    FILE is a Go executable or assembly text. FUNCTION is a name, the end of one, or a pattern
    with * and ?.

    \b
    pushcall safepoints ./server main.hotLoop
    pushcall safepoints ./server --pc 0x401000
    pushcall safepoints examples/add.s
    """  # noqa: D301  # \b is click's
    if pc is not None and (function is not None or package is not None):
        raise UsageError("--pc cannot be used together with FUNCTION or --package")
    try:
        address = int(pc, 0) if pc is not None else None
    except ValueError:
        raise UsageError(f"--pc {pc}: not an address such as 0x48f0c4") from None
    if is_elf(file):
        _refuse_of_text(file, given)
        listings = _of_binary(file, function, address, package, go_version(go))
    else:
        if package is not None:
            raise UsageError("--package: a snippet has no packages")
        listings = _of_snippet(file, function, address, go, given)
    return _print_listings(listings, address, as_json)


def _of_binary(
    file: Path, name: str | None, pc: int | None, package: str | None, version: GoVersion | None
) -> Iterator[Listing]:
    from pushcall.audit.safepoints import BadTableError, binary_listing, open_binary, select

    binary = open_binary(file, version)
    try:
        for function in select(binary, name, pc, package):
            yield binary_listing(binary, function)
    except BadTableError as error:
        raise UsageError(f"{file}: {error}") from None


def _of_snippet(
    file: Path, name: str | None, pc: int | None, go: str | None, given: dict[str, Any]
) -> Iterator[Listing]:
    from asm import go_listing
    from pushcall.audit.safepoints import snippet_listings
    from pushcall.snippet.listing import assemble
    from pushcall.snippet.program import Options, load

    config = load(file, Options(go=go, **given)).config
    if any(listing and listing.linked for listing in map(go_listing.read, config.sources)):
        click.echo(
            f"pushcall: {file}: go tool objdump prints no PCDATA: what is marked unsafe shows as "
            "safe; ask the executable itself, or a listing of go build -gcflags=-S",
            err=True,
        )
    image = assemble(config).snippet
    if not image.functions:
        raise UsageError(f"{file}: the file has no TEXT")
    listings = list(snippet_listings(image, not config.as_assembly, config.version))
    named = fnmatch.filter((each.name for each in listings), name or "*")
    chosen = [
        each
        for each in listings
        if (name is None or each.name in named or each.name.endswith(f".{name}"))
        and (pc is None or each.start <= pc < each.end)
    ]
    if not chosen:
        known = ", ".join(each.name for each in listings)
        what = f"function {name}" if name is not None else f"function at {pc:#x}"
        raise UsageError(f"{file}: no {what}; there is {known}")
    yield from chosen


def _print_listings(listings: Iterable[Listing], pc: int | None, as_json: bool) -> int:
    from pushcall.audit.safepoints import text_lines, to_json

    if not as_json:
        here = None if pc is None else f"{pc:#x} "
        for listing in listings:
            show(
                f"{line}   <-- {pc:#x}" if here is not None and here in line[:24] else line
                for line in text_lines(listing)
            )
        return 0

    def document() -> Iterator[str]:
        # One entry at a time: all functions of a large binary are many.
        before = '{"schema": "pushcall.safepoints/1",\n "functions": [\n  '
        for listing in listings:
            yield before + json_text(to_json(listing))
            before = " ,"
        yield " ]}"

    show(document())
    return 0


@click.command(short_help="List the loops that asynchronous preemption cannot stop.")
@FILE
@click.option("--package", metavar="PATH", help="Functions of this package only.")
@click.option("--include-runtime", is_flag=True, help="Also the runtime's own Go code.")
@click.option(
    "--fail-on",
    type=click.Choice((*KINDS, "any")),
    multiple=True,
    help="Exit with 1 if a finding is of this kind.",
)
@click.option(
    "--diff",
    "other",
    type=click.Path(path_type=Path),
    metavar="OTHER",
    help="Report only what an older build, OTHER, does not have.",
)
@click.option(
    "--sarif",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Also write the findings as SARIF 2.1.0.",
)
@JOBS
@click.option("--limit", type=click.IntRange(0), metavar="N", help="Print the worst N findings.")
@rules
def audit(
    file: Path,
    package: str | None,
    include_runtime: bool,
    fail_on: tuple[str, ...],
    other: Path | None,
    sarif: Path | None,
    jobs: int,
    limit: int | None,
    go: str | None,
    as_json: bool,
    **given: Any,
) -> int:
    """List the loops of FILE that asynchronous preemption can never stop.

    FILE is a Go executable or assembly text.

    \b
    pushcall audit ./server
    pushcall audit ./server --diff ./server.old --fail-on unbounded
    pushcall audit examples/add.s --as-assembly
    """  # noqa: D301
    from pushcall.audit import binary as auditing
    from pushcall.audit.safepoints import no_package, open_binary
    from pushcall.audit.sarif import to_sarif

    def audited(path: Path) -> auditing.Audit:
        if not is_elf(path):
            from pushcall.audit import snippet as audit_snippet
            from pushcall.snippet.program import Options, load

            for name, value in (("package", package), ("include_runtime", include_runtime)):
                if value:
                    raise UsageError(f"{option_name(name)}: a snippet has no packages")
            return audit_snippet.audit(load(path, Options(go=go, **given)).config)
        _refuse_of_text(path, given)
        with progress("functions") as report:
            return auditing.audit(path, go_version(go), package, include_runtime, jobs, report)

    if other is not None and is_elf(other):
        open_binary(other, go_version(go)).close()  # before minutes are spent on the new build
    result = audited(file)
    if package is not None and not result.functions and not result.interrupted:
        raise no_package(open_binary(file, go_version(go)), package)
    if other is not None:
        before = result if result.interrupted else audited(other)
        if before.interrupted:
            raise KeyboardInterrupt  # of a difference, a part says nothing
        result.findings = auditing.diff(before, result)
    if sarif is not None:
        document = json.dumps(to_sarif(file, result.findings), indent=1)
        try:
            sarif.write_text(document + "\n", encoding="utf-8")
        except OSError as error:
            raise UsageError(f"{sarif}: {error.strerror}") from None
    if as_json:
        show_json(result.to_json())
    else:
        show(auditing.lines(result, limit))
    if result.interrupted:
        return 130
    kinds = {finding.kind.value for finding in result.findings}
    return int(bool(kinds) if "any" in fail_on else bool(kinds & set(fail_on)))
