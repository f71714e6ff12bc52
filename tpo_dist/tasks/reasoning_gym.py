"""Reasoning Gym: puzzles made by program, any number of them (Stojanovski et al. 2025, arXiv 2505.24760).

The experiments of arXiv 2604.06159, section 3.8, are `dataset: graph_color` and `dataset: knights_knaves` with the
library's own parameters and scores: 1 for a colouring and 0.01 for any JSON; 0.3 to 1 for the share of right roles.
"""

import ctypes
import dataclasses
import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Literal, TypeVar

import numpy as np

from tpo_dist.components import nearest
from tpo_dist.errors import UsageError
from tpo_dist.randomness import draw_words
from tpo_dist.tasks.curriculum import Stage, stage_of, stages_of
from tpo_dist.tasks.extraction import tagged
from tpo_dist.tasks.rewards import check_scorers, whole_paths
from tpo_dist.tasks.text import HELD_OUT, OneSource, Question, require

T = TypeVar("T")
_FIRST_QUESTION_SECONDS = 60.0
_SEEDS = 1 << 31  # of the library: Random(seed + index), and some of its data sets take 32 bits
_HELD_OUT_SHARE, _ATTEMPTS = 5, 64
"""One puzzle of so many is held out, whatever its draw; and how often one of the wanted kind is looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningGym(OneSource):
    """Questions and scores of one of the library's data sets, by name."""

    dataset: str
    """Such as graph_color, knights_knaves, chain_sum; `reasoning_gym.factory.DATASETS` has them all."""
    parameters: dict[str, Any] | None = None
    """Of the data set, such as {num_terms: 2}; null: the library's."""
    levels: dict[str, int] | None = None
    """Difficulty from 0 by attribute of the library's curriculum, such as {num_vertices: 1}; parameters go first."""
    curriculum: list[dict[str, Any]] | None = None
    """Stages, one after another: each {draws: how many, parameters: ..., levels: ...} on top of those above; the last
    stage has no draws and goes on. Held-out questions are of the last stage"""
    credit: Literal["native", "full"] = "native"
    """native: the library's score, which may be partial. full: 1 where that is 1, else 0."""
    answer_in: Literal["tag", "completion"] = "tag"
    """Where the answer is: between the last <answer> and </answer>, or the whole completion."""
    instructions: str | None = "default"
    """The library's system prompt of this name (default, DeepSeekZero, simple, direct, chain_of_draft), or null."""
    rewards: dict[str, float] | None = None
    """Weights of the rewards that make the score: task is this task's own, the others answer_tag, think_answer_tags, or
    functions by path (file.py:name); null: this task's own"""

    def __post_init__(self) -> None:
        object.__setattr__(self, "rewards", whole_paths(self.rewards))
        stages_of(self.parameters, self.levels, self.curriculum)  # refuses what is no stage

    @property
    def sources(self) -> tuple[str, ...]:
        """The data set's name."""
        return (self.dataset,)

    @property
    def system_prompt(self) -> str | None:
        """The library's, by the name in `instructions`. Raises UsageError where it has none of that name."""
        if self.instructions is None:
            return None
        prompts = require("reasoning_gym.utils", "reasoning-gym").SYSTEM_PROMPTS
        if self.instructions not in prompts:
            where = f"task.instructions = {self.instructions!r}"
            raise UsageError(where, "Reasoning Gym has no such prompt", nearest(self.instructions, prompts))
        return str(prompts[self.instructions]).strip()

    def check(self) -> None:
        """Raise UsageError where there is no such data set, attribute or parameter, or no question comes of them."""
        check_scorers(self)
        assert self.system_prompt is None or self.system_prompt
        for number, stage in enumerate(self._stages()):
            try:
                first = partial(_dataset(self.dataset, stage, 0).__getitem__, 0)
                _within(_FIRST_QUESTION_SECONDS, f"task.parameters = {stage.parameters()}", first)
            except UsageError as error:
                raise UsageError(self._place(number, error.where), error.reason, error.fix) from None

    def held_out_count(self) -> int | None:
        """None: as many as one likes."""
        return None

    def question_count(self) -> int | None:
        """None: as many as one likes."""
        return None

    def question(self, seed: int, draw: int) -> Question:
        """A puzzle of the stage that the draw falls into."""
        return self._ask(seed, draw, stage_of(self._stages(), draw))

    def held_out(self, index: int) -> Question:
        """A puzzle of the last stage, the same for every seed, which no draw of any seed asks. Raises UsageError where
        puzzles are so few that none is held out."""
        return self._ask(0, HELD_OUT + index, self._stages()[-1])

    def turns(self) -> tuple[int, ...]:
        """The first draw of each stage."""
        draws = [stage.draws or 0 for stage in self._stages()]
        return tuple(sum(draws[:number]) for number in range(len(draws)))

    def score(self, question: Question, completion: str) -> float:
        """The library's score of the answer; 0 where there is none. Raises whatever the library raises."""
        answer = tagged(completion) if self.answer_in == "tag" else completion.strip()
        if not answer:
            return 0.0
        data, entry = question.answer
        if not GUARDS.get(self.dataset, _anything)(data, answer, entry):
            return 0.0
        credit = data.score_answer(answer, entry)
        return float(credit >= 1.0) if self.credit == "full" else credit

    def _place(self, number: int, where: str) -> str:
        """Where it was written what holds in a stage: there, if it names a parameter or level of its own."""
        given = (self.curriculum or [{}])[number]
        own = {**(given.get("parameters") or {}), **(given.get("levels") or {})}
        inside = any(name in where for name in own)
        return where.replace("task.", f"task.curriculum[{number}].", 1) if inside else where

    def _stages(self) -> tuple[Stage, ...]:
        return stages_of(self.parameters, self.levels, self.curriculum)

    def _ask(self, seed: int, draw: int, stage: Stage) -> Question:
        """The first puzzle that is for training, or held out, as the draw is."""
        chunk, index = divmod(draw, _config(self.dataset, stage).size)
        for attempt in range(_ATTEMPTS):
            data = _chunk(self.dataset, stage, seed, chunk, attempt)
            entry = data[index]
            prompt = str(entry["question"]).strip()
            if _is_held_out(prompt) == (draw >= HELD_OUT):
                break
        else:
            if draw >= HELD_OUT:
                reason = f"Reasoning Gym's {self.dataset} has so few puzzles of these parameters that none is held out"
                raise UsageError(f"held-out question {draw - HELD_OUT}", reason, "give parameters that allow more")
        return Question(prompt=prompt, answer=(data, entry), source=self.dataset)


