"""The configuration class of each method: `Config`, with a section for the method's options."""

from __future__ import annotations

import functools
from typing import Any

from pydantic import BaseModel, create_model

from picie import registry
from picie.config.sections import Config, section_name
from picie.errors import InputError


def config_class(method: str) -> type[Config]:
    """Return `Config` with the section that a method adds, or `Config` if it adds none.

    `method` is a registered name or my_module:MyMethod.

    Raises:
        InputError: the method is unknown or cannot be imported, or its section exists already.
    """
    if method in registry.METHOD_OPTIONS:
        target = registry.METHOD_OPTIONS[method]
        return Config if target is None else _with_section(method, registry.find({method: target}, method, "method"))
    method_class = registry.find(registry.METHODS, method, "method")
    options = getattr(method_class, "Options", None)
    if options is None:
        return Config
    if not (isinstance(options, type) and issubclass(options, BaseModel)):
        raise InputError(f"method={method}: its Options is not a pydantic model; write class Options(picie.config.Section)")
    return _with_section(section_name(method_class), options)


def all_sections() -> dict[str, type[BaseModel]]:
    """Return every section by name, those of the registered methods last."""
    classes: list[type[Config]] = [Config, *map(config_class, registry.METHOD_OPTIONS)]
    fields = {name: field.annotation for cls in classes for name, field in cls.model_fields.items()}
    return {name: cls for name, cls in fields.items() if isinstance(cls, type) and issubclass(cls, BaseModel)}


@functools.cache
def _with_section(name: str, options: type[BaseModel]) -> type[Config]:
    if name in Config.model_fields:
        raise InputError(f"method: its section {name!r} is one of the configuration's; give it another name")
    fields: dict[str, Any] = {name: (options, options())}
    made: type[Config] = create_model("Config", __base__=Config, __module__=__name__, **fields)
    return made
