"""Simulators: ways to evaluate a head circuit, all with the interface `Simulator`."""

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from qmtl.errors import InvalidInputError, unknown_name
from qmtl.noise import DeviceNoise
from qmtl.simulators._contract import (
    ANGLE_MAPS,
    PROBABILITY_FLOOR,
    AngleMap,
    Dependencies,
    Simulator,
    by_task,
    check_angles,
    check_finite,
    check_weights,
    joined_weights,
    memory_limit,
    output_layout,
    to_logits,
    weights_by_name,
)
from qmtl.simulators._explain import Explanation
from qmtl.simulators._fixed import FixedCircuit
from qmtl.simulators._lightcone import LightConeSimulator
from qmtl.simulators._noisy import NoisySimulator, native_size, native_values
from qmtl.simulators._parameter_shift import ShiftPlan, shift_plan, shifted_values
from qmtl.simulators._shots import Estimate, ShotSimulator

__all__ = [
    "ANGLE_MAPS", "PROBABILITY_FLOOR", "AngleMap", "Dependencies", "Estimate", "Explanation",
    "FixedCircuit", "LightConeSimulator", "NoisySimulator", "ShiftPlan", "ShotSimulator",
    "Simulator", "by_task", "check_angles", "check_finite", "check_weights", "joined_weights",
    "memory_limit", "native_size", "native_values", "output_layout", "shift_plan",
    "shifted_values", "simulator_for", "simulator_from_dict", "to_logits", "weights_by_name",
]  # fmt: skip

# Other packages offer simulators as entry points of this group. The name of an entry point is a
# simulator's name, a prefix that ends in "_", or "*" for PennyLane's devices.
PLUGINS = "qmtl.simulators"


def simulator_for(name: "str | Simulator") -> Simulator:
    """Return a simulator by name: ``"lightcone"``, a backend, or any PennyLane device.

    Installed packages offer backends (``"aer"``, ``"fake_fez"``, ``"ibm_fez"``) as entry points of
    the group ``qmtl.simulators``. Such an entry point has a name, or a prefix that ends in ``_``,
    and a function that makes the `Simulator`. qmtl's own backends are `HardwareSimulator`.

    Example:
        >>> simulator_for("lightcone")
        LightConeSimulator(max_memory=None, engine='compiled')
    """
    if not isinstance(name, str):
        if not isinstance(name, Simulator):
            raise InvalidInputError(
                f"simulator must be a name (as 'default.qubit') or a Simulator, got {name!r}"
            )
        return name
    if name == "lightcone":
        return LightConeSimulator()
    for point in entry_points(group=PLUGINS):
        if name == point.name or (point.name.endswith("_") and name.startswith(point.name)):
            found: Simulator = point.load()(name)
            return found
    device = _on_pennylane()
    if name not in device.names():
        raise unknown_name("simulator", name, ["lightcone", *device.names()])
    simulator: Simulator = device(name)
    return simulator


def simulator_from_dict(description: Mapping[str, Any]) -> Simulator:
    """Return the simulator that `Simulator.to_dict` described."""
    settings = dict(description)
    kind = settings.pop("type")
    if kind == "lightcone":
        return LightConeSimulator(**settings)
    if kind == "noisy":
        return NoisySimulator(DeviceNoise.from_dict(settings["noise"]), settings["max_memory"])
    if kind == "shots":
        base = simulator_from_dict(settings["base"])
        # Older models were saved without this option.
        gradient = settings.get("gradient", "exact")
        return ShotSimulator(base, settings["shots"], settings["seed"], gradient)
    if kind != "pennylane":
        raise unknown_name("simulator", kind, ["lightcone", "noisy", "pennylane", "shots"])
    options = settings["options"]
    simulator: Simulator = _on_pennylane()(
        settings["device"], diff_method=settings["diff_method"], **options
    )
    return simulator


def _on_pennylane() -> Any:
    """Return the class for PennyLane's devices, imported late because that takes seconds."""
    for point in entry_points(group=PLUGINS, name="*"):
        return point.load()
    raise InvalidInputError(
        f"no entry point {PLUGINS!r} offers PennyLane's devices: install qmtl again (pip install .)"
    )
