"""Measure how a representation [N, L] holds the factors [N, F] that its data were made of.

`assign` says which unit holds which factor, in nats. The metrics are objects that are called with
a representation and factors, tensors, arrays or frames of any encoder; `disentanglement` makes one
table of them all. `UDR` compares several models, and needs no factors.
"""

from pyrovae.measure.disentanglement.assign import assign
from pyrovae.measure.disentanglement.assignment import Assignment
from pyrovae.measure.disentanglement.dci import DCI
from pyrovae.measure.disentanglement.fixed_factor import BetaVAEScore, FactorVAEScore
from pyrovae.measure.disentanglement.information import mutual_information
from pyrovae.measure.disentanglement.metric import Metric, Scores
from pyrovae.measure.disentanglement.mig import MIG
from pyrovae.measure.disentanglement.modularity import Modularity
from pyrovae.measure.disentanglement.robustness import InterventionalRobustness
from pyrovae.measure.disentanglement.sap import SAP
from pyrovae.measure.disentanglement.scores import METRICS, disentanglement
from pyrovae.measure.disentanglement.udr import UDR

__all__ = [
    "DCI",
    "METRICS",
    "MIG",
    "SAP",
    "UDR",
    "Assignment",
    "BetaVAEScore",
    "FactorVAEScore",
    "InterventionalRobustness",
    "Metric",
    "Modularity",
    "Scores",
    "assign",
    "disentanglement",
    "mutual_information",
]
