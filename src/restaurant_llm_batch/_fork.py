"""
Forks: how many there were between the process that imported this library and this one.

A forked child inherits locks that a thread of its parent may hold, and connections that its parent goes on using. What
must not be shared remembers `count`, and starts afresh if it has changed. `os.getpid` would be a system call each time.
"""

from __future__ import annotations

import os

count = 0
"""Number of forks; 0 in the process that imported the library."""


def _forked() -> None:
    global count  # noqa: PLW0603
    count += 1


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_forked)
