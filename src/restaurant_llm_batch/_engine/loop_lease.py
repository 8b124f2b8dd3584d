"""Loop lease: a share in a runner's resources for the running event loop."""

from __future__ import annotations

from anyio import CancelScope, to_thread
from anyio.lowlevel import EventLoopToken, current_token

from .resources import Lease, RunnerResources
from .threads import DaemonThreadPool


class LoopLease:
    """A share in a runner's resources for the running event loop, as `Lease` is one for a blocking caller."""

    def __init__(self, resources: RunnerResources, *, is_context: bool = False) -> None:
        self._resources = resources
        self._lease = Lease(resources, is_context=is_context)
        self._token: EventLoopToken | None = None  # while the lease is counted among those on the loop
        self._closes_loop = False  # whether it was the last one there

    def acquire(self) -> DaemonThreadPool:
        """Take the lease, and return the worker threads."""
        self._lease.acquire()
        token, loops = current_token(), self._resources.loops
        self._token, loops[token] = token, loops[token] + 1
        return self._lease.threads

    async def release(self) -> None:
        """End the lease. Releasing it again does what is left to do."""
        resources, lease, loops = self._resources, self._lease, self._resources.loops
        token = self._token
        if token is not None:
            self._closes_loop, self._token, loops[token] = loops[token] <= 1, None, loops[token] - 1
        with CancelScope(shield=True):
            try:
                if self._closes_loop:
                    for unused in [loop for loop, leases in loops.items() if leases < 1]:
                        del loops[unused]
                    await resources.close_on_loop()
                    self._closes_loop = False
            finally:  # asyncio's native cancellation ignores the shield
                if lease.is_counted:
                    resources.leave_threads(lease)
            if lease.closes_backends and resources.has_close:
                await to_thread.run_sync(resources.close_backends)
            lease.closes_backends = False
