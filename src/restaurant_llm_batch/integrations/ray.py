"""Ray: the broker that keeps shared limits in a Ray actor."""

from __future__ import annotations

from ..sharing.ray import RayBroker

__all__ = ["RayBroker"]
