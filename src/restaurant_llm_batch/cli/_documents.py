"""Documents to read words in: text files, or the reviews of each restaurant of a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigurationError
from ..models import ItemId
from ._grouping import read_grouped
from ._reading import FileError
from ._sources import Known

_TEXTS = (".txt", ".md")


@dataclass(frozen=True, kw_only=True)
class Documents(Known):
    """
    Texts by name.

    Attributes:
        texts: The texts by id as a string.
    """

    texts: Mapping[str, str]
    what: str = "document"


def read_documents(paths: Sequence[Path]) -> Documents:
    """
    Read text files, each a document; or a file of reviews, whose restaurants each are one.

    Args:
        paths: Text files, or one file of reviews; none for the sample.

    Raises:
        ConfigurationError: They cannot be used.
    """
    texts = [path for path in paths if path.suffix.lower() in _TEXTS]
    if texts and len(texts) == len(paths):
        return _from_texts(dict.fromkeys(texts))
    if len(paths) > 1:
        raise ConfigurationError(
            f"name text files ({', '.join(_TEXTS)}), as many as you like, or one file of reviews; "
            f"{str(next(path for path in paths if path not in texts))!r} is no text file"
        )
    known = read_grouped(paths[0] if paths else None)
    # A review that ends without a full stop must not run into the next.
    joined = {str(one): "\n".join(review.content for review in known.of(one)) for one in known.ids}
    return Documents(label=known.label, ids=known.ids, names=known.names, texts=joined)


def _from_texts(paths: Mapping[Path, None]) -> Documents:
    texts = {str(path): _read(path) for path in paths}
    ids: list[ItemId] = [*texts]
    return Documents(label="the files" if len(ids) > 1 else "the file", ids=ids, texts=texts)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileError(f"{str(path)!r}: not UTF-8 text ({error.reason}); save the file as UTF-8") from error
    except OSError as error:
        raise FileError(f"cannot read {str(path)!r}: {error.strerror}") from error
