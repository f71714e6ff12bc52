"""Reasoning Gym: the experiments' puzzles, difficulty, and credit that nobody should have."""

import json
import threading

import pytest

from tpo_dist.errors import UsageError
from tpo_dist.tasks import ReasoningGym, reasoning_gym
from tpo_dist.tasks.curriculum import stage_of, stages_of

SUMS = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}


def make(dataset, **options):
    pytest.importorskip("reasoning_gym")
    return ReasoningGym(dataset=dataset, **options)


def answered(task, question, text):
    return task.score(question, f"I think <answer>{text}</answer>")


@pytest.mark.parametrize("dataset", ["graph_color", "knights_knaves", "chain_sum", "gsm_symbolic", "countdown"])
def test_questions_are_a_pure_function_of_seed_and_draw(dataset):
    task = make(dataset)
    task.check()
    asked = [task.question(3, draw).prompt for draw in range(20)]
    assert make(dataset).question(3, 17).prompt == asked[17]
    assert task.question(4, 17).prompt != asked[17]
    assert len(set(asked)) > 10
    assert task.question(3, 100_000).prompt
    assert task.held_out(0).prompt == make(dataset).held_out(0).prompt


def test_the_draws_beyond_a_data_set_s_size_are_not_those_before():
    task = make("graph_color", parameters={"size": 10})
    asked = [task.question(0, draw).prompt for draw in range(40)]
    assert len(set(asked)) > 30


@pytest.mark.parametrize("seed", [0, 1])
def test_no_draw_asks_what_is_held_out_however_few_puzzles_there_are(seed):
    """Two hundred sums of two digits, of which a run would soon have asked them all."""
    task = make("chain_sum", parameters=SUMS)
    held = {task.held_out(index).prompt for index in range(200)}
    asked = {task.question(seed, draw).prompt for draw in range(2000)}
    assert len(held) > 25
    assert len(asked) > 130
    assert not held & asked
    other = make("chain_sum", parameters=SUMS, curriculum=[{"draws": 1000}, {"parameters": {"max_terms": 3}}])
    assert not {other.held_out(index).prompt for index in range(200)} & asked


def test_where_there_is_one_puzzle_it_is_trained_on(monkeypatch):
    monkeypatch.setattr(reasoning_gym, "_is_held_out", lambda prompt: held_out)
    task = make("chain_sum", parameters=SUMS)
    held_out = False
    with pytest.raises(UsageError, match="held-out question 3: Reasoning Gym's chain_sum has so few puzzles"):
        task.held_out(3)
    held_out = True
    assert task.question(0, 0).prompt


def test_a_colouring_has_the_library_s_score():
    task = make("graph_color")
    question = task.question(0, 0)
    solution = question.answer[1]["metadata"]["possible_answer"]
    assert answered(task, question, json.dumps(solution)) == 1.0
    assert answered(task, question, json.dumps(dict.fromkeys(solution, 7))) == 0.01
    assert answered(task, question, "{}") == 0.01
    assert answered(task, question, "no JSON") == 0.0
    assert make("graph_color", credit="full").score(question, "<answer>{}</answer>") == 0.0


COLOURINGS = ["[1, 2, 3]", "5", '"0123456789"', "null", "true", "NaN", "[" * 100_000, "9" * 10_000, '{"0": {}}', "\x00"]


@pytest.mark.parametrize("text", COLOURINGS, ids=lambda text: text[:12])
def test_what_is_no_colouring_has_no_more_than_json_s_hundredth(text):
    task = make("graph_color")
    assert answered(task, task.question(0, 0), text) <= 0.01


