"""Reads a configuration in layers; each layer overrides those before it.

The layers are the defaults (preset `default`), a preset, a TOML file, and "section.key=value" of
the command line. An unknown key is an error that names the nearest valid one.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import BaseModel, ValidationError

from picie import registry
from picie.config.methods import all_sections, config_class
from picie.config.sections import Config
from picie.errors import InputError, nearest, validation_message

Layer = str | Mapping[str, Any]
"""A "section.key=value" string, or a nested dictionary of options."""


def preset_names() -> list[str]:
    """Names that `--preset` takes."""
    return sorted(p.name.removesuffix(".toml") for p in _presets().iterdir() if p.name.endswith(".toml"))


def preset_text(name: str) -> str:
    """Return the TOML text of a preset, including its opening comment."""
    text: str = _presets().joinpath(f"{name}.toml").read_text("utf-8")
    return text


def _presets() -> Any:
    return resources.files("picie").joinpath("presets")


def load(preset: str | None = None, file: Path | None = None, overrides: Sequence[Layer] = ()) -> Config:
    """Load the configuration from the given layers, lowest first.

    Args:
        preset: a name from `preset_names()`; None uses `default`.
        file: a TOML file with any of the sections.
        overrides: "section.key=value" strings, with values in TOML's syntax or bare words as
            strings; or nested dictionaries. The names of code ("module:attribute") in the strings
            are trusted, see `picie.registry.trust`.

    Raises:
        InputError: a preset or key is unknown, the file is not TOML, or a value is out of range.
    """
    values: dict[str, Any] = {}
    if preset is not None:
        if preset not in preset_names():
            raise InputError(f"--preset: unknown preset {preset!r}; {nearest(preset, preset_names())}")
        _merge(values, _preset_values(preset))
    if file is not None:
        _merge(values, read_toml(file))
    for override in overrides:
        if isinstance(override, str):
            registry.trust(code_names(_parse_override(override)))
        _merge(values, _parse_override(override) if isinstance(override, str) else override)
    for override in overrides:  # an unknown key that is unset ("key=") leaves no trace in `values`
        if isinstance(override, str):
            _check_keys(_parse_override(override), _class_of(values), "")
    return from_dict(values)


def _preset_values(name: str) -> dict[str, Any]:
    """Return a preset's settings, merged over those of its preset `base`."""
    own = tomllib.loads(preset_text(name))
    base = own.pop("base", None)
    values = {} if base is None else _preset_values(base)
    _merge(values, own)
    return values


def read_toml(file: Path) -> dict[str, Any]:
    """Return the content of a TOML file. Raises `InputError` if it is missing or malformed."""
    try:
        content: dict[str, Any] = tomllib.loads(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputError(f"{file}: cannot be read: {reason}; give a TOML file") from error
    except (ValueError, RecursionError) as error:  # ValueError: also an integer of thousands of digits
        raise InputError(f"{file}: not valid TOML: {error}") from error
    return content


def from_dict(values: Mapping[str, Any]) -> Config:
    """Validate a nested dictionary.

    Raises `InputError` for unknown keys and invalid values.
    """
    cls = _class_of(values)
    _check_keys(values, cls, "")
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        raise InputError(validation_message(error)) from error


def to_toml(config: Config, only_set: bool = False) -> str:
    """Return the configuration as TOML that `load(file=...)` accepts.

    Args:
        config: the configuration.
        only_set: leave out options that were not set, so that the backbone's defaults apply.
    """
    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True, exclude_unset=only_set))


def with_overrides(config: Config, overrides: Sequence[str]) -> Config:
    """Apply "section.key=value" strings to `config`. Raises `InputError` as `load` does."""
    values = config.model_dump(mode="json")
    for override in overrides:
        _merge(values, _parse_override(override))
        _check_keys(_parse_override(override), _class_of(values), "")
    return from_dict(values)


def _class_of(values: Mapping[str, Any]) -> type[Config]:
    """Return the configuration's class for the method that `values` name."""
    method = values.get("method", Config.model_fields["method"].default)
    return config_class(method) if isinstance(method, str) else Config


def code_names(value: Any) -> Iterator[str]:
    """Yield every "module:attribute" in the value of an option.

    Lists of transforms may be written with commas.
    """
    if isinstance(value, str):
        yield from (part.strip() for part in value.split(",") if ":" in part)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from code_names(item)
    elif isinstance(value, list):
        for item in value:
            yield from code_names(item)


# The value of "key=": drops the value of lower layers, so that the default applies.
_UNSET = object()


def _merge(into: dict[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if value is _UNSET:
            into.pop(key, None)
        elif isinstance(value, Mapping):
            if not isinstance(into.get(key), dict):
                into[key] = {}
            _merge(into[key], value)
        else:
            into[key] = value


def _parse_override(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise InputError(
            f"{text!r} is not an option; write section.key=value, e.g. train.lr=1e-4 (put several folders of images into one)"
        )
    try:
        parsed: Any = tomllib.loads(f"value = {value}")["value"] if value.strip() else _UNSET
    except (ValueError, RecursionError):
        parsed = value
    first, *rest = key.strip().split(".")
    for part in reversed(rest):
        parsed = {part: parsed}
    return {first: parsed}


def _check_keys(values: Mapping[str, Any], model: type[BaseModel], prefix: str) -> None:
    for key, value in values.items():
        if key not in model.model_fields:
            raise InputError(f"unknown key {prefix + key!r}; {_nearest_key(key, model, prefix)}")
        section = model.model_fields[key].annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            if not isinstance(value, Mapping):
                raise InputError(f"{key} is a section; write {key}.option=value ({', '.join(section.model_fields)})")
            _check_keys(value, section, f"{key}.")


def _nearest_key(key: str, model: type[BaseModel], prefix: str) -> str:
    """Suggest the same key in another section, or the nearest key of this section."""
    for name, section in all_sections().items():
        if key in section.model_fields:
            return f"did you mean '{name}.{key}'?"
    if not prefix and key in all_sections():
        return f"it holds options of method={key} alone"
    return nearest(prefix + key, [prefix + name for name in model.model_fields])
