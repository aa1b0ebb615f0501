"""Scores: counts, matchings, confidence intervals, baselines and probes."""
