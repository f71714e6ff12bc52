"""`tpo-dist`: the subcommands, and what the shell sees when one fails."""

import sys
from typing import Any, NoReturn

import typer

from tpo_dist import __version__
from tpo_dist.cli import bench_fleet, bench_learner, bench_llm, bench_models, bench_report
from tpo_dist.cli.bench import bench
from tpo_dist.cli.eval import evaluation
from tpo_dist.cli.export import export
from tpo_dist.cli.fetch_model import fetch_model
from tpo_dist.cli.ledger import ledger
from tpo_dist.cli.metrics import metrics
from tpo_dist.cli.objectives import objectives
from tpo_dist.cli.replay import replay
from tpo_dist.cli.report import report, view
from tpo_dist.cli.scale import scale
from tpo_dist.cli.status import status
from tpo_dist.cli.study import study
from tpo_dist.cli.submit import submit
from tpo_dist.cli.train import train
from tpo_dist.errors import UsageError
from tpo_dist.process import show_token

MISTAKE = 2
"""Exit code: something the user gave cannot work."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # rich's own takes what stands in brackets for a style, and shows nothing of it
    help="Target Policy Optimization and its baselines, distributed on Ray.",
)
app.command()(train)
app.command()(submit)
app.command()(status)
app.command()(scale)
app.command()(objectives)
app.command()(metrics)
app.command()(ledger)
app.command()(replay)
app.command()(report)
app.command()(view)
app.command()(export)
app.command()(study)
app.command("eval")(evaluation)
app.command()(fetch_model)
for each in (bench_fleet, bench_learner, bench_llm, bench_models, bench_report):
    each.register(bench)
app.add_typer(bench, name="bench")


@app.callback(invoke_without_command=True)
def version(show: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    """Options of the program itself."""
    if show:
        print(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line; a user's mistake is one line on standard error, without a traceback."""
    show_token()
    try:
        code = app(prog_name="tpo-dist", standalone_mode=False)
    except UsageError as error:
        _refuse(str(error))
    except _FrameworkError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()
            sys.exit(MISTAKE)
        _refuse(_one_line(error, sys.argv[1:]))
    sys.exit(code if isinstance(code, int) else 0)


_FrameworkError: Any = typer.BadParameter.__mro__[2]
"""click's ClickException, whether typer brings its own click or imports it: only its descendants are public."""
assert _FrameworkError.__name__ == "ClickException"


def _refuse(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(MISTAKE)


def _one_line(error: Any, arguments: list[str]) -> str:
    """The framework's complaint, and the fix where an option was meant as a key."""
    option = str(getattr(error, "option_name", "") or "")
    if "No such option" not in error.format_message() or not option.startswith("-"):
        command = f"{error.ctx.command_path} --help" if getattr(error, "ctx", None) is not None else "--help"
        return f"{' '.join(error.format_message().split()).rstrip('.')}. Fix: see {command}."
    from tpo_dist.programs.job import key_names  # slow to import, and seldom needed

    names, key = key_names(), option.lstrip("-").replace("-", "_")
    found = [f"{section}.{key}".lstrip(".") for section, keys in names.items() if key in keys]
    section, _, last = key.rpartition(".")
    if last in names.get(section, ()) or section in ("task", "policy", "objective"):
        found = [key]
    if not found:
        return f"{option}: there is no such option. Fix: see --help, or --keys for what is given as key=value."
    given = next((index for index, text in enumerate(arguments) if text.split("=")[0] == option), None)
    value = "VALUE"
    if given is not None:
        value = arguments[given].partition("=")[2] or (arguments[given + 1 :] or [value])[0]
    return f"{option}: there is no such option. Fix: write {found[0]}={value}."
