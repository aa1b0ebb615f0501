"""The configuration of a run: frozen, typed and complete.

Sections are split by consequence. `[run]` holds what must not change results (device, workers, cache); everything else may.
A configuration is read in layers, each over the one before: the defaults below (preset `default`), a preset, a TOML
file, the command line's `section.key=value`. An unknown key is an error that names the nearest valid one.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from picie.errors import InputError, nearest

PositiveInt = Annotated[int, Field(ge=1, strict=True)]
NaturalInt = Annotated[int, Field(ge=0, strict=True)]
TransformSpec = dict[str, Any]  # {"name": "blur", "p": 0.5, ...}


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DataConfig(_Section):
    """Which images."""

    name: str = Field("folder", description="dataset: a name from `picie list datasets` or my_module:MyDataset")
    root: str | None = Field(None, description="the dataset's folder")
    train_split: str = Field("train", description="split that is trained on, where the dataset has splits")
    on_bad_image: Literal["skip", "error"] = Field(
        "skip", description="an image that cannot be read: skip it with a warning, or stop"
    )


class ViewsConfig(_Section):
    """The two views: their size and their transforms."""

    size: PositiveInt = Field(160, description="short side of a view in pixels")
    crop: PositiveInt | None = Field(
        None, description="short side of the frame that the views are taken from; twice `size` if not given"
    )
    aspect: Annotated[float, Field(ge=0.125, le=8)] = Field(
        1.0, description="width of frame and views over their height: 1 a centre square, 2 whole Cityscapes images"
    )
    invariance: tuple[TransformSpec, ...] = Field(
        (
            {"name": "brightness", "strength": 0.3, "p": 0.8},
            {"name": "contrast", "strength": 0.3, "p": 0.8},
            {"name": "saturation", "strength": 0.3, "p": 0.8},
            {"name": "hue", "strength": 0.1, "p": 0.8},
            {"name": "greyscale", "p": 0.2},
            {"name": "blur", "sigma": [0.1, 2.0], "p": 0.5},
        ),
        description="photometric transforms, in order",
    )
    equivariance: tuple[TransformSpec, ...] = Field(
        ({"name": "crop", "scale": [0.5, 1.0]}, {"name": "hflip", "p": 0.5}),
        description="geometric transforms, in order",
    )

    @field_validator("invariance", "equivariance", mode="before")
    @classmethod
    def _accept_names(cls, value: Any) -> Any:
        """Take "brightness,blur", ["brightness"] and [{name = "blur", p = 1.0}] alike."""
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",") if part.strip()]
        if not isinstance(value, list | tuple):
            return value
        specs = [{"name": item} if isinstance(item, str) else item for item in value]
        for spec in specs:
            if not (isinstance(spec, Mapping) and isinstance(spec.get("name"), str)):
                raise ValueError(f"{spec!r} is no transform; write a name or {{name = ..., parameter = ...}}")
        return tuple(dict(spec) for spec in specs)

    @property
    def frame(self) -> int:
        """Short side of the frame in pixels."""
        return self.crop or 2 * self.size

    @property
    def frame_size(self) -> tuple[int, int]:
        """(H, W) of the frame in pixels."""
        return self._shaped(self.frame)

    @property
    def view_size(self) -> tuple[int, int]:
        """(H, W) of a view in pixels."""
        return self._shaped(self.size)

    def _shaped(self, short: int) -> tuple[int, int]:
        return round(short * max(1, 1 / self.aspect)), round(short * max(1, self.aspect))


class ModelConfig(_Section):
    """The network f: backbone and FPN."""

    backbone: str = Field("tf_efficientnet_lite0", description="a timm model or my_module:MyBackbone")
    pretrained: bool = Field(True, description="start from ImageNet weights")
    weights: str | None = Field(None, description="local backbone weights, .pth or .safetensors; none: the model's own")
    dim: PositiveInt = Field(128, description="feature dimension D")
    laterals: Literal["pca", "random"] = Field(
        "pca", description="start of the FPN's laterals: a label-free PCA of the backbone's levels, or random"
    )
    freeze: bool = Field(False, description="train the FPN alone and leave the backbone as it is")


class ClusterConfig(_Section):
    """K-means over pixel features."""

    k: Annotated[int, Field(ge=2, le=65535, strict=True)] = Field(27, description="number of clusters K")
    over_k: Annotated[int, Field(ge=0, le=65535, strict=True)] = Field(
        0, description="clusters of an auxiliary over-clustering head (PiCIE+H; the paper: 100); 0: none"
    )
    metric: Literal["spherical", "euclidean", "mixed"] = Field(
        "spherical",
        description="unit-norm centroids; plain centroids; or plain centroids for labels, bare dot products for logits",
    )
    batch_size: PositiveInt = Field(16, description="images per k-means update")
    init_batches: PositiveInt = Field(20, description="batches that the start is sampled from")
    init_points: PositiveInt = Field(2**17, description="most feature vectors held for the start")
    lloyd_steps: PositiveInt = Field(
        20, description="most Lloyd iterations of the start; of a large sample, on a part of it, and a tenth as many on all"
    )
    batchnorm: Literal["eval", "train"] = Field(
        "eval", description="BatchNorm while clustering; labels are always made in eval mode"
    )
    warm_start: bool = Field(False, description="start from the last epoch's centroids instead of k-means++")
    refit: NaturalInt = Field(
        8, description="for prediction, cluster whole unaltered images, best of so many starts; 0: view 1's centroids"
    )
    reseed: bool = Field(True, description="move empty clusters to the worst represented points")

    @field_validator("over_k")
    @classmethod
    def _not_one(cls, value: int) -> int:
        if value == 1:
            raise ValueError("one cluster tells nothing apart; 0 for no such head, or 2 and more")
        return value

    @property
    def kmeans_metric(self) -> Literal["spherical", "euclidean"]:
        """What k-means works with: "mixed" clusters as euclidean does, and differs in the logits alone."""
        return "spherical" if self.metric == "spherical" else "euclidean"

    @property
    def heads(self) -> dict[str, int]:
        """Number of clusters of each head, by the prefix of its names: "" is what predicts, "over_" is for training alone."""
        return {"": self.k} | ({"over_": self.over_k} if self.over_k else {})


class LossConfig(_Section):
    """The training loss."""

    temperature: Annotated[float, Field(gt=0)] = Field(0.3, description="logits are divided by it")
    class_weights: Literal["none", "inverse", "sqrt_inverse", "frequency"] = Field(
        "none", description="weight of each cluster in the cross-entropy, from its share of the pixels"
    )
    within: Annotated[float, Field(ge=0)] = Field(1.0, description="weight of the within-view loss")
    cross: Annotated[float, Field(ge=0)] = Field(1.0, description="weight of the cross-view loss")
    mse: bool = Field(False, description="average the loss with the mean squared distance of the two views")


class MDCConfig(_Section):
    """What only the baseline MDC has."""

    classifier: Literal["linear", "centroids"] = Field(
        "linear", description="a trained 1x1 classifier, new each epoch, or the frozen centroids"
    )
    lr: Annotated[float, Field(gt=0)] = Field(1e-2, description="the classifier's learning rate")


class TrainConfig(_Section):
    """Optimisation."""

    epochs: NaturalInt = Field(10, description="epochs; 0 clusters the network as it starts")
    batch_size: PositiveInt = Field(16, description="images per step")
    lr: Annotated[float, Field(gt=0)] = Field(2e-4, description="Adam's learning rate, at the start")
    schedule: Literal["cosine", "constant"] = Field("cosine", description="the learning rate over the run's epochs")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="bf16 autocast where the hardware gains by it, or one of the two"
    )


class EvaluateConfig(_Section):
    """How a run is scored and how pictures are brought to size."""

    split: str = Field("val", description="split that is scored while training, if it has labels")
    every: NaturalInt = Field(1, description="score every so many epochs; 0 only at the end")
    size: PositiveInt | None = Field(None, description="short side for scoring and prediction; `views.size` if not given")
    crop: bool = Field(True, description="score the centre square; otherwise the whole image")
    matching: Literal["one-to-one", "one-to-one-iou", "many-to-one"] = Field(
        "one-to-one", description="how clusters get classes: Hungarian on pixels or on IoU, or by majority"
    )


class RunConfig(_Section):
    """What must not change results."""

    device: str = Field("auto", description="auto, cpu, cuda, cuda:N or mps")
    workers: NaturalInt | None = Field(None, description="decoding threads; by the cores if not given")
    cache_gb: Annotated[float, Field(ge=0)] = Field(8.0, description="most disk for decoded frames, in the run's folder")
    keep_gb: Annotated[float, Field(ge=0)] = Field(
        1.0,
        description="most memory, on the device, for what clustering makes of the views and the epoch's later passes need, too",
    )
    progress: bool = Field(True, description="progress bars, on a terminal")
    report: bool = Field(True, description="write report.html into the run's folder at its end")
    loggers: tuple[Literal["tensorboard", "wandb"], ...] = Field(
        (), description="where the lines of metrics.jsonl go, too: tensorboard, wandb"
    )

    @field_validator("loggers", mode="before")
    @classmethod
    def _accept_names(cls, value: Any) -> Any:
        """Take "tensorboard,wandb" and ["tensorboard"] alike."""
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


class Config(_Section):
    """The whole configuration of a run."""

    method: str = Field("picie", description="picie, mdc or my_module:MyMethod")
    seed: Annotated[int, Field(ge=0, lt=2**32, strict=True)] = Field(0, description="seed of every random number")
    data: DataConfig = DataConfig()
    views: ViewsConfig = ViewsConfig()
    model: ModelConfig = ModelConfig()
    cluster: ClusterConfig = ClusterConfig()
    loss: LossConfig = LossConfig()
    mdc: MDCConfig = MDCConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    run: RunConfig = RunConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        if self.views.frame < self.views.size:
            raise ValueError(
                f"views.crop = {self.views.crop} is smaller than views.size = {self.views.size}; views are cut from the crop"
            )
        if self.model.weights is not None and not self.model.pretrained:
            raise ValueError("model.weights is given but model.pretrained = false; leave one of them out")
        return self

    @property
    def evaluate_size(self) -> int:
        """Short side, in pixels, of images that are scored or predicted."""
        return self.evaluate.size or self.views.size


def preset_names() -> list[str]:
    """Names that `--preset` takes."""
    return sorted(p.name.removesuffix(".toml") for p in _presets().iterdir() if p.name.endswith(".toml"))


def preset_text(name: str) -> str:
    """The TOML text of a preset, its opening comment included."""
    text: str = _presets().joinpath(f"{name}.toml").read_text("utf-8")
    return text


def _presets() -> Any:
    return resources.files("picie").joinpath("presets")


def load(preset: str | None = None, file: Path | None = None, overrides: Sequence[str | Mapping[str, Any]] = ()) -> Config:
    """The configuration of the given layers, lowest first.

    Args:
        preset: a name from `preset_names()`; none is `default`.
        file: a TOML file with any of the sections.
        overrides: "section.key=value" strings; values in TOML's syntax, where bare words are strings. Or nested dictionaries.

    Raises:
        InputError: an unknown preset or key, a file that is no TOML, or a value out of range.
    """
    values: dict[str, Any] = {}
    if preset is not None:
        if preset not in preset_names():
            raise InputError(f"--preset: unknown preset {preset!r}; {nearest(preset, preset_names())}")
        _merge(values, _preset_values(preset))
    if file is not None:
        _merge(values, read_toml(file))
    for override in overrides:
        _merge(values, _parse_override(override) if isinstance(override, str) else override)
    return from_dict(values)


def _preset_values(name: str) -> dict[str, Any]:
    """A preset's settings, laid over those of the preset that its key `base` names."""
    own = tomllib.loads(preset_text(name))
    base = own.pop("base", None)
    values = {} if base is None else _preset_values(base)
    _merge(values, own)
    return values


