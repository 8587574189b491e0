"""The memory that a step may take, and the reason why a step needs too much."""

import os

import torch

from qmtl.circuit import HeadCircuit


def memory_limit(device: torch.device, max_memory: int | None) -> int:
    """Return the bytes that a step may take on `device`."""
    if max_memory is not None:
        return max_memory
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1] * 0.75)
    return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 0.75)


def cause_of_size(circuit: HeadCircuit, task: str, cone_wires: int, block_wires: int) -> str:
    """Explain in words why a task's light cone is so large, and how to reduce it."""
    encoding = circuit.encoding
    if cone_wires <= 12:
        return "The cones are small: use fewer tasks at a time, or a smaller batch."
    if block_wires >= cone_wires - 2:
        return f"The task's register has {block_wires} wires: use fewer wires."
    pattern = getattr(encoding, "entangler", None) or getattr(encoding, "pattern", None)
    layers = getattr(encoding, "n_layers", None)
    chained = getattr(encoding, "entangler", None) in ("cnot_ring", "cnot_line")
    if chained or pattern == "all_to_all":
        why = "joins every pair of wires" if pattern == "all_to_all" else "is one chain of CNOTs"
        return (
            f"The cause is the encoding's entangler {pattern!r}, which {why}; 'cz_ring' widens a "
            f"cone by 2 wires per layer only."
        )
    if pattern is not None and layers is not None:
        return (
            f"The cause is {layers} encoding layers of {pattern!r}, each of which widens the cone "
            f"by 2 wires: use fewer layers."
        )
    gate, size = circuit.light_cone(task).growth[-1]
    return f"The cone reaches {size} wires at the encoding's gate {gate}."
