"""Torch modules from features to each task's logits: the quantum head and its classical rivals."""

from qmtl.heads._build import HEAD_TYPES as HEAD_TYPES
from qmtl.heads._build import HEADS as HEADS
from qmtl.heads._build import HeadOptions as HeadOptions
from qmtl.heads._build import HeadSection as HeadSection
from qmtl.heads._build import HeadType as HeadType
from qmtl.heads._build import build_head as build_head
from qmtl.heads._build import head_parameters as head_parameters
from qmtl.heads._extended import AddedBlock as AddedBlock
from qmtl.heads._extended import ExtendedHead as ExtendedHead
from qmtl.heads._extended import reading_circuit as reading_circuit
from qmtl.heads._head import CircuitHead as CircuitHead
from qmtl.heads._head import Head as Head
from qmtl.heads._initial import INITIAL_STD as INITIAL_STD
from qmtl.heads._initial import block_weights as block_weights
from qmtl.heads._linear import LinearHead as LinearHead
from qmtl.heads._linear import LocalLinearHead as LocalLinearHead
from qmtl.heads._linear import cone_columns as cone_columns
from qmtl.heads._linear import register_columns as register_columns
from qmtl.heads._low_rank import LowRankLinearHead as LowRankLinearHead
from qmtl.heads._peers import SharedVQCHead as SharedVQCHead
from qmtl.heads._peers import VQCPerTaskHead as VQCPerTaskHead
from qmtl.heads._quantum import QuantumHead as QuantumHead
from qmtl.heads._task_rows import Loading as Loading
from qmtl.heads._task_rows import TaskRows as TaskRows
from qmtl.heads._task_rows import escaped as escaped
