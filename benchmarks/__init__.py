"""Benchmark of a training epoch against two baselines on the same work: `python -m benchmarks`, or
`make bench`.
"""
