"""Engines that advance all seeds of an experiment together: `simulate(setting, seeds, steps, report)`.

What a seed gives does not depend on the seeds beside it, bit for bit.
"""
