"""Benchmarks that a user can run on their own machine or cluster. Each returns its figures as a dictionary."""
