"""One limit for all processes that use a service: `SharedLimiter`, and the brokers at which it is kept."""

from __future__ import annotations

from ._broker import Broker
from ._messages import BrokerUnavailable, LimitView, MemberView, Terms
from .file import FileBroker
from .limiter import SharedLimiter
from .ray import RayBroker
from .redis import RedisBroker

__all__ = [
    "Broker",
    "BrokerUnavailable",
    "FileBroker",
    "LimitView",
    "MemberView",
    "RayBroker",
    "RedisBroker",
    "SharedLimiter",
    "Terms",
]
