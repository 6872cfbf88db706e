"""Writing to the residual stream: what to do, where, on which tokens of which rows."""

from trimtab.interventions.ablate import Ablate
from trimtab.interventions.add import Add
from trimtab.interventions.clamp import Clamp
from trimtab.interventions.conditional import Conditional
from trimtab.interventions.intervention import Intervention
from trimtab.interventions.steering import Steering, steer

__all__ = ["Ablate", "Add", "Clamp", "Conditional", "Intervention", "Steering", "steer"]
