"""`hpccarbon completion`: what a shell needs to complete commands and options. Click makes it; this only prints it."""

from __future__ import annotations

import click

SHELLS = ("bash", "zsh", "fish")
EXAMPLES = """
\b
Examples:
  hpccarbon completion bash > /etc/bash_completion.d/hpccarbon
  hpccarbon completion zsh  > /usr/share/zsh/site-functions/_hpccarbon
  hpccarbon completion fish > ~/.config/fish/completions/hpccarbon.fish
"""


@click.command("completion", epilog=EXAMPLES)
@click.argument("shell", type=click.Choice(SHELLS))
def command(shell: str) -> None:
    """Print the completion script of a shell. It asks `hpccarbon` itself, so it needs no update."""
    from click.shell_completion import get_completion_class

    from hpccarbon.cli import group

    made = get_completion_class(shell)
    assert made is not None
    click.echo(made(group, {}, "hpccarbon", "_HPCCARBON_COMPLETE").source())
