"""Comparison of runs, ablations, and tests of significance."""
