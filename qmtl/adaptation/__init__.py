"""New tasks for a trained model: closed-form heads, spectral transfer, or a block of their own."""

from qmtl.adaptation._adapt import METHODS as METHODS
from qmtl.adaptation._adapt import Adapted as Adapted
from qmtl.adaptation._adapt import adapted_head as adapted_head
from qmtl.adaptation._model import adapted_to as adapted_to
