"""The machine's limits: floating-point operations and bytes per second, measured with torch."""

import statistics
import time

import torch

REPEATS = 7


def _median_seconds(function, device):
    times = []
    for _ in range(REPEATS + 2):
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


def flops_per_second(dtype, device, size=None):
    """Rate of a product of square matrices, which comes nearest to the processor's limit."""
    size = size or (1024 if device.type == "cpu" else 8192)
    a, b = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * size**3 / _median_seconds(lambda: torch.mm(a, b, out=out), device)


def bytes_per_second(dtype, device, megabytes=128):
    """Rate of a triad, a = b + 2 c, on arrays that no cache holds: two reads and a write."""
    n = int(megabytes * 1e6) // dtype.itemsize
    a, b, c = (torch.ones(n, dtype=dtype, device=device) for _ in range(3))
    seconds = _median_seconds(lambda: torch.add(b, c, alpha=2, out=a), device)
    return 3 * n * dtype.itemsize / seconds