def _is_held_out(prompt: str) -> bool:
    """By the puzzle itself: where there are few, the same one comes up for training and for evaluation."""
    digest = hashlib.blake2b(prompt.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") % _HELD_OUT_SHARE == 0


def _anything(data: Any, answer: str, entry: Any) -> bool:
    return True


def _each_person_once(data: Any, answer: str, entry: Any) -> bool:
    """The library gives credit to an answer that names one person twice, with both roles, and leaves out another."""
    named, asked = ([name for name, _ in data._normalize_answer(text)] for text in (answer, entry["answer"]))
    return sorted(named) == sorted(asked)


GUARDS: dict[str, Callable[[Any, str, Any], bool]] = {"knights_knaves": _each_person_once}
"""What an answer has to be before the library's score of it counts: closes holes through which credit could be had."""


@lru_cache(maxsize=64)
def _chunk(name: str, stage: Stage, seed: int, chunk: int, attempt: int) -> Any:
    """The data set that holds `size` draws of the run, with a seed of its own; each attempt has another."""
    word = draw_words(seed, "prompt", np.array([chunk + (attempt << 48)]), 1)[0, 0]
    return _dataset(name, stage, int(word) % _SEEDS)


def _dataset(name: str, stage: Stage, seed: int) -> Any:
    """Raises UsageError where the library refuses the parameters."""
    config, kind = _config(name, stage), _known(name)[0]
    config.seed = seed
    where = f"task.parameters = {stage.parameters()}"
    try:
        config.validate()
        return _within(_FIRST_QUESTION_SECONDS, where, lambda: kind(config))
    except UsageError:
        raise
    except Exception as error:  # noqa: BLE001  # asserts, mostly; each data set has its own
        reason = f"Reasoning Gym's {name} refuses them ({type(error).__name__}: {error})"
        raise UsageError(where, reason, "give other values") from None


def _config(name: str, stage: Stage) -> Any:
    """The data set's configuration at this stage. Raises UsageError for parameters and attributes that it has not."""
    kind = _known(name)[1]
    fields = [field.name for field in dataclasses.fields(kind) if field.name != "seed"]
    given = stage.parameters()
    for key in given:
        if key not in fields:
            reason = "the seed is the run's" if key == "seed" else f"Reasoning Gym's {name} has no such parameter"
            raise UsageError(f"task.parameters.{key}", reason, nearest(key, fields))
    try:
        return kind(**{**_level_parameters(name, stage.levels()), **given})
    except TypeError as error:
        raise UsageError(f"task.parameters = {given}", str(error), "give the missing ones") from None


def _level_parameters(name: str, levels: dict[str, int]) -> dict[str, Any]:
    """The parameters that the library's curriculum has at these levels; nothing for attributes without one."""
    if not levels:
        return {}
    factory = require("reasoning_gym.factory", "reasoning-gym")
    if name not in factory.CURRICULA:
        raise UsageError(f"task.levels = {levels}", f"Reasoning Gym's {name} has no curriculum", "give task.parameters")
    curriculum = factory.CURRICULA[name]()
    for attribute, level in levels.items():
        if attribute not in curriculum.attributes:
            reason = f"Reasoning Gym's curriculum of {name} has no such attribute"
            raise UsageError(f"task.levels.{attribute}", reason, nearest(attribute, curriculum.attributes))
        count = len(curriculum.attributes[attribute].levels)
        if not 0 <= level < count:
            reason = f"the levels of {attribute} run from 0 to {count - 1}"
            raise UsageError(f"task.levels.{attribute} = {level}", reason, "give one of them")
        curriculum.set_attr_level(attribute, level)
    whole = curriculum.generate_configuration({})
    wanted = [curriculum.attributes[attribute] for attribute in levels]
    names = ("field_name", "lower_field_name", "upper_field_name")
    fields = [getattr(each, field) for each in wanted for field in names if hasattr(each, field)]
    return {field: getattr(whole, field) for field in fields}


def _known(name: str) -> tuple[Any, Any]:
    """The class of a data set and that of its configuration. Raises UsageError where there is none of that name."""
    known: dict[str, tuple[Any, Any]] = require("reasoning_gym.factory", "reasoning-gym").DATASETS
    require("reasoning_gym")  # registers them
    names = [each for each in known if each != "composite"]  # the task `mixture` mixes
    if name not in names:
        fix = "use the task mixture" if name == "composite" else nearest(name, names)
        raise UsageError(f"task.dataset = {name!r}", "Reasoning Gym has no such data set", fix)
    return known[name]


def _within(seconds: float, where: str, make: Callable[[], T]) -> T:
    """What `make` gives. Raises UsageError where it takes longer: some parameters allow no puzzle, and the library
    goes on looking for one."""
    found: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            found.append(make())
        except BaseException as error:  # noqa: BLE001  # raised again below
            failed.append(error)

    worker = threading.Thread(target=run, name="puzzles", daemon=True)
    worker.start()
    worker.join(seconds)
    if failed:
        reason = f"Reasoning Gym makes no question of them ({type(failed[0]).__name__}: {failed[0]})"
        raise UsageError(where, reason, "give other parameters")
    if not found:
        # The library's loop is Python's own, and would have a core for itself until the process ends.
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(worker.ident or 0), ctypes.py_object(SystemExit))
        raise UsageError(where, f"no question came of them within {seconds:g} s", "make them easier to meet")
    return found[0]
