"""The peers that `scripts/bench_peers` compares: one small file each, with one interface.

A peer's file has a function ``build(problem, dtype)`` that returns a step: a function without
arguments that runs forward, mean-squared error and backward, and returns a `Result`.
"""
