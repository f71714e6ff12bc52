"""Samplers, scorers and the worker that joins them. Never imports the learner."""
