from invarlock import api as api
from invarlock import packer as packer
from invarlock.api import Evaluation as Evaluation
from invarlock.api import evaluate as evaluate
from invarlock.api import verify as verify

__version__: str
