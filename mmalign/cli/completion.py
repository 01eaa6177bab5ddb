"""`mmalign completion bash`: the shell script that completes commands, options, objectives and backbones."""

import click

from mmalign.cli.app import Choice, emit_json, json_option, quiet_option

_INSTALL = {
    "bash": 'eval "$(mmalign completion bash)"      # in ~/.bashrc',
    "zsh": 'eval "$(mmalign completion zsh)"       # in ~/.zshrc',
    "fish": "mmalign completion fish > ~/.config/fish/completions/mmalign.fish",
}


@click.command("completion", epilog="\b\nInstall it:\n" + "\n".join(f"  {how}" for how in _INSTALL.values()))
@click.argument("shell", type=Choice(tuple(_INSTALL)), metavar="SHELL")
@json_option
@quiet_option
def command(shell: str, as_json: bool) -> None:
    """Print the completion script for SHELL: bash, zsh or fish."""
    from click.shell_completion import get_completion_class

    from mmalign.cli.root import root

    completer = get_completion_class(shell)
    assert completer is not None
    # For bash, `source()` also starts bash, to warn about versions before 4.4. The template needs no process.
    instance = completer(root, {}, "mmalign", "_MMALIGN_COMPLETE")
    script = instance.source_template % instance.source_vars()
    if as_json:
        emit_json({"shell": shell, "script": script, "install": _INSTALL[shell]})
    else:
        click.echo(f"# {_INSTALL[shell]}\n{script}")
