"""The configuration of a run: its sections, and how it is read and written."""

from picie.config.loading import (
    Layer,
    code_names,
    from_dict,
    load,
    preset_names,
    preset_text,
    read_toml,
    to_toml,
    with_overrides,
)
from picie.config.methods import all_sections, config_class
from picie.config.sections import (
    ClusterConfig,
    Config,
    DataConfig,
    EvaluateConfig,
    LossConfig,
    ModelConfig,
    RunConfig,
    Section,
    TrainConfig,
    ViewsConfig,
)

__all__ = [
    "ClusterConfig", "Config", "DataConfig", "EvaluateConfig", "Layer", "LossConfig", "ModelConfig", "RunConfig", "Section",
    "TrainConfig", "ViewsConfig", "all_sections", "code_names", "config_class", "from_dict", "load", "preset_names",
    "preset_text", "read_toml", "to_toml", "with_overrides",
]  # fmt: skip
