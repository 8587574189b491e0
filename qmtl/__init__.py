from qmtl.circuit import *
from qmtl.tasks import Task
