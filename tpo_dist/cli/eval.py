"""`tpo-dist eval`: held-out questions, answered by a run's weights or by a model as it is."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tpo_dist.evaluation import Answered, Evaluation

_LONGEST = 1200  # characters of a completion that is shown


def evaluation(
    target: Annotated[str, typer.Argument(help="Run (its folder, or the folder's name), or a model folder.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, such as evaluation.questions=200")] = None,
    job: Annotated[str | None, typer.Option(help="With a model folder: the job whose questions it answers.")] = None,
    step: Annotated[int | None, typer.Option(help="The checkpoint of this step instead of the newest.")] = None,
    show: Annotated[int, typer.Option(min=0, help="Print so many questions with their answers.")] = 0,
    answers: Annotated[Path | None, typer.Option(help="Write all answers there, a JSON line each.")] = None,
    runs_dir: Annotated[str, typer.Option(help="Folder that holds the folders of runs.")] = "runs",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON value, nothing else.")] = False,
) -> None:
    """Score held-out questions: `tpo-dist eval RUN`, also while it trains, or `tpo-dist eval FOLDER --job JOB.yaml`.

    How many questions and completions, and their temperature, say the keys under evaluation. and text.; greedy by
    default. pass@k is the unbiased estimate from all completions of a question; a question that cannot be scored is
    counted and in nothing else.

    JSON: an object with the keys target, version (of the weights; 0 before training), questions, samples, temperature,
    metrics (by name, such as eval/pass@1, eval/score, eval/length, eval/cut_off, eval/failed).
    Exit code: 0 evaluated, 2 mistake in what was given, 130 interrupted.
    """
    from tpo_dist.programs.evaluating import find_subject, run_evaluation

    if job is None and overrides and "=" not in overrides[0]:
        job = overrides.pop(0)
    subject = find_subject(target, job, overrides or [], runs_dir, step)
    if answers is not None:
        _write(answers, [])  # what cannot be written shows now
    try:
        found = run_evaluation(subject)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    if answers is not None:
        _write(answers, found.questions)
    asked = subject.config.evaluation
    if as_json:
        told = {"target": subject.name, "version": found.version, "questions": len(found.questions)}
        drawn = {"samples": asked.samples, "temperature": asked.temperature}
        print(json.dumps({**told, **drawn, "metrics": _numbers(found)}))
        return
    for each in found.questions[:show]:
        _show(each)
    draws = "greedy" if asked.temperature == 0 else f"temperature {asked.temperature:g}"
    print(f"{subject.name}: version {found.version}, {len(found.questions)} questions x {asked.samples}, {draws}")
    for name, number in _numbers(found).items():
        print(f"  {name.removeprefix('eval/'):24}{'-' if number is None else format(number, '.4g')}")


def _numbers(found: "Evaluation") -> dict[str, float | None]:
    from tpo_dist.metrics import values

    return {name: None if value != value else value for name, value in values(found.metrics).items()}


def _write(path: Path, questions: "Sequence[Answered]") -> None:
    from tpo_dist.errors import UsageError

    try:
        with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
            for each in questions:
                file.write(json.dumps(_row(each), ensure_ascii=False) + "\n")
    except OSError as error:
        raise UsageError(f"--answers {path}", f"cannot be written ({error.strerror})", "give another file") from None


def _row(each: "Answered") -> dict[str, Any]:
    from tpo_dist.tasks import Defect

    graded = each.grades
    if isinstance(graded, Defect):
        return {"index": each.index, **each.words, "scores": None, "cause": graded.cause, "detail": graded.detail}
    return {"index": each.index, **each.words, "scores": graded.scores, "parts": dict(graded.parts)}


def _show(each: "Answered") -> None:
    row = _row(each)
    print(f"--- question {each.index} ({each.source})\n{row['question']}\n--- right: {row['answer']}")
    for number, text in enumerate(row["completions"]):
        score = row["cause"] if row["scores"] is None else f"{row['scores'][number]:g}"
        print(f"--- completion {number}, {each.lengths[number]} tokens, score {score}\n{text[:_LONGEST]}")
    print()
