"""The forms of a document, as users write it, and of its words and phrases, as models write them."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    StrictInt,
    StrictStr,
    StringConstraints,
    ValidationError,
)

from .._llm_response import LLMReply
from ..errors import OutputInvalid
from ..models import Document
from ..results import Word
from ._parsing import read_object
from ._prompts.vocabulary import PARTS_OF_SPEECH
from ._schemas import Id, as_list, read_item

_LONGEST_ENTRY = 200

Entry = TypeVar("Entry", bound=BaseModel)
Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=_LONGEST_ENTRY)]


class DocumentForm(BaseModel):
    """A `Document`, as users write it."""

    model_config = ConfigDict(extra="forbid")

    document_id: Id
    chunks: Annotated[list[StrictStr], BeforeValidator(as_list)]
    priority: StrictInt = 0


def _part_of_speech(value: Any) -> str:
    said = value.strip().lower() if isinstance(value, str) else ""
    return said if said in PARTS_OF_SPEECH else ""


def _texts_of(value: Any) -> Any:
    if isinstance(value, list):
        return [text for text in value if isinstance(text, str) and text.strip()]
    return [] if value is None else value


def _text_for_null(value: Any) -> Any:
    return "" if value is None else value


class WordForm(BaseModel):
    """A word, as the model writes it."""

    word: Name
    pos: Annotated[str, BeforeValidator(_part_of_speech)] = ""
    meanings: Annotated[list[str], BeforeValidator(_texts_of)] = []


class PhraseForm(BaseModel):
    """A phrase, as the model writes it."""

    phrase: Name
    meaning: Annotated[str, BeforeValidator(_text_for_null)] = ""


def read_document(raw: Any) -> Document:
    """
    Return the document that a mapping describes.

    Raises:
        ConfigurationError: When it does not have the form; every wrong field is named.
    """
    form = read_item(DocumentForm, raw)
    return Document(form.document_id, tuple(form.chunks), form.priority)


def read_words(reply: LLMReply) -> list[tuple[str, Word]]:
    """
    Return the words of an answer, as it lists them.

    Raises:
        OutputError: When it has no list of words.
    """
    return [(form.word, Word(form.pos, tuple(form.meanings))) for form in _entries("words", WordForm, reply)]


def read_phrases(reply: LLMReply) -> list[tuple[str, str]]:
    """
    Return the phrases of an answer and their meanings, as it lists them.

    Raises:
        OutputError: When it has no list of phrases.
    """
    return [(form.phrase, form.meaning.strip()) for form in _entries("phrases", PhraseForm, reply)]


def _entries(field: str, form: type[Entry], reply: LLMReply) -> list[Entry]:
    listed = read_object(reply).get(field)
    if not isinstance(listed, list):
        raise OutputInvalid(f"the answer does not have its form: {field}: must be a list", reply=reply)
    entries = []
    for entry in listed:
        try:
            entries.append(form.model_validate(entry))
        except ValidationError:
            continue  # one bad entry is no reason to lose the others
    return entries
