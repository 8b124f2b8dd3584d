"""A real HTTP server that fails on purpose: OpenAI's chat API, vLLM's extras and RunPod's job API, on this machine."""

from ._answers import Writer
from ._faults import FAULT_KINDS, FaultKind, Faults, Latency, Plan
from ._requests import Asked
from ._stats import Counts
from .fault_server import FaultServer

__all__ = [
    "FAULT_KINDS",
    "Asked",
    "Counts",
    "FaultKind",
    "FaultServer",
    "Faults",
    "Latency",
    "Plan",
    "Writer",
]
