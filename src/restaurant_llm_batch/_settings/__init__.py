"""`BatchSettings`: one description of every argument that the environment, a file and the command line can set."""

from .settings import BatchSettings

__all__ = ["BatchSettings"]
