"""Types in the signatures of recipes, imported under TYPE_CHECKING only, so that recipes load without torch."""

from torch import Generator as Generator
from torch import Tensor as Tensor
from torch.nn import Module as Module
from torch.optim import Optimizer as Optimizer

from ddsdk.data import RealData as RealData
from ddsdk.running import Plan as Plan
from ddsdk.students import ExpertSegment as ExpertSegment
from ddsdk.students import MakeStudent as MakeStudent
from ddsdk.students import ScoredStudent as ScoredStudent
from ddsdk.students import StudentWithAdversary as StudentWithAdversary
from ddsdk.students import TrainedRuns as TrainedRuns
from ddsdk.synthetic import SyntheticSet as SyntheticSet
from ddsdk.training import TrainingProtocol as TrainingProtocol
from ddsdk.training import Unroll as Unroll
