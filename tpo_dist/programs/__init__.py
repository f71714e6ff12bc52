"""The same parts wired two ways: `local.py` in one process, `distributed.py` on Ray."""
