"""What `--help` shows: every word that was written, those in brackets too."""

import re

import pytest
import typer

from tests.cli.run_cli import call
from tpo_dist.cli.main import app


def commands(command, path=()):
    """Every command of the tree with its words on the command line."""
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, (*path, name))


TREE = dict(commands(typer.main.get_command(app)))


def words(text):
    """Without the marks of code, which a terminal shows as a style."""
    return text.replace("`", "").split()


def shown(text):
    """The words of a help page, without the frames around its tables."""
    return " ".join(re.sub("[│╭╮╰╯─]", " ", text).split())


@pytest.mark.parametrize("path", TREE, ids=" ".join)
def test_a_help_page_loses_no_word(path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 400)
    code, out, err = call(monkeypatch, capsys, *path, "--help")
    assert (code, err) == (0, "")
    page, command = shown(out), TREE[path]
    assert " ".join(words(command.help or "")) in page
    for parameter in command.params:
        assert " ".join(words(getattr(parameter, "help", None) or "")) in page
