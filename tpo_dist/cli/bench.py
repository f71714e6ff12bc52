"""`tpo-dist bench`: benchmarks that a user can run on their own machine or cluster."""

import typer

bench = typer.Typer(no_args_is_help=True, help="Benchmarks to run on your own machine or cluster.")
