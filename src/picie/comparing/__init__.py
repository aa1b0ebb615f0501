"""Runs against runs: every setting with every seed, and which differences are more than noise."""
