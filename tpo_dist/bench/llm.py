"""Samples per second of a language model's training, beside TRL's GRPOTrainer on the same model, prompts and sizes."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from tpo_dist.bench.trl_baseline import Plan
from tpo_dist.config import ClusterConfig, RunConfig
from tpo_dist.errors import RunFailed
from tpo_dist.programs.distributed import train
from tpo_dist.programs.job import configure
from tpo_dist.programs.parts import make_learner, make_worker
from tpo_dist.programs.run import Run
from tpo_dist.runtime.cluster import cluster

JOB = (
    "task.name=text",
    "policy.name=causal_lm",
    "sampler.name=transformers",
    "objective.name=grpo",
    "objective.beta=0.0",
    "learner.epochs=1",
    "learner.optimizer.name=adamw",
    "learner.optimizer.lr=1e-4",
    "rollout.groups_per_step=8",
    "rollout.group_size=8",
    "rollout.workers=1",
    "rollout.block_size=8",
    "rollout.cpus=0.5",
    "text.max_completion_tokens=32",
    "text.max_prompt_tokens=64",
    "text.chat=false",
    "log.sinks=[]",
    "log.plot=false",
    f"checkpoint.every_steps={10**9}",
)
"""64 completions of up to 32 tokens for each step: the size at which TRL was measured first."""

_PROMPTS = 256
_WARM_UP = 4  # steps of each run that are not counted
_CONNECT_SECONDS = 60.0
_TRL_SECONDS = 600.0
_SCORER = '''"""The same reward as the yardstick's."""


def score(prompt, completion, answer):
    return completion.count("a") / (1 + len(completion))
'''


def bench_llm(
    model: Path,
    overrides: tuple[str, ...] = (),
    rounds: int = 3,
    steps: int = 20,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """`speedup_over_trl`: asynchronous samples per second over TRL's, median of the rounds' ratios; synchronous beside.

    A sample is a completion that was sampled, scored and trained on. In each round TRL, our synchronous and our
    asynchronous mode train as many steps one after another; generation alone and training alone are their limits.
    Raises RunFailed where TRL does not run.
    """
    found: dict[str, list[float]] = {}
    with TemporaryDirectory(prefix="tpo-bench-") as folder, cluster(ClusterConfig(), _CONNECT_SECONDS):
        own = write_task(Path(folder), model)
        for index in range(rounds):
            paces = {"trl": _trl(_plan(model, configure({}, (*JOB, *own, *overrides)), steps))}
            for mode, staleness in (("synchronous", 0), ("asynchronous", 1)):
                options = (f"steps={steps + _WARM_UP}", f"stream.max_staleness={staleness}")
                config = configure({}, (*JOB, *own, *options, *overrides))
                paces[mode] = _measure(Run(config, Path(folder, f"{mode}-{index}")))
            paces |= _limits(configure({}, (*JOB, *own, *overrides)))
            for name, pace in paces.items():
                found.setdefault(name, []).append(pace)
            tell(f"round {index + 1} of {rounds}: " + ", ".join(f"{n} {p:.0f} samples/s" for n, p in paces.items()))
    ratios = {
        mode: statistics.median(m / t for m, t in zip(found[mode], found["trl"], strict=True))
        for mode in ("synchronous", "asynchronous")
    }
    return {
        "speedup_over_trl": max(ratios.values()),
        "speedup_synchronous": ratios["synchronous"],
        "speedup_asynchronous": ratios["asynchronous"],
        "samples_per_second": {name: statistics.median(paces) for name, paces in found.items()},
        "rounds": rounds,
        "steps": steps,
    }


def write_task(folder: Path, model: Path) -> tuple[str, ...]:
    """Prompts and scorer of the benchmark in a folder, and the overrides that name them."""
    rows = "".join(json.dumps({"prompt": prompt, "answer": ""}) + "\n" for prompt in prompts())
    (folder / "prompts.jsonl").write_text(rows)
    (folder / "scorer.py").write_text(_SCORER)
    return (
        f"policy.path={model}",
        f"task.path={folder / 'prompts.jsonl'}",
        f"task.scorer={folder / 'scorer.py'}:score",
    )


def prompts() -> list[str]:
    """Short texts, each another."""
    return [f"copy {number:03d}: " for number in range(_PROMPTS)]


def _plan(model: Path, config: RunConfig, steps: int) -> Plan:
    return Plan(
        model=str(model),
        prompts=tuple(prompts()),
        groups=config.rollout.groups_per_step,
        group_size=config.rollout.group_size,
        completion_tokens=config.text.max_completion_tokens,
        steps=steps,
        warm_up=_WARM_UP,
        threads=os.cpu_count() or 1,
    )


def _trl(plan: Plan) -> float:
    """TRL's samples per second, with one torch thread or all of them, whichever is faster on this machine."""
    paces = []
    for threads in sorted({1, plan.threads}):
        done = subprocess.run(
            [sys.executable, "-P", "-m", "tpo_dist.bench.trl_baseline"],
            input=json.dumps(asdict(plan) | {"threads": threads}),
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            timeout=_TRL_SECONDS,
        )
        if done.returncode:
            raise RunFailed(f"TRL did not run; pip install 'tpo-dist[bench]': {done.stderr.strip()[-500:]}")
        paces.append(float(json.loads(done.stdout.strip().splitlines()[-1])["samples_per_second"]))
    return max(paces)


def _measure(run: Run) -> float:
    started = ended = 0.0
    for report in train(run):
        ended = time.perf_counter()
        if report.step == _WARM_UP:
            started = ended
    rollout = run.config.rollout
    return (run.config.steps - _WARM_UP) * rollout.groups_per_step * rollout.group_size / (ended - started)


def _limits(config: RunConfig) -> dict[str, float]:
    """Samples per second of one worker that only samples and scores, and of a learner that only trains."""
    worker, learner = make_worker(config), make_learner(config)
    worker.load(learner.snapshot())
    rollout = config.rollout
    draws, samples = np.arange(rollout.groups_per_step), rollout.groups_per_step * rollout.group_size
    groups = worker.roll(draws).whole()
    started = time.perf_counter()
    for _ in range(_WARM_UP):
        groups = worker.roll(draws).whole()
    sampled = time.perf_counter()
    for _ in range(_WARM_UP):
        learner.update(groups)
        learner.version -= 1  # the same groups once more
    trained = time.perf_counter()
    pace = _WARM_UP * samples
    return {"generation": pace / (sampled - started), "training": pace / (trained - sampled)}
