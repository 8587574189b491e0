"""The peers that `scripts/bench_peers` compares: one small file each, behind one contract.

A peer's file has a function ``build(problem, dtype)`` that returns a step: a function without
arguments that runs forward, mean-squared error and backward, and returns what `Result` names.
"""
