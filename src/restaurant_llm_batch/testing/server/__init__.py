"""Fault server: a local HTTP server that fails on purpose, with the APIs of OpenAI, vLLM and RunPod."""

from ._answers import Responder
from ._batches import BATCH_FAULTS, BatchFault
from ._faults import FAULT_KINDS, FaultKind, FaultPlan, Faults, Latency
from ._requests import ChatRequest
from ._stats import ServerStats
from .fault_server import FaultServer

__all__ = [
    "BATCH_FAULTS",
    "FAULT_KINDS",
    "BatchFault",
    "ChatRequest",
    "FaultKind",
    "FaultPlan",
    "FaultServer",
    "Faults",
    "Latency",
    "Responder",
    "ServerStats",
]
