"""The documentation and the registry say the same."""

import dataclasses
from pathlib import Path

import pytest

from tests.objective.batches import make_objective
from tpo_dist.objective import CORRECTIONS, OBJECTIVES
from tpo_dist.objective.catalogue import catalogue, refreshed

PAGE = Path(__file__).parents[2] / "docs" / "objectives.md"


def table(text):
    """name -> rule, from the rows of the page's own table."""
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in row.replace("\\|", "\0").strip("|").split("|")] for row in rows]
    return {cell[0].strip("`"): cell[1].replace("\0", "|") for cell in cells if len(cell) == 7}


def test_the_page_has_the_registry_s_names_and_rules():
    """`tpo-dist objectives --refresh docs/objectives.md` brings it up to date."""
    text = PAGE.read_text()
    assert table(text) == {name: method.rule for name, method in OBJECTIVES.items()}
    assert refreshed(text) == text


def test_the_page_names_every_correction_and_every_option_of_tpo():
    text = PAGE.read_text()
    for name in [*CORRECTIONS, *(field.name for field in dataclasses.fields(make_objective("tpo")))]:
        assert f"`{name}`" in text
    assert "TRPO" in text


def test_a_page_without_its_marks_is_refused():
    with pytest.raises(ValueError, match="lacks the line"):
        refreshed("no table here")


@pytest.mark.parametrize("entry", catalogue(), ids=OBJECTIVES.keys())
def test_an_entry_says_what_its_class_says(entry):
    objective = make_objective(entry["name"])
    assert entry["group"] == (objective.min_group_size > 1)
    assert entry["epochs"] == objective.epochs
    assert entry["reference"] == objective.uses_reference
    assert make_objective(entry["name"], **entry["options"]) == objective
    for key in ("paper", "rule", "when", "scale"):
        assert entry[key]
        assert "\n" not in entry[key]
