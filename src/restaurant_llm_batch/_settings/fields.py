"""Fields of `BatchSettings`: for each setting its type, default, bounds and meaning, its option, and what it sets."""

from __future__ import annotations

from typing import ClassVar

from pydantic_settings import SettingsConfigDict

from .run_fields import RunFields
from .serve_fields import ServeFields
from .service_fields import ServiceFields
from .sources import ENV_FILE
from .task_fields import TaskFields


class SettingFields(ServeFields, ServiceFields, TaskFields, RunFields):
    """
    The fields, in the order in which they are shown: those of the last base first.

    Of two fields that set one argument, the later goes before.
    """

    model_config: ClassVar[SettingsConfigDict] = SettingsConfigDict(
        extra="ignore",
        frozen=True,
        env_ignore_empty=True,
        hide_input_in_errors=True,
        env_file=ENV_FILE,
        env_file_encoding="utf-8-sig",  # UTF-8 that may begin with a byte order mark
    )
