"""Simulation: plays runs on virtual time, through the real engine, against a simulated server."""

from ._simulate import simulate_together
from .latency import Latency, LogNormal, TokenSpeed
from .result import Simulation
from .sampled import SampledLengths
from .server import Overload, ServerUsage, SimulatedFault, SimulatedServer

__all__ = [
    "Latency",
    "LogNormal",
    "Overload",
    "SampledLengths",
    "ServerUsage",
    "SimulatedFault",
    "SimulatedServer",
    "Simulation",
    "TokenSpeed",
    "simulate_together",
]
