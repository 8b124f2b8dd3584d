"""Whether what was passed as an embedder is one."""

from __future__ import annotations

from ..errors import ConfigurationError

_MEMBERS = ("name", "size", "embed_documents", "embed_query")


def check_embedder(embedder: object) -> None:
    """
    Check that something is an `Embedder`, without asking it anything.

    Raises:
        ConfigurationError: It is none; says what to write instead.
    """
    if isinstance(embedder, type):
        raise ConfigurationError(
            f"embedder must be an object, got the class {embedder.__name__}; write embedder={embedder.__name__}(...)"
        )
    if isinstance(embedder, str):
        raise ConfigurationError(
            f"embedder must be an object, got the name {embedder!r}; write embedder=FastEmbedder({embedder!r}), or "
            f"embedder=EmbeddingsAPI(url, {embedder!r}) where a service has it, or leave it out for HashingEmbedder()"
        )
    # Not getattr first: a property may load a model, or ask a service.
    missing = [name for name in _MEMBERS if name not in dir(embedder) and not hasattr(embedder, name)]
    if missing:
        raise ConfigurationError(
            f"embedder must have {', '.join(_MEMBERS)}, but {type(embedder).__name__} has no {', '.join(missing)}; "
            "write embedder=HashingEmbedder(), or leave it out"
        )
