"""Target Policy Optimization (arXiv 2604.06159) and its baselines, distributed on Ray."""

__version__ = "0.1.0"
