"""Analysis: benchmarks of heads, parameter scaling, trainability, and their plots."""
