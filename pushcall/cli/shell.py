"""What the shell asks for: `pushcall completion SHELL` and `pushcall --version`."""

from __future__ import annotations

import platform
from typing import Any, Final

import click

_ENGINES: Final = ("unicorn", "capstone", "keystone-engine", "iced-x86", "pyelftools")
_START: Final = {
    "bash": 'eval "$(pushcall completion bash)"   in ~/.bashrc',
    "zsh": 'eval "$(pushcall completion zsh)"   in ~/.zshrc',
    "fish": "pushcall completion fish > ~/.config/fish/completions/pushcall.fish",
}


@click.command(
    epilog="\b\n" + "\n".join(_START.values()),
    short_help="Print a script that completes commands in a shell.",
)
@click.argument("shell", type=click.Choice(tuple(_START)))
def completion(shell: str) -> None:
    """Print a script that completes commands, options and files in SHELL."""
    from click.shell_completion import get_completion_class

    from pushcall.cli.main import cli

    complete = get_completion_class(shell)
    assert complete is not None, shell
    # `source` asks Bash itself for its version; the script needs nothing of it but 4.4 or later.
    script = complete(cli, {}, "pushcall", "_PUSHCALL_COMPLETE")
    click.echo(script.source_template % script.source_vars())


def version(context: click.Context, _parameter: click.Parameter, value: Any) -> None:
    """The callback of `--version`: our version, and those of the engines that results rest on."""
    if not value or context.resilient_parsing:
        return
    from importlib import metadata  # slow, and nothing else needs it

    click.echo(f"pushcall {metadata.version('pushcall')}")
    engines = ", ".join(f"{name} {metadata.version(name)}" for name in _ENGINES)
    click.echo(f"{engines}, Python {platform.python_version()}")
    context.exit()
