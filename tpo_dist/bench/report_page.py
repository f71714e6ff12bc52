"""What looking costs: groups kept while a run trains, and the page that shows them."""

import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tpo_dist.config import RunConfig
from tpo_dist.programs.group_log import GROUPS, GroupLog
from tpo_dist.programs.job import configure
from tpo_dist.programs.legible import Reader
from tpo_dist.programs.parts import make_learner, make_worker
from tpo_dist.programs.run import write_config
from tpo_dist.report.gather import gather
from tpo_dist.report.page import render, write_page

_PAINT = "return performance.getEntriesByType('paint').map(each => [each.name, each.startTime])"
_FILTER = """
const [id, value, done] = arguments, started = performance.now();
const list = document.getElementById("list"), field = document.getElementById(id);
new MutationObserver((_, own) => { own.disconnect(); done(performance.now() - started); }).observe(
  list, { childList: true });
field.value = value;
filter();
"""


def bench_report(overrides: tuple[str, ...], groups: int, steps: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Both costs. `overrides`: of the job that is trained; the defaults are a toy's."""
    tell("keeping groups")
    found: dict[str, Any] = bench_keeping(configure({}, overrides), steps)
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "run"
        tell(f"making a run with {groups} groups")
        make_folder(folder, groups)
        started = time.perf_counter()
        text = render([gather(folder)], groups)
        page = folder / "report.html"
        write_page(page, text)
        found |= {"groups": groups, "groups_bytes": (folder / GROUPS).stat().st_size}
        found |= {"page_bytes": page.stat().st_size, "page_seconds": time.perf_counter() - started}
        tell("opening the page")
        found |= {"browser": None, **bench_browser(page)}
    return found


def bench_keeping(config: RunConfig, steps: int) -> dict[str, float]:
    """Processor seconds of a step with groups kept and without, in turns, and the bytes of a group; writing included.

    They are those of one process with one thread, so that what else runs on the machine counts little.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    every, count = config.log.groups_every, config.rollout.groups_per_step
    kept = config.model_copy(update={"log": config.log.model_copy(update={"groups_every": 1})})
    plain = config.model_copy(update={"log": config.log.model_copy(update={"groups": 0})})
    sides = [(make_learner(each), make_worker(each)) for each in (kept, plain)]
    seconds: list[list[float]] = [[], []]
    with tempfile.TemporaryDirectory() as folder:
        log = GroupLog(Path(folder), Reader(config), 10**12)
        for step in range(steps):
            for side, (learner, worker) in enumerate(sides):
                started = time.process_time()
                worker.load(learner.current())
                learner.update(worker.roll(np.arange(step * count, (step + 1) * count)).whole())
                log.write(step + 1, learner.sample)
                seconds[side].append(time.process_time() - started)
        log.close()
        size = (Path(folder) / GROUPS).stat().st_size / (steps * config.log.groups)
    torch.set_num_threads(threads)
    warm = steps // 4
    whole = statistics.median(seconds[1][warm:])
    extra = statistics.median(one - other for one, other in zip(seconds[0][warm:], seconds[1][warm:], strict=True))
    return {"step_seconds": whole, "keeping_share": extra / every / whole, "bytes_per_group": size}


def bench_browser(page: Path) -> Mapping[str, float | str]:
    """Milliseconds until the first paint, and until the list shows what a filter leaves, in headless Chromium; nothing
    where that, its driver or selenium is missing."""
    if shutil.which("chromium") is None or shutil.which("chromedriver") is None:
        return {}
    try:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service
    except ImportError:
        return {}
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=Service(str(shutil.which("chromedriver"))))
    try:
        driver.get(page.resolve().as_uri())
        paints = dict(driver.execute_script(_PAINT))
        for _ in range(600):
            if driver.execute_script("return document.documentElement.dataset.charts"):
                break
            time.sleep(0.1)
        tries = {"f-zero": "1", "f-order": "distance", "f-text": "0 1 1", "f-stop": "2"}
        times = {name: driver.execute_async_script(_FILTER, name, value) for name, value in tries.items()}
        return {
            "browser": f"Chromium {driver.capabilities['browserVersion']}",
            "first_paint_ms": paints["first-paint"],
            **{f"filter_{name.removeprefix('f-')}_ms": spent for name, spent in times.items()},
        }
    finally:
        driver.quit()


def make_folder(folder: Path, groups: int, candidates: int = 8, seed: int = 0) -> None:
    """A run's folder with so many groups of a made-up training: what one looks like, without the training."""
    draw = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    write_config(folder, configure({}, (f"name={folder.name}", "steps=2500")))
    with (folder / GROUPS).open("w", encoding="utf-8") as file:
        file.write('{"format": 1, "every": 1}\n')
        for number in range(groups):
            file.write(json.dumps(_made_up(number, groups, candidates, draw)) + "\n")
    with (folder / "metrics.jsonl").open("w", encoding="utf-8") as file:
        for step in range(1, groups // 4 + 1):
            error = float(np.exp(-4 * step / groups))
            numbers = {"error": error, "reward": 1 - error, "target_distance": error, "step_seconds": 0.1}
            file.write(json.dumps({"step": step, **numbers}) + "\n")


def _made_up(number: int, groups: int, candidates: int, draw: np.random.Generator) -> dict[str, Any]:
    prompt = draw.integers(0, 2, 5)
    answer = prompt[::-1]
    right = draw.random(candidates) < number / groups
    texts = [answer if hit else draw.integers(0, 2, 5) for hit in right]
    scores = [float((text == answer).all()) for text in texts]
    weights = draw.dirichlet(np.ones(candidates), 3).round(6).tolist()
    logps = np.log(np.maximum(weights[0], 1e-9)).round(5).tolist()
    return {
        "step": number // 4 + 1, "draw": number, "source": ("reversal", "copy")[number % 2], "position": None,
        "prompt": _read(prompt), "answer": _read(answer), "texts": [_read(text) for text in texts],
        "lengths": [5] * candidates, "scores": scores, "stops": ["fixed"] * candidates, "logps_old": logps,
        "logps_after": logps, "p_old": weights[0], "p_after": weights[1], "q": weights[2], "advantages": None,
        "distance": round(float(np.abs(np.subtract(weights[2], weights[0])).sum()), 6),
        "zero_variance": len(set(scores)) == 1, "version": number // 4, "staleness": 0,
    }  # fmt: skip


def _read(tokens: Any) -> str:
    return " ".join(map(str, tokens.tolist()))
