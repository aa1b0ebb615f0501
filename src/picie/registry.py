"""Every dataset, transform, loss, method and annotation format by name.

Names map to "module:attribute" strings, so that nothing is imported before it is used and every
implementation can be found by searching for its name. Code outside the package needs no entry here:
"my_package.module:Attribute" is accepted wherever a name is expected. See docs/extending.md. The
names of backbones are in `picie.models.catalogue`.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from picie.errors import InputError, nearest

DATASETS = {
    "folder": "picie.data.folder:Folder",
    "webdataset": "picie.data.shards:Shards",
    "scenes": "picie.data.scenes.dataset:Scenes",
    "cocostuff27": "picie.data.cocostuff:CocoStuff27",
    "cocostuff15": "picie.data.cocostuff:CocoStuff15",
    "cocostuff12": "picie.data.cocostuff:CocoStuff12",
    "cocostuff171": "picie.data.cocostuff:CocoStuff171",
    "cityscapes27": "picie.data.cityscapes:Cityscapes27",
    "cityscapes19": "picie.data.cityscapes:Cityscapes19",
}

METHODS = {
    "picie": "picie.methods.picie:PiCIE",
    "mdc": "picie.methods.mdc:MDC",
}

METHOD_OPTIONS = {  # options of these methods; their modules do not import torch
    "picie": None,
    "mdc": "picie.methods.options:MDCOptions",
}

LOSSES = {"cross_entropy": "picie.methods.losses:PrototypeCrossEntropy"}

INVARIANCE = {
    "brightness": "picie.views.invariance:Brightness",
    "contrast": "picie.views.invariance:Contrast",
    "saturation": "picie.views.invariance:Saturation",
    "hue": "picie.views.invariance:Hue",
    "greyscale": "picie.views.invariance:Greyscale",
    "cast": "picie.views.invariance:Cast",
    "gamma": "picie.views.invariance:Gamma",
    "blur": "picie.views.invariance:Blur",
}

EQUIVARIANCE = {
    "crop": "picie.views.equivariance:Crop",
    "hflip": "picie.views.equivariance:HorizontalFlip",
    "vflip": "picie.views.equivariance:VerticalFlip",
    "rot90": "picie.views.equivariance:QuarterTurns",
}

FORMATS = {
    "coco": "picie.conversion.coco:Coco",
    "yolo": "picie.conversion.yolo:Yolo",
    "voc": "picie.conversion.voc:Voc",
    "labelstudio": "picie.conversion.labelstudio:LabelStudio",
    "cvat": "picie.conversion.cvat:Cvat",
    "geojson": "picie.conversion.geojson:GeoJson",
    "csv": "picie.conversion.tables:Csv",
    "parquet": "picie.conversion.tables:Parquet",
}


_EVERYTHING = "*"
_trusted: set[str] = set()  # names outside the tables that may be imported


def trust(names: Iterable[str]) -> None:
    """Allow `find` to import these "module:attribute" names.

    `config.load` trusts the names in its "section.key=value" strings, because the user wrote them.
    Names in a checkpoint, a run's folder, a recipe or a configuration file are not trusted:
    importing them runs code that whoever wrote the file chose. See SECURITY.md.
    """
    _trusted.update(names)


def trust_all() -> None:
    """Allow `find` to import any name, as the option --trust does."""
    _trusted.add(_EVERYTHING)


def trusts_code() -> bool:
    """Whether any name outside the tables is trusted."""
    return bool(_trusted)


@contextlib.contextmanager
def trust_scope() -> Iterator[None]:
    """Start a context with nothing trusted; restore the trusted names when it ends."""
    before = set(_trusted)
    _trusted.clear()
    try:
        yield
    finally:
        _trusted.clear()
        _trusted.update(before)


def _registered() -> set[str]:
    """The "module:attribute" names in the tables."""
    tables = (DATASETS, METHODS, LOSSES, INVARIANCE, EQUIVARIANCE, FORMATS)
    return {target for table in tables for target in table.values()}


def find(table: dict[str, str], name: str, where: str, trusted: bool = False) -> Any:
    """Return the object with this name: a key of `table`, or a trusted "module:attribute".

    Args:
        table: one of this module's tables.
        name: the requested name.
        where: the option that holds the name, for the error message.
        trusted: whether the user wrote the name, so that this call may import it.

    Raises:
        InputError: the name is unknown, is outside the package and not trusted (nothing is
            imported), its module cannot be imported, or the module has no such attribute.
    """
    target = table.get(name, name)
    module_name, colon, attribute = target.partition(":")
    if not colon:
        raise InputError(f"{where}: unknown name {name!r}; {nearest(name, table)}")
    if not trusted and name not in table and name not in _registered() and not _trusted & {name, _EVERYTHING}:
        raise InputError(
            f"{where}: {name!r} is not part of picie: using it would import {module_name!r} and run its code. If you trust "
            "the file that names it, repeat the command with --trust"
        )
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise InputError(f"{where}: {name!r}: cannot import {module_name!r} ({error}); is it on PYTHONPATH?") from error
    if not hasattr(module, attribute):
        raise InputError(f"{where}: {name!r}: {module_name} has no {attribute!r}; {nearest(attribute, dir(module))}")
    return getattr(module, attribute)


def call(make: Any, where: str, options: Mapping[str, Any], *arguments: Any) -> Any:
    """Call `make(*arguments, **options)`.

    Raises `InputError`, which names the option `where`, if an argument does not fit.
    """
    try:
        inspect.signature(make).bind(*arguments, **options)
    except TypeError as error:
        raise InputError(f"{where}: {getattr(make, '__name__', make)}: {error}; see its signature") from error
    return make(*arguments, **options)
