"""The sign by which a learner knows the run's folder."""

import pytest

from tpo_dist.errors import UsageError
from tpo_dist.programs.folder import short_path, sign_in


def test_a_sign_is_there_while_the_driver_is_and_has_a_new_name_each_time(tmp_path):
    folder = tmp_path / "runs" / "new"
    seen = []
    for _ in range(2):
        with sign_in(folder) as sign:
            assert list(folder.iterdir()) == [sign]
            seen.append(sign)
    assert seen[0].name != seen[1].name
    assert list(folder.iterdir()) == []


def test_what_a_killed_driver_left_is_taken_away_and_nothing_else(tmp_path):
    for name in (".driver-0123", "run.lock", "config.json"):
        (tmp_path / name).touch()
    with sign_in(tmp_path) as sign:
        assert {path.name for path in tmp_path.iterdir()} == {sign.name, "run.lock", "config.json"}


def test_a_folder_that_goes_with_the_run_is_no_error(tmp_path):
    with sign_in(tmp_path / "run") as sign:
        sign.unlink()
        sign.parent.rmdir()


def test_a_folder_that_cannot_be_written_is_a_user_s_matter(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file/run: cannot be written"), sign_in(tmp_path / "file" / "run"):
        pass


def test_a_path_is_told_also_from_a_folder_that_is_gone(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    assert short_path(tmp_path / "gone" / "run") == "run"
    (tmp_path / "gone").rmdir()
    assert short_path(tmp_path / "run") == str(tmp_path / "run")
