"""
The forms that data from outside must have: items as users write them, answers as models write them.

The one place that names pydantic, and imported where it is used: it takes as long to import as all the rest.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictInt,
    StrictStr,
    StringConstraints,
    ValidationError,
)

from ..errors import ConfigurationError, OutputInvalid
from ..models import LLMReply, RestaurantRef

Form = TypeVar("Form", bound=BaseModel)


class RestaurantForm(BaseModel):
    """A `RestaurantRef`, as users write it."""

    model_config = ConfigDict(extra="forbid")

    restaurant_id: StrictInt | Annotated[StrictStr, Field(min_length=1)]
    limit: Annotated[StrictInt, Field(ge=1, le=1000)] | None = None
    priority: StrictInt = 0
    query: StrictStr | None = None


def _nothing_for_null(value: Any) -> Any:
    return [] if value is None else value


Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class AspectForm(BaseModel):
    """One aspect, as the model answers it."""

    summary: Text
    bullets: Annotated[list[str], BeforeValidator(_nothing_for_null)] = []
    evidence: Annotated[list[Any], BeforeValidator(_nothing_for_null)] = []


class OverallForm(BaseModel):
    """The overall summary, as the model answers it."""

    overall_summary: Text


def read_restaurant(raw: Any) -> RestaurantRef:
    """
    Return the restaurant that a mapping describes.

    Raises:
        ConfigurationError: When it does not have the form; every wrong field is named.
    """
    try:
        form = RestaurantForm.model_validate(raw)
    except ValidationError as error:
        known = ", ".join(RestaurantForm.model_fields)
        raise ConfigurationError(f"{_complaints(error)} (fields: {known})") from error
    return RestaurantRef(form.restaurant_id, form.limit, form.priority, form.query)


def validated(form: type[Form], answer: Any, reply: LLMReply) -> Form:
    """
    Return a part of a model's answer in its form.

    Raises:
        OutputInvalid: When it does not have it; the first wrong field is named.
    """
    try:
        return form.model_validate(answer)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"])) or "the answer"
        message = f"the answer does not have its form: {field}: {first['msg']}"
        raise OutputInvalid(message, reply=reply) from error


def _complaints(error: ValidationError) -> str:
    said = []
    for detail in error.errors(include_url=False):
        field = detail["loc"][0]  # what follows names the alternatives of a union, not the user's fields
        said.append(f"field {field!r}: {detail['msg'].lower()}, got {detail['input']!r}")
    return "; ".join(said)
