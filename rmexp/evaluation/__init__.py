"""Evaluation of any scorer: held-out preferences, RewardBench 1 and 2, local suites, objectives."""
