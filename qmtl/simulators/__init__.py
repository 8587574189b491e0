"""Ways to evaluate a head circuit, under one contract (`Simulator`)."""

from qmtl.simulators.explain import Explanation
from qmtl.simulators.lightcone import LightConeSimulator
from qmtl.simulators.simulator import Simulator

__all__ = ["Explanation", "LightConeSimulator", "Simulator", "simulator_for"]


def simulator_for(name: "str | Simulator") -> Simulator:
    """A simulator by name: ``"lightcone"``, or the name of any PennyLane device.

    Example:
        >>> simulator_for("lightcone")
        LightConeSimulator(max_memory=None, engine='compiled')
    """
    if not isinstance(name, str):
        return name
    if name == "lightcone":
        return LightConeSimulator()
    from qmtl.simulators.pennylane import PennyLaneSimulator

    return PennyLaneSimulator(name)
