"""The structure of run.json and metrics.jsonl, checked when they are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from picie.errors import InputError, validation_message

_Count = Annotated[int, Field(ge=0, lt=2**53)]
_Number = Annotated[float, Field(ge=-1e300, le=1e300)]
_Views = Annotated[list[_Number], Field(max_length=16)]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class _Record(_Part):
    status: str | None = None
    started: str | None = None
    versions: dict[str, str] = {}
    engine: dict[str, str | int] = {}
    platform: str | None = None
    git: str | None = None
    images: _Count = 0
    skipped_images: _Count = 0
    skipped: dict[str, str] = {}
    digest: str | None = None
    labelled_epoch: _Count | None = None
    loggers: dict[str, str] = {}
    epochs: _Count = 0
    seconds: _Number = 0.0
    peak_memory_mb: _Number = 0.0


class _Line(_Part):
    __pydantic_extra__: dict[str, _Number | bool | None]

    epoch: _Count
    inertia: _Views = []
    imbalance: _Views = []
    empty: _Views = []
    over_inertia: _Views = []
    over_imbalance: _Views = []
    over_empty: _Views = []
    seconds: dict[str, _Number] = {}
    protocol: str | None = None


def parse_record(path: Path, text: str) -> dict[str, Any]:
    """Return the content of the run.json at `path`. Raises `InputError` if it is damaged."""
    return _parse(_Record, text, f"{path}: is damaged", "remove it, which loses only notes about the run")


def parse_line(path: Path, number: int, text: str) -> dict[str, Any]:
    """Return the content of line `number`, from 1, of the metrics.jsonl at `path`.

    Raises `InputError` if it is damaged.
    """
    return _parse(_Line, text, f"{path}: line {number} is damaged", "remove the line, which loses that epoch's figures")


def _parse(schema: type[BaseModel], text: str, fault: str, advice: str) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(text)
        schema.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{fault}: {validation_message(error)}; {advice}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{fault}: it is not JSON; {advice}") from error
    return content
