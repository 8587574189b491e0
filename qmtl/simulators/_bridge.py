"""Temporary: the simulators of 0.1 under the new contract."""
import numpy as np, torch
from qmtl.simulators._contract import *
from qmtl.simulators._contract import check_weights, weights_by_name, Dependencies
class _Bridge(Simulator):
    def values(self, circuit, angles, weights, tasks=None):
        chosen = check_angles(circuit, angles, tasks)
        check_weights(circuit, weights, angles)
        found = self._by_task(circuit, angles, weights_by_name(circuit, weights), chosen)
        return torch.cat([angles.new_zeros(len(angles), 0), *(found[n] for n in chosen)], dim=1)
    def dependencies(self, circuit):
        if type(self).__name__ != "LightConeSimulator": return None
        f=set(); w=set()
        for i, name in enumerate(circuit.registers):
            for g in circuit.light_cone(name).encoding:
                if g.angle is not None:
                    f |= {(i, x) for x in g.angle.features}
                    if g.angle.weight is not None: w.add((i, g.angle.weight))
        a=np.array(sorted(f), np.int64).reshape(-1,2); b=np.array(sorted(w), np.int64).reshape(-1,2)
        return Dependencies((a[:,0],a[:,1]),(b[:,0],b[:,1]))
    def to_dict(self):
        from qmtl.simulators import simulator_to_dict
        return simulator_to_dict(self)
