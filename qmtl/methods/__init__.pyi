from ._method import Batch as Batch
from ._method import Method as Method
from ._method import MethodSection as MethodSection
from ._method import Step as Step
from ._method import TaskLosses as TaskLosses
from ._method import using as using
from ._options import MethodOptions as MethodOptions