def test_knights_and_knaves_have_partial_credit():
    task = make("knights_knaves")
    question = next(task.question(0, draw) for draw in range(50) if _roles(task.question(0, draw)) == {True, False})
    entry = question.answer[1]
    assert answered(task, question, entry["answer"]) == 1.0
    names, terms = entry["metadata"]["names"], entry["metadata"]["knight_knave_terms"]
    both_knights = ", and ".join(f"{name} is a {terms['knight']}" for name in names)
    assert answered(task, question, both_knights) == pytest.approx(0.3 + 0.7 / 2)
    assert make("knights_knaves", credit="full").score(question, f"<answer>{both_knights}</answer>") == 0.0


def _roles(question):
    return set(question.answer[1]["metadata"]["solution"])


def test_a_person_with_both_roles_has_no_credit():
    """The library counts pairs of name and role: two of one person would do for two people."""
    task = make("knights_knaves")
    question = task.question(0, 0)
    entry = question.answer[1]
    name, terms = entry["metadata"]["names"][0], entry["metadata"]["knight_knave_terms"]
    hedged = f"{name} is a {terms['knight']}, and {name} is a {terms['knave']}"
    assert question.answer[0].score_answer(hedged, entry) > 0.5
    assert answered(task, question, hedged) == 0.0
    twice = f"{entry['answer']} {hedged}"
    assert answered(task, question, twice) == 0.0


@pytest.mark.parametrize(
    "completion", ["", " \n", "<answer></answer>", "<answer> </answer>", "7", "<answer>7", "</answer>"]
)
def test_a_completion_without_an_answer_has_no_credit(completion):
    task = make("chain_sum", parameters=SUMS)
    assert task.score(task.question(0, 0), completion) == 0.0


def test_the_answer_may_be_the_whole_completion():
    task = make("chain_sum", parameters=SUMS, answer_in="completion")
    question = task.question(0, 0)
    right = question.answer[1]["answer"]
    assert task.score(question, f" {right}\n") == 1.0
    assert task.score(question, "") == 0.0


def test_full_credit_is_for_the_answer_alone():
    """Where the answer is somewhere in a list of guesses, the library gives its share of the characters."""
    guesses = " ".join(map(str, range(-20, 40)))
    task = make("chain_sum", parameters=SUMS)
    question = task.question(0, 0)
    assert 0 < answered(task, question, guesses) < 0.1
    assert answered(make("chain_sum", parameters=SUMS, credit="full"), question, guesses) == 0.0


def test_difficulty_follows_the_draws():
    stages = [
        {"draws": 5, "parameters": {"max_terms": 2}},
        {"draws": 5, "parameters": {"min_terms": 6}},
        {},
    ]
    task = make("chain_sum", parameters={**SUMS, "min_terms": 2, "max_terms": 6}, curriculum=stages)
    task.check()
    terms = [task.question(0, draw).answer[1]["metadata"]["num_terms"] for draw in range(60)]
    assert terms[:10] == [2] * 5 + [6] * 5
    assert set(terms[10:]) == {2, 3, 4, 5, 6}
    assert task.turns() == (0, 5, 10)
    assert make("chain_sum").turns() == (0,)
    assert {task.held_out(index).answer[1]["metadata"]["num_terms"] for index in range(40)} == {2, 3, 4, 5, 6}


def test_levels_are_those_of_the_library_s_curriculum():
    task = make("graph_color", levels={"num_colors": 1})
    task.check()
    assert task.question(0, 0).answer[1]["metadata"]["puzzle"]["num_colors"] == 4
    harder = make("graph_color", levels={"num_vertices": 3}, parameters={"min_num_vertices": 20})
    assert harder.question(0, 0).answer[1]["metadata"]["num_vertices"] >= 20


def test_the_system_prompt_is_the_library_s_by_name():
    assert "<answer>" in make("chain_sum").system_prompt
    assert make("chain_sum", instructions=None).system_prompt is None


