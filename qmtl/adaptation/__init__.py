"""New tasks for a trained model: linear layers, spectral transfer, a block, or a vector."""

from qmtl.adaptation._adapt import METHODS as METHODS
from qmtl.adaptation._adapt import Adapted as Adapted
from qmtl.adaptation._adapt import adapted as adapted
from qmtl.adaptation._adapt import adapted_head as adapted_head
