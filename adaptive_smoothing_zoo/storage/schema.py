"""Records: dataclasses that pydantic reads from JSON values strictly, and describes by a JSON schema."""

import dataclasses
import json
import re
from functools import cache, wraps
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from adaptive_smoothing_zoo.errors import ConfigError, reason, shown

T = TypeVar("T")

BY_KIND = Field(discriminator="kind")  # Annotated[A | B, BY_KIND]: dataclasses that their field ``kind`` tells apart

_TOLD = 5  # problems of a file that a message names
_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def read_json(path: Path) -> Any:
    """What a JSON file (UTF-8, with or without a byte order mark) holds.

    Raises:
        FileNotFoundError: there is no such file.
        ConfigError: it cannot be read or is no JSON. NaN, infinities and halves of characters, which Python would
            read, are refused: they could not be written again.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
        json.dumps(data, ensure_ascii=False, allow_nan=False).encode()
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not a JSON file: {reason(error)}") from error
    return data


def parse(cls: type[T], data: Any, where: str) -> T:
    """The dataclass ``cls`` from a JSON object.

    Args:
        data: what ``read_json`` gave.
        where: the file's name, for messages.

    Raises:
        ConfigError: unknown or missing keys, values of the wrong type or out of range, floats that are not finite, or
            what the dataclass itself refuses; the message names each place.
    """
    try:
        found: list[T] = _adapter(cls).validate_json(json.dumps([data]))  # type: ignore[arg-type]
    except ValidationError as error:
        raise ConfigError(f"{where}: {'; '.join(_problems(error, data)[:_TOLD])}") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: {reason(error)}") from error
    return found[0]


def checked(cls: type[T]) -> type[T]:
    """A dataclass whose constructor refuses what ``parse`` would refuse in a file of it."""
    init = cls.__init__

    @wraps(init)
    def checking_init(self: Any, **values: Any) -> None:
        init(self, **values)
        parse(cls, to_json(self), cls.__name__)

    cls.__init__ = checking_init  # type: ignore[method-assign]
    return cls


def json_schema(cls: type) -> dict[str, Any]:
    """The JSON schema of what ``parse`` takes."""
    schema = _adapter(cls).json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema["items"], "$defs": schema["$defs"]}


def to_json(value: Any) -> Any:
    """The inverse of ``parse``: dataclasses to dicts, tuples to lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    return value


@cache
def _adapter(cls: type) -> TypeAdapter[Any]:
    """Of a list, since pydantic passes strictness on to dataclasses that are in something else only."""
    return TypeAdapter(list[cls], config=_STRICT)  # type: ignore[valid-type]


def _problems(error: ValidationError, data: Any) -> list[str]:
    """What is wrong, in one phrase for each place in ``data``; unknown keys first, since they explain missing ones."""
    errors = sorted(error.errors(include_url=False), key=lambda each: each["type"] != "unexpected_keyword_argument")
    found = [(_place(each, data), _phrase(each)) for each in errors]
    return [f"{place}: {phrase}" if place else phrase for place, phrase in found]


def _place(found: ErrorDetails, data: Any) -> str:
    """Like ``weights.components.alpha.sources[0]``, without the kinds that pydantic says of unions."""
    place, kind, loc = "", None, found["loc"][1:]
    for part in loc[:-1] if found["type"] in ("missing", "unexpected_keyword_argument") else loc:
        if isinstance(part, int):
            place, kind, data = f"{place}[{part}]", None, data[part]
        elif not isinstance(data, dict):  # a mark of pydantic's behind a key
            break
        elif kind is None and part == data.get("kind"):
            kind = part
        elif part in data:
            place, kind, data = f"{place}.{part}".lstrip("."), None, data[part]
    return place


def _phrase(found: ErrorDetails) -> str:
    if found["type"] == "json_invalid":  # too deep, or halves of characters; it has no place
        return f"it is not valid JSON: {found['ctx']['error']}"
    value, context, key = found["input"], found.get("ctx", {}), found["loc"][-1]
    match found["type"]:
        case "missing":
            return f"missing key {key!r}" if isinstance(key, str) else f"item {key} is missing"
        case "unexpected_keyword_argument":
            return f"unknown key {shown(key)}; remove it or correct its name"
        case "union_tag_not_found":
            return "missing key 'kind', which says what this is"
        case "union_tag_invalid":
            return f"'kind' must be one of {context['expected_tags']}, got {shown(context['tag'])}"
        case "value_error":
            return str(context["error"])
    wanted = (
        "must be text in quotes"
        if found["type"] == "string_type"
        else re.sub("^(Input|String) should", "must", found["msg"])
    )
    return f"{wanted}, got {type(value).__name__ if isinstance(value, (dict, list)) else shown(value)}"
