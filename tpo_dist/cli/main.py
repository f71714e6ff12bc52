"""`tpo-dist`: the subcommands, and what the shell sees when one fails."""

import sys

import typer

from tpo_dist import __version__
from tpo_dist.cli.bench import bench
from tpo_dist.cli.objectives import objectives
from tpo_dist.cli.study import study
from tpo_dist.cli.train import train
from tpo_dist.errors import UsageError

MISTAKE, FAILURE = 2, 1
"""Exit codes: something the user gave cannot work; something broke while running."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Target Policy Optimization and its baselines, distributed on Ray.",
)
app.command()(train)
app.command()(objectives)
app.command()(study)
app.add_typer(bench, name="bench")


@app.callback(invoke_without_command=True)
def version(show: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    """Options of the program itself."""
    if show:
        print(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line; a user's mistake is one line on standard error, without a traceback."""
    try:
        app()
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(MISTAKE)
