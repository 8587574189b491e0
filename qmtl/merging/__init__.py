"""Merging of separately trained models, by arithmetic on their weight changes or by tuning."""

from qmtl.merging._merge import METHODS as METHODS
from qmtl.merging._merge import WITH_DATA as WITH_DATA
from qmtl.merging._merge import arithmetic as arithmetic
from qmtl.merging._merge import differences as differences
from qmtl.merging._merge import disjoint as disjoint
from qmtl.merging._merge import merge as merge
from qmtl.merging._merge import projective as projective
from qmtl.merging._merge import wrapped as wrapped
