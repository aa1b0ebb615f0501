"""The sections of a run's configuration: frozen, typed and complete.

Options are grouped by their effect: `[run]` holds those that must not change results (device,
workers, cache); all others may change them. A method adds its own section, see
`picie.config.methods`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

# Upper limits refuse values that would only exhaust the memory or never finish.
PositiveInt = Annotated[int, Field(ge=1, le=1_000_000, strict=True)]
NaturalInt = Annotated[int, Field(ge=0, le=1_000_000, strict=True)]
LARGEST = 4096  # short side in pixels of an image that the network sees
BatchSize = Annotated[int, Field(ge=1, le=4096, strict=True)]
TransformSpec = dict[str, Any]  # {"name": "blur", "p": 0.5, ...}


class Section(BaseModel):
    """Base of the sections: frozen, no unknown keys, no infinities."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DataConfig(Section):
    """The dataset."""

    name: str = Field("folder", description="dataset class: a name from `picie list datasets` or my_module:MyDataset")
    root: str | None = Field(None, description="folder of the dataset")
    train_split: str = Field("train", description="split to train on, if the dataset has splits")
    on_bad_image: Literal["skip", "error"] = Field(
        "skip", description="what to do with an unreadable image: skip it with a warning, or stop"
    )
    include: tuple[str, ...] = Field((), description="patterns of images to use, e.g. *.jpg or day/*; default: all photos")
    exclude: tuple[str, ...] = Field((), description="patterns of images to leave out, e.g. *_thumb.jpg or masks/*")
    held_out: tuple[str, ...] = Field(
        (), description="patterns of the file names to score but never to train on, e.g. 0016E5*; default: the splits decide"
    )
    label_suffix: str | None = Field(
        None, description="suffix of label files after the image's name, e.g. _mask; default: the usual suffixes"
    )
    scale: dict[str, tuple[float, float]] = Field(
        {}, description="values that become black and white, by type, e.g. scale.uint16=[0, 4095]; default: measured"
    )
    bands: tuple[PositiveInt, ...] = Field(
        (), description="three bands of TIFFs to use as red, green and blue, or one as grey, e.g. [3, 2, 1]; default: the first"
    )
    max_pixels: Annotated[int, Field(ge=1, le=2**40, strict=True)] = Field(
        500_000_000, description="images with more pixels are not read"
    )

    @field_validator("include", "exclude", "held_out", mode="before")
    @classmethod
    def _accept_patterns(cls, value: Any) -> Any:
        """Take "*.jpg,*.png" and ["*.jpg", "*.png"] alike."""
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("bands", mode="before")
    @classmethod
    def _accept_bands(cls, value: Any) -> Any:
        """Take "3,2,1" and [3, 2, 1] alike; there must be one or three."""
        if isinstance(value, str):
            value = [int(part) if part.strip().isdigit() else part for part in value.split(",")]
        if isinstance(value, list | tuple) and len(value) not in {0, 1, 3}:
            raise ValueError("must be one or three bands")
        return value

    @field_validator("scale")
    @classmethod
    def _increasing(cls, value: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
        for name, (low, high) in value.items():
            if low > high:
                raise ValueError(f"{name}: the first value must not exceed the second")
        return value


class ViewsConfig(Section):
    """Sizes and transforms of the two views."""

    size: Annotated[int, Field(ge=1, le=2048, strict=True)] = Field(
        160, description="short side of a view in pixels; default for a ViT: 28 patches"
    )
    crop: Annotated[int, Field(ge=1, le=4096, strict=True)] | None = Field(
        None, description="short side in pixels of the frame that views are cut from; default: twice `size`"
    )
    aspect: Annotated[float, Field(ge=0.125, le=8)] = Field(
        1.0, description="width / height of frame and views: 1 for a centre square, 2 for whole Cityscapes images"
    )
    invariance: tuple[TransformSpec, ...] = Field(
        (
            {"name": "brightness", "strength": 0.3, "p": 0.8},
            {"name": "contrast", "strength": 0.3, "p": 0.8},
            {"name": "saturation", "strength": 0.3, "p": 0.8},
            {"name": "hue", "strength": 0.1, "p": 0.8},
            {"name": "greyscale", "p": 0.2},
            {"name": "blur", "sigma": [0.1, 2.0], "p": 0.5, "at": 640},
        ),
        description="photometric transforms, applied in this order",
    )
    equivariance: tuple[TransformSpec, ...] = Field(
        ({"name": "crop", "scale": [0.5, 1.0]}, {"name": "hflip", "p": 0.5}),
        description="geometric transforms, applied in this order",
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
                raise ValueError(f"{spec!r} is not a transform; write a name or {{name = ..., parameter = ...}}")
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


class ModelConfig(Section):
    """The network: backbone and FPN."""

    backbone: str = Field(
        "tf_efficientnet_lite0", description="a name from `picie list backbones`, any timm model, or my_module:MyBackbone"
    )
    pretrained: bool = Field(True, description="start from pretrained weights")
    backbone_options: dict[str, Any] = Field({}, description="extra arguments of the backbone's constructor, {name = value}")
    weights: str | None = Field(
        None, description="file with backbone weights, .pth or .safetensors; default: those of the backbone's name"
    )
    weights_key: str | None = Field(None, description="key of the weights in that file, if several sets fit, e.g. teacher")
    dim: Annotated[int, Field(ge=1, le=4096, strict=True)] = Field(128, description="feature dimension D")
    laterals: Literal["pca", "random"] = Field(
        "pca", description="initial weights of the FPN's laterals: a PCA of the backbone's levels (label-free), or random"
    )
    freeze: bool | None = Field(None, description="train only the FPN, not the backbone; default: true if it is pretrained")


class ClusterConfig(Section):
    """K-means over pixel features."""

    k: Annotated[int, Field(ge=2, le=65535, strict=True)] = Field(27, description="number of clusters K")
    over_k: Annotated[int, Field(ge=0, le=65535, strict=True)] = Field(
        0, description="clusters of the auxiliary over-clustering head of PiCIE+H (100 in the paper); 0: no such head"
    )
    metric: Literal["spherical", "euclidean", "mixed"] = Field(
        "spherical",
        description="unit-norm centroids; plain centroids; or plain centroids for labels and dot products for logits",
    )
    batch_size: BatchSize = Field(16, description="images per k-means batch")
    init_batches: PositiveInt = Field(20, description="number of batches from which the initial points are sampled")
    init_points: Annotated[int, Field(ge=1, le=2**24, strict=True)] = Field(
        2**17, description="maximum number of points for the initial clustering"
    )
    lloyd_steps: Annotated[int, Field(ge=1, le=10_000, strict=True)] = Field(
        20, description="maximum Lloyd iterations of the initial clustering; with many points, a subset goes first"
    )
    batchnorm: Literal["eval", "train"] = Field(
        "eval", description="mode of BatchNorm while clustering; labels are always assigned in eval mode"
    )
    smooth: Annotated[float, Field(ge=0, le=0.5)] = Field(
        0.125, description="radius of the filter that smooths labels up to the picture's edges, relative to a view; 0: none"
    )
    warm_start: bool = Field(True, description="start each epoch's k-means from the last centroids instead of anew")
    refit: Annotated[int, Field(ge=0, le=1000, strict=True)] = Field(
        8, description="k-means starts on whole images, of which the best is used; 0: none, view 1's centroids predict"
    )
    reseed: bool = Field(True, description="move empty clusters to the points farthest from their centroids")

    @field_validator("over_k")
    @classmethod
    def _not_one(cls, value: int) -> int:
        if value == 1:
            raise ValueError("a head needs at least 2 clusters; give 0 for no such head")
        return value

    @property
    def kmeans_metric(self) -> Literal["spherical", "euclidean"]:
        """The metric of k-means.

        "mixed" clusters as "euclidean" does; only its logits differ.
        """
        return "spherical" if self.metric == "spherical" else "euclidean"

    @property
    def heads(self) -> dict[str, int]:
        """Number of clusters of each head, by the prefix of its names.

        The head "" predicts; the head "over_" is used only in training.
        """
        return {"": self.k} | ({"over_": self.over_k} if self.over_k else {})


class LossConfig(Section):
    """The training loss."""

    name: str = Field("cross_entropy", description="a name from `picie list losses` or my_module:MyLoss")
    options: dict[str, Any] = Field({}, description="extra arguments of the loss's constructor, {name = value}")
    temperature: Annotated[float, Field(gt=0)] = Field(0.3, description="softmax temperature: logits are divided by it")
    class_weights: Literal["none", "inverse", "sqrt_inverse", "frequency"] = Field(
        "none", description="weight of each cluster in the cross-entropy, as a function of its share of the pixels"
    )
    within: Annotated[float, Field(ge=0)] = Field(1.0, description="weight of the within-view loss")
    cross: Annotated[float, Field(ge=0)] = Field(1.0, description="weight of the cross-view loss")
    mse: bool = Field(
        False, description="average the loss with the mean squared distance between the features of the two views"
    )


class TrainConfig(Section):
    """Optimisation."""

    epochs: NaturalInt = Field(5, description="number of epochs; 0 clusters the untrained network")
    batch_size: BatchSize = Field(16, description="images per training step")
    lr: Annotated[float, Field(gt=0)] = Field(3e-5, description="initial learning rate of Adam")
    backbone_lr: Annotated[float, Field(gt=0, le=10)] = Field(
        1.0, description="initial learning rate of the backbone, relative to `train.lr`; default for a ViT: 1e-5 / train.lr"
    )
    layer_decay: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="learning rate of a block of a ViT, relative to that of the next block; default for a ViT: 0.75"
    )
    schedule: Literal["cosine", "constant"] = Field(
        "cosine", description="learning rate schedule: falling to 0 over the run, or constant"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto uses bf16 autocast if the hardware is faster with it"
    )


class EvaluateConfig(Section):
    """How a run is scored, and the size of images for scoring and prediction."""

    split: str = Field("val", description="split to score during training, if it has labels")
    every: NaturalInt = Field(1, description="number of epochs between scores; 0: score only after the last")
    size: Annotated[int, Field(ge=1, le=4096, strict=True)] | None = Field(
        None, description="short side in pixels at which labels are compared; default: `views.size`"
    )
    scale: Annotated[float, Field(gt=0, le=4096)] = Field(
        2.0, description="short side of images that are scored or predicted, relative to `views.size`; default for a ViT: 1"
    )
    crop: bool = Field(True, description="score the centre square instead of the whole image")
    matching: Literal["one-to-one", "one-to-one-iou", "many-to-one"] = Field(
        "one-to-one", description="how clusters are matched to classes: Hungarian on pixels or on IoU, or by majority"
    )


class RunConfig(Section):
    """Options that do not change results."""

    device: str = Field("auto", description="auto, cpu, cuda, cuda:N or mps")
    workers: Annotated[int, Field(ge=0, le=1024, strict=True)] | None = Field(
        None, description="decoding threads; default: depends on the number of cores"
    )
    cache_gb: Annotated[float, Field(ge=0, le=1e6)] = Field(
        8.0, description="disk budget for decoded frames, in the run's folder, in GB"
    )
    keep_gb: Annotated[float, Field(ge=0, le=1e6)] = Field(
        1.0, description="memory budget for cached features and views, on the device, in GB"
    )
    progress: bool = Field(True, description="show progress bars on a terminal")
    report: bool = Field(True, description="write report.html to the run's folder when training ends")
    loggers: tuple[Literal["tensorboard", "wandb"], ...] = Field(
        (), description="also send the lines of metrics.jsonl to tensorboard or wandb"
    )

    @field_validator("loggers", mode="before")
    @classmethod
    def _accept_names(cls, value: Any) -> Any:
        """Take "tensorboard,wandb" and ["tensorboard"] alike."""
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


class Config(Section):
    """The whole configuration of a run."""

    method: str = Field("picie", description="picie, mdc or my_module:MyMethod")
    seed: Annotated[int, Field(ge=0, lt=2**32, strict=True)] = Field(0, description="random seed")
    data: DataConfig = DataConfig()
    views: ViewsConfig = ViewsConfig()
    model: ModelConfig = ModelConfig()
    cluster: ClusterConfig = ClusterConfig()
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    run: RunConfig = RunConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        if self.views.frame < self.views.size:
            raise ValueError(
                f"views.crop = {self.views.crop} is smaller than views.size = {self.views.size}, which is cut from it"
            )
        if self.predict_size > LARGEST:
            raise ValueError(f"evaluate.scale = {self.evaluate.scale:g} makes pictures larger than {LARGEST} px")
        if self.model.weights is not None and not self.model.pretrained:
            raise ValueError("model.weights is given but model.pretrained = false; leave one of them out")
        if self.model.weights_key is not None and self.model.weights is None:
            raise ValueError("model.weights_key is given without model.weights")
        return self

    def options_of(self, method_class: Any) -> Any:
        """Return the method's own options, an instance of its `Options`, or None."""
        if method_class.Options is None:
            return None
        return getattr(self, section_name(method_class), None) or method_class.Options()

    # The class with a method's section is made at run time, so pickle cannot find it.
    def __reduce__(self) -> Any:
        from picie.config.loading import from_dict

        # Options that are not set remain so: their default may depend on the backbone.
        return from_dict, (self.model_dump(mode="json", exclude_unset=True),)

    @property
    def evaluate_size(self) -> int:
        """Short side, in pixels, of the labels that scores compare with."""
        return self.evaluate.size or self.views.size

    @property
    def predict_size(self) -> int:
        """Short side, in pixels, of images that are scored or predicted, as the network sees them."""
        return max(1, round(self.evaluate.scale * self.views.size))


def section_name(method_class: Any) -> str:
    """Return the name of a method's own section: its attribute `section`, or its class name in lower case."""
    name: str = method_class.section or method_class.__name__.lower()
    return name
