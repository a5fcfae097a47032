"""Measure how a representation [N, L] holds the factors [N, F] that its data were made of.

`assign` says which unit holds which factor, in nats. The metrics are objects that are called with
a representation and factors, tensors, arrays or frames of any encoder.
"""

from pyrovae.measure.disentanglement.assign import assign
from pyrovae.measure.disentanglement.assignment import Assignment
from pyrovae.measure.disentanglement.information import mutual_information
from pyrovae.measure.disentanglement.metric import Scores
from pyrovae.measure.disentanglement.mig import MIG

__all__ = ["MIG", "Assignment", "Scores", "assign", "mutual_information"]