BAD = {
    "dataset": ({"dataset": "graph_colour"}, "did you mean 'graph_color'"),
    "mixture": ({"dataset": "composite"}, "use the task mixture"),
    "parameter": ({"dataset": "graph_color", "parameters": {"num_colours": 3}}, "did you mean 'num_colors'"),
    "value": (
        {"dataset": "graph_color", "parameters": {"edge_probability": 2}},
        "edge_probability must be less than 1",
    ),
    "type": ({"dataset": "chain_sum", "parameters": {"min_terms": "two"}}, "Reasoning Gym's chain_sum refuses them"),
    "seed": ({"dataset": "chain_sum", "parameters": {"seed": 1}}, "the seed is the run's"),
    "level": ({"dataset": "graph_color", "levels": {"num_colors": 9}}, "the levels of num_colors run from 0 to 2"),
    "attribute": ({"dataset": "graph_color", "levels": {"num_colour": 1}}, "did you mean 'num_colors'"),
    "no curriculum": ({"dataset": "gsm_symbolic", "levels": {"a": 1}}, "has no curriculum"),
    "a stage's parameter": (
        {"dataset": "chain_sum", "curriculum": [{"draws": 5}, {"parameters": {"max_term": 3}}]},
        "task.curriculum[1].parameters.max_term: Reasoning Gym's chain_sum has no such parameter",
    ),
    "a stage's level": (
        {"dataset": "graph_color", "curriculum": [{"draws": 5, "levels": {"num_colors": 9}}, {}]},
        "task.curriculum[0].levels.num_colors = 9: the levels",
    ),
    "a parameter of all stages": (
        {"dataset": "chain_sum", "parameters": {"max_term": 3}, "curriculum": [{"draws": 5}, {}]},
        "task.parameters.max_term: Reasoning Gym's",
    ),
    "instructions": ({"dataset": "chain_sum", "instructions": "defualt"}, "did you mean 'default'"),
}


@pytest.mark.parametrize(("options", "words"), BAD.values(), ids=BAD.keys())
def test_what_the_library_does_not_have_is_refused(options, words):
    with pytest.raises(UsageError) as error:
        make(**options).check()
    assert words in str(error.value)


def test_parameters_that_allow_no_puzzle_are_refused(monkeypatch):
    monkeypatch.setattr(reasoning_gym, "_FIRST_QUESTION_SECONDS", 1.0)
    task = make("graph_color", parameters={"edge_probability": 0.99, "num_colors": 2})
    with pytest.raises(UsageError, match="no question came of them within 1 s"):
        task.check()
    for thread in [each for each in threading.enumerate() if each.name == "puzzles"]:
        thread.join(10)
        assert not thread.is_alive(), "it goes on looking"


BAD_STAGES = {
    "none": ([], "it has no stage"),
    "an end": ([{"draws": 5}], "the last stage goes on"),
    "no length": ([{}, {}], "curriculum[0].draws = None"),
    "no number": ([{"draws": "5"}, {}], "curriculum[0].draws = 5"),
    "nothing": ([{"draws": 0}, {}], "curriculum[0].draws = 0"),
    "key": ([{"draw": 5}, {}], "did you mean 'draws'"),
    "parameters": ([{"parameters": [1]}], "is not keys with values"),
}


@pytest.mark.parametrize(("curriculum", "words"), BAD_STAGES.values(), ids=BAD_STAGES.keys())
def test_what_is_no_stage_is_refused(curriculum, words):
    with pytest.raises(UsageError) as error:
        ReasoningGym(dataset="chain_sum", curriculum=curriculum)
    assert words in str(error.value)


def test_a_stage_is_on_top_of_what_holds_for_all():
    stages = stages_of({"a": 1, "b": 1}, {"x": 0}, [{"draws": 3, "parameters": {"b": 2}}, {"levels": {"x": 2}}])
    assert (stages[0].parameters(), stages[0].levels()) == ({"a": 1, "b": 2}, {"x": 0})
    assert (stages[1].parameters(), stages[1].levels()) == ({"a": 1, "b": 1}, {"x": 2})
    assert [stages.index(stage_of(stages, draw)) for draw in (0, 2, 3, 10**9)] == [0, 0, 1, 1]
