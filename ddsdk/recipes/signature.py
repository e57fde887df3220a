"""Types in the signatures of recipes, for imports under TYPE_CHECKING: a recipe is read without torch."""

from torch import Generator as Generator
from torch import Tensor as Tensor
from torch.nn import Module as Module
from torch.optim import Optimizer as Optimizer

from ddsdk.data import RealData as RealData
from ddsdk.running import Plan as Plan
from ddsdk.students import ExpertSpan as ExpertSpan
from ddsdk.students import MakeStudent as MakeStudent
from ddsdk.students import Rated as Rated
from ddsdk.students import Rivalled as Rivalled
from ddsdk.students import TrainedRuns as TrainedRuns
from ddsdk.synthetic import SyntheticSet as SyntheticSet
from ddsdk.training import Evaluation as Evaluation
from ddsdk.training import Unroll as Unroll