def read_toml(file: Path) -> dict[str, Any]:
    """The content of a TOML file. Raises `InputError` where there is none or it is malformed."""
    try:
        content: dict[str, Any] = tomllib.loads(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputError(f"{file}: cannot be read: {reason}; give a TOML file") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{file}: not valid TOML: {error}") from error
    return content


def from_dict(values: Mapping[str, Any]) -> Config:
    """Validate a nested dictionary. Raises `InputError` for unknown keys and values that do not fit."""
    _check_keys(values, Config, "")
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise InputError(_first_error(error)) from error


def to_toml(config: Config) -> str:
    """The complete configuration as TOML that `load(file=...)` takes."""
    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))


def with_overrides(config: Config, overrides: Sequence[str]) -> Config:
    """`config` with "section.key=value" strings applied. Raises `InputError` as `load` does."""
    values = config.model_dump(mode="json")
    for override in overrides:
        _merge(values, _parse_override(override))
    return from_dict(values)


_UNSET = object()  # the value of "key=": what lower layers say is dropped, and the default holds


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
        raise InputError(f"{text!r} is no option; write section.key=value, e.g. train.lr=1e-4")
    try:
        parsed: Any = tomllib.loads(f"value = {value}")["value"] if value.strip() else _UNSET
    except tomllib.TOMLDecodeError:
        parsed = value
    first, *rest = key.strip().split(".")
    for part in reversed(rest):
        parsed = {part: parsed}
    _check_keys({first: parsed}, Config, "")  # here, for an unknown key that is unset leaves no trace
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
    """The nearest key of this section, or the same key where another section has it."""
    for name, field in Config.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel) and key in section.model_fields:
            return f"did you mean '{name}.{key}'?"
    return nearest(prefix + key, [prefix + name for name in model.model_fields])


def _first_error(error: ValidationError) -> str:
    """One line from pydantic's report: the option, what is wrong, and the value given."""
    first = error.errors()[0]
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input ").replace("should be", "must be")
    where = ".".join(str(part) for part in first["loc"])
    if not where:
        return message
    given = first["input"]
    return f"{where} = {given!r}: {message[0].lower() + message[1:]}"
