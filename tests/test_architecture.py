"""The house rules, read from the source: imports only point down, Ray and vLLM live in one place, budgets hold."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "tpo_dist"
FILES = sorted(PACKAGE.rglob("*.py"))

FLOORS = {
    "errors": 0,
    "process": 0,
    "randomness": 0,
    "ragged": 0,
    "records": 0,
    "config": 0,
    "components": 0,
    "metrics": 0,
    "runlog": 0,
    "objective": 0,
    "tasks": 1,
    "policies": 1,
    "blocks": 1,
    "history": 1,
    "leases": 1,
    "admission": 1,
    "waiting": 1,
    "weight_group": 1,
    "weight_buckets": 1,
    "tally": 1,
    "stream": 1,
    "supervision": 1,
    "fleet_rule": 1,
    "watch": 1,
    "quarantine": 1,
    "ledger": 1,
    "audit": 1,
    "schedule": 1,
    "rollout": 2,
    "learner": 2,
    "runtime": 3,
    "evaluation": 3,
    "programs": 4,
    "report": 4,
    "studies": 4,
    "bench": 4,
    "cli": 5,
    "__main__": 5,
    "__init__": 0,
}
ALLOWED_ON_FLOOR_0 = {
    "objective": {"torch"},
    "records": {"numpy", "xxhash"},
    "randomness": {"numpy"},
    "ragged": {"numpy"},
    "config": {"pydantic"},
    "components": {"pydantic"},
    "metrics": set(),
    "runlog": set(),
    "errors": set(),
    "process": set(),
    "__init__": set(),
}
FORBIDDEN_NAMES = ("utils", "helpers", "common", "misc", "manager")
FILE_LINES, FUNCTION_LINES, LOCAL_LINES = 300, 50, 100


def room(path):
    """The part of the house that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path):
    """Every module imported anywhere in a file, type-checking blocks aside."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def internal(path):
    return {name.split(".")[1] for name in imports(path) if name.startswith("tpo_dist.")} - {"__version__"}


def external(path):
    return {name.split(".")[0] for name in imports(path)} - {"tpo_dist"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    here = room(path)
    assert here in FLOORS, f"{here} has no floor"
    for other in internal(path) & FLOORS.keys():
        assert other == here or FLOORS[other] <= FLOORS[here], f"{here} imports {other} from above"


def test_rollout_and_learner_do_not_know_each_other():
    for path in FILES:
        if room(path) in ("rollout", "learner"):
            assert not internal(path) & ({"rollout", "learner"} - {room(path)}), path


def test_the_ground_floor_is_independent():
    import sys

    for path in FILES:
        if FLOORS[room(path)] == 0:
            extra = external(path) - set(sys.stdlib_module_names) - ALLOWED_ON_FLOOR_0[room(path)]
            assert not extra, f"{path} imports {extra}"
            if room(path) == "objective":
                assert internal(path) <= {"objective", "errors"}, path


def test_ray_and_vllm_live_in_one_place():
    assert {room(path) for path in FILES if "ray" in external(path)} == {"runtime"}
    assert [path for path in FILES if "vllm" in external(path)] == [PACKAGE / "rollout" / "vllm" / "library.py"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_budgets(path):
    text = path.read_text()
    assert len(text.splitlines()) <= FILE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno + 1 <= FUNCTION_LINES, f"{node.name} is too long"
    assert not any(word in part.lower() for part in path.relative_to(PACKAGE).parts for word in FORBIDDEN_NAMES)


def test_the_local_program_is_short_enough_to_read_first():
    assert len((PACKAGE / "programs" / "local.py").read_text().splitlines()) < LOCAL_LINES


def public_definitions(tree):
    """Public functions and classes of a module, and public methods of its public classes."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                for inner in node.body:
                    if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef) and not inner.name.startswith("_"):
                        yield inner


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_everything_public_says_what_it_is(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree) or not tree.body, "the module has no docstring"
    overloads = {
        "forward",
        "backward",
        "train",
        "study",
        "submit",
    }  # torch's own names, and commands whose help is assembled
    silent = [node.name for node in public_definitions(tree) if not ast.get_docstring(node)]
    assert set(silent) <= overloads, f"without docstring: {silent}"


def test_the_readme_s_tree_names_every_file():
    text = (PACKAGE.parent / "README.md").read_text()
    tree = text[text.index("## The tree") : text.index("## Scaling out")]
    missing = [
        str(path.relative_to(PACKAGE)) for path in FILES if not path.name.startswith("_") and path.name not in tree
    ]
    assert not missing
