"""Simulation: plays runs on virtual time, through the real engine, against a simulated server; and plans of runs."""

from ._simulate import simulate_together
from .latency import Latency, LogNormal, SampledLatency, SampledNumbers, TokenSpeed
from .plan import BadRow, Plan, PlannedBatches, PlannedCalls, Range
from .result import Simulation
from .sampled import SampledLengths
from .simulated_server import Overload, ServerUsage, SimulatedFault, SimulatedServer

__all__ = [
    "BadRow",
    "Latency",
    "LogNormal",
    "Overload",
    "Plan",
    "PlannedBatches",
    "PlannedCalls",
    "Range",
    "SampledLatency",
    "SampledLengths",
    "SampledNumbers",
    "ServerUsage",
    "SimulatedFault",
    "SimulatedServer",
    "Simulation",
    "TokenSpeed",
    "simulate_together",
]
