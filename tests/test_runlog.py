"""run.log: JSON lines with run, role and step, whoever writes them."""

import json
import logging

from tpo_dist.cli.logs import warnings_to
from tpo_dist.runlog import lines_to, log_lines


def test_a_line_is_one_object(tmp_path):
    folder, steps = tmp_path / "toy-1", iter((3, 4))
    folder.mkdir()
    logger, handler = logging.getLogger("tpo_dist.of_a_test"), lines_to(folder, "learner", lambda: next(steps))
    logger.addHandler(handler)
    logger.propagate = False
    logger.warning("the stacks of %d:\nfile “a”, line 1", 7)
    logger.info("nothing to warn of")
    try:
        raise OSError("full")
    except OSError:
        logger.exception("it failed")
    logger.removeHandler(handler)
    handler.close()
    first, second = [json.loads(line) for line in (folder / "run.log").read_text().splitlines()]
    assert first.pop("at")[:4] >= "2024"
    assert first == {
        "level": "WARNING",
        "run": "toy-1",
        "role": "learner",
        "step": 3,
        "logger": "tpo_dist.of_a_test",
        "message": "the stacks of 7:\nfile “a”, line 1",
    }
    assert (second["level"], second["step"]) == ("ERROR", 4)
    assert second["exception"].endswith("OSError: full")


def test_people_get_the_first_line_and_the_folder_all(tmp_path):
    said = []
    with warnings_to(tmp_path, said.append, lambda: 5):
        logging.getLogger("tpo_dist.of_a_test_too").warning("it hangs\nstack 1\nstack 2")
    assert said == ["it hangs (in full in run.log)"]
    (line,) = (tmp_path / "run.log").read_text().splitlines()
    line = json.loads(line)
    assert (line["role"], line["step"], line["message"]) == ("driver", 5, "it hangs\nstack 1\nstack 2")


def test_people_are_told_what_is_no_warning_and_the_folder_is_not(tmp_path):
    said, told = [], []
    with warnings_to(tmp_path, said.append, lambda: 0, told.append):
        logging.getLogger("tpo_dist").info("10 s of 600 s: learner still starting")
        logging.getLogger("tpo_dist").debug("all is well")
    logging.getLogger("tpo_dist").info("afterwards nobody listens")
    assert (said, told) == ([], ["10 s of 600 s: learner still starting"])
    assert not (tmp_path / "run.log").exists()


def test_a_process_of_the_run_says_it_to_both(tmp_path, capsys):
    logger = logging.getLogger("tpo_dist")
    before = list(logger.handlers)
    for name in ("before", "now"):
        (tmp_path / name).mkdir()
        log_lines(tmp_path / name, "stream", lambda: 9)
    logger.warning("waiting for groups")
    for handler in set(logger.handlers) - set(before):
        logger.removeHandler(handler)
        handler.close()
    assert capsys.readouterr().err == "waiting for groups\n"
    (line,) = (tmp_path / "now" / "run.log").read_text().splitlines()
    assert (json.loads(line)["run"], json.loads(line)["role"]) == ("now", "stream")
    assert not (tmp_path / "before" / "run.log").exists()
