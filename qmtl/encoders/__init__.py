"""Classical encoders: torch modules from inputs to features."""

from qmtl.encoders._adapted_text import AdaptedText as AdaptedText
from qmtl.encoders._adapted_text import AdapterOptions as AdapterOptions
from qmtl.encoders._cnn import CNN as CNN
from qmtl.encoders._encoder import AnyEncoderSection as AnyEncoderSection
from qmtl.encoders._encoder import EncoderInputs as EncoderInputs
from qmtl.encoders._encoder import EncoderSection as EncoderSection
from qmtl.encoders._encoder import TaskEncoder as TaskEncoder
from qmtl.encoders._encoder import check_tasks_of as check_tasks_of
from qmtl.encoders._encoder import known_encoders
from qmtl.encoders._experts import Experts as Experts
from qmtl.encoders._fourier import FourierFeatures as FourierFeatures
from qmtl.encoders._fusion import Fusion as Fusion
from qmtl.encoders._gates import FeatureGate as FeatureGate
from qmtl.encoders._gates import SelectGate as SelectGate
from qmtl.encoders._gates import SoftmaxGate as SoftmaxGate
from qmtl.encoders._image import ImageBackbone as ImageBackbone
from qmtl.encoders._mlp import MLP as MLP
from qmtl.encoders._mlp import Identity as Identity
from qmtl.encoders._mlp import MLPSection as MLPSection
from qmtl.encoders._text import TextEmbedding as TextEmbedding
from qmtl.encoders._text import TextTokens as TextTokens

ENCODERS = known_encoders()
"""The encoders by the name that saved models know them by."""
