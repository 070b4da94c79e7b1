"""What README.md and docs/ show is what happens; see documents.py for how they are read."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

import click
import pytest
from documents import DOCUMENTS, ROOT, Command, Session, blocks, differs, loose_commands, mentioned

from pushcall.cli.main import cli

if TYPE_CHECKING:
    from pathlib import Path

NAMES = [path.name for path in DOCUMENTS]


@pytest.mark.parametrize("path", DOCUMENTS, ids=NAMES)
def test_each_command_prints_what_the_document_shows(path: Path, tmp_path: Path) -> None:
    faults = list(Session(tmp_path).play(path, long=False))
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("path", DOCUMENTS, ids=NAMES)
def test_no_command_stands_where_nobody_runs_it(path: Path) -> None:
    assert not loose_commands(path)


def takes(line: str) -> None:
    """Fails unless the command line has such a command with such options."""
    words = shlex.split(line.replace("…", ""), comments=True)[1:]
    name = next((word for word in words if not word.startswith("-")), None)
    command = cli if name is None else cli.commands[name]
    words = words if name is None else words[words.index(name) + 1 :]
    known = {option for parameter in command.params for option in parameter.opts}
    known |= {"--help", "-h", "--"}
    for word in words[: words.index("--") if "--" in words else None]:
        if word.startswith("-"):
            assert word.partition("=")[0] in known, f"{line}: no option {word}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=NAMES)
def test_commands_within_the_text_have_these_options(path: Path) -> None:
    for line in mentioned(path):
        takes(line)


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_each_commands_help_has_examples(name: str) -> None:
    command = cli.commands[name]
    shown = command.get_help(click.Context(command, info_name=name))
    examples = re.findall(rf"pushcall {name} .*", shown)
    assert examples
    for line in examples:
        takes(line.partition("&&")[0].partition(")")[0])


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_each_command_has_a_page_that_the_readme_leads_to(name: str) -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    pages = [path for path in DOCUMENTS if path.read_text("utf-8").startswith(f"# `{name}`")]
    assert [f"docs/{path.name}" for path in pages if f"(docs/{path.name})" in readme]


@pytest.mark.parametrize("path", DOCUMENTS, ids=NAMES)
def test_links_lead_to_files(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text("utf-8")):
        assert (path.parent / target).exists(), target


def test_every_document_is_in_the_readmes_index() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    assert not [name for name in NAMES if name != "README.md" and f"(docs/{name})" not in readme]


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("a\nb", "a\nb\n", True),
        ("a\nb", "a\nc\n", False),
        ("a\n…\nd", "a\nb\nc\nd\n", True),
        ("a\n…\nd", "a\nb\nc\nd\ne\n", False),
        ("…\nd", "d\n", True),
        ("in … s", "in 0.3 s\n", True),
        ("in … s", "in 0.3 s or so\n", False),
        ("a", "a\nb\n", False),
        ("a\nb", "a\n", False),
    ],
)
def test_elision_stands_for_text_and_nothing_else(shown: str, printed: str, same: bool) -> None:
    assert (differs(Command(1, "", shown.splitlines()), 0, printed) == "") is same


def test_a_command_that_fails_must_show_what_it_prints() -> None:
    assert differs(Command(1, "pushcall check x.s"), 1, "lost: R9\n")


def test_sessions_are_found_in_the_readme() -> None:
    assert any(block.session for block in blocks(ROOT / "README.md"))
