"""Scorers as users write them, good ones and bad ones; some tests name them by the path of this file."""

import asyncio
import math
import os
import subprocess
import time

here = 3
VALUES = {"nan": math.nan, "inf": math.inf, "none": None, "text": "1.0", "huge": 10**400, "complex": 1j, "true": True}
VALUES["wide"] = 1e39


def right(prompt, completion, answer):
    return completion.strip() == answer


def length(prompt, completion, answer):
    return len(completion) / 10


def two_arguments(prompt, completion):
    return 1.0


def troubled(prompt, completion, answer):
    """Does what the completion says."""
    if completion == "hang":
        time.sleep(1e6)
    if completion == "spin":
        while True:
            pass
    if completion == "regex":
        import re

        re.match(r"(a+)+$", "a" * 80 + "b")
    if completion == "exit":
        raise SystemExit(3)
    if completion == "die":
        os._exit(3)
    if completion == "segfault":
        os.kill(os.getpid(), 11)
    if completion == "memory":
        return len(bytearray(8 << 30))
    if completion == "raise":
        raise KeyError("no such thing")
    if completion == "interrupt":
        raise KeyboardInterrupt
    if completion == "fork" and (child := os.fork()):  # and both of them come back
        os.waitpid(child, 0)
        return 0.25
    if completion.startswith("children "):
        for wait in (False, True):
            child = subprocess.Popen(["sleep", "4242"])
            with open(completion[9:], "a") as file:
                file.write(f"{child.pid}\n")
            if wait:
                child.wait()
    if completion == "recursion":
        return troubled(prompt, completion, answer)
    if completion in VALUES:
        return VALUES[completion]
    if completion.startswith("mark "):  # leaves a trace, so that attempts can be counted
        with open(completion[5:], "a") as file:
            file.write(f"{os.getpid()}\n")
        raise OSError("marked")
    return float(completion == answer)


async def judge(prompt, completion, answer):
    """Waits as a remote judge does."""
    if completion == "hang":
        await asyncio.sleep(1e6)
    if completion == "block":
        time.sleep(1e6)
    if completion == "die":
        os._exit(3)
    if completion == "timeout":
        raise TimeoutError("of its own")
    await asyncio.sleep(0.2)
    return float(completion == answer)


waiting: list[asyncio.Future[None]] = []


async def together(prompt, completion, answer):
    """Comes back when 48 wait for it, and never where they are asked for one after another."""
    waiting.append(asyncio.get_running_loop().create_future())
    if len(waiting) == 48:
        for each in waiting:
            each.set_result(None)
        waiting.clear()
    else:
        await waiting[-1]
    return float(completion == answer)


class Judge:
    async def __call__(self, prompt, completion, answer):
        return 0.5


judge_object = Judge()
