"""The configuration: layers, names, ranges, and the way back to TOML."""

from __future__ import annotations

import itertools
from importlib import resources
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from picie.config import Config, from_dict, load, preset_names, read_toml, to_toml, with_overrides
from picie.errors import InputError


def leaves(config: Config) -> dict[str, object]:
    """{"section.key": value} of every option."""
    found: dict[str, object] = {}
    for name, value in config:
        found |= {f"{name}.{key}": v for key, v in value} if isinstance(value, BaseModel) else {name: value}
    return found


def refusal(*overrides: str, preset: str | None = None, file: Path | None = None) -> str:
    with pytest.raises(InputError) as error:
        load(preset, file, overrides)
    message = str(error.value)
    assert "\n" not in message
    assert "pydantic" not in message
    return message


def test_nothing_given_is_the_defaults() -> None:
    assert load() == load("default") == Config()
    assert Config().views.frame == 320
    assert (Config().evaluate_size, Config().predict_size) == (160, 320)


def test_the_defaults_pass_their_own_limits() -> None:
    assert from_dict(Config().model_dump()) == Config()


def test_layers_lie_over_each_other(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("seed = 5\n[cluster]\nk = 7\nwarm_start = true\n[loss]\ntemperature = 0.9\n", "utf-8")
    config = load("reference", file, ["cluster.k=4", "train.lr=3e-4"])
    assert config.cluster.k == 4  # command line over file
    assert config.cluster.warm_start is True  # file over preset
    assert config.loss.temperature == 0.9
    assert config.cluster.metric == "mixed"  # preset over defaults
    assert config.train.lr == 3e-4
    assert config.train.batch_size == Config().train.batch_size
    assert config.seed == 5
    assert load("reference", None, ["cluster.k=4", "cluster.k=9"]).cluster.k == 9


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_and_opens_with_a_header(name: str) -> None:
    text = resources.files("picie").joinpath("presets", f"{name}.toml").read_text("utf-8")
    header = list(itertools.takewhile(lambda line: line.startswith("#"), text.splitlines()))
    assert len(header) >= 2
    assert len(header[0].lstrip("# ")) > 20
    config = load(name)
    assert from_dict(config.model_dump()) == config


def test_a_preset_lies_over_its_base() -> None:
    config, base = load("cocostuff27-mdc"), load("reference")
    assert (config.method, base.method) == ("mdc", "picie")  # its own
    assert (config.cluster.k, config.cluster.batch_size) == (27, 256)
    assert config.cluster.metric == base.cluster.metric == "mixed"  # the base's, in a section that it has, too
    assert config.loss == base.loss  # and in one that it has not
    assert load("cocostuff27-mdc", None, ["cluster.metric=spherical"]).cluster.metric == "spherical"
    assert "unknown key 'base'" in refusal("base=reference")


def test_reference_has_the_published_choices() -> None:
    config = load("reference")
    changed = {key for key, value in leaves(config).items() if value != leaves(Config())[key]}
    published = {"model.laterals", "cluster.metric", "cluster.batchnorm", "loss.temperature", "loss.class_weights"}
    assert published | {"views.invariance"} <= changed
    names = [spec["name"] for spec in config.views.invariance]
    assert "greyscale" not in names
    assert next(spec for spec in config.views.invariance if spec["name"] == "blur")["sigma"] == [-1.8, 0.1]


@pytest.mark.parametrize("preset", preset_names())
def test_toml_holds_everything(tmp_path: Path, preset: str) -> None:
    config = load(preset, None, ["data.root=some where/é😀", "views.crop=1000", 'data.train_split="x"', "run.workers=0"])
    file = tmp_path / "config.toml"
    file.write_text(to_toml(config), "utf-8")
    assert load(None, file) == config
    assert set(read_toml(file)) == set(type(config).model_fields)


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("train.lr=1e-4", "train.lr", 1e-4),
        ("train.lr=1", "train.lr", 1.0),
        ("cluster.warm_start=true", "cluster.warm_start", True),
        ("data.root=photos/of 2024", "data.root", "photos/of 2024"),
        ('data.root="2024"', "data.root", "2024"),
        ("data.root=a=b", "data.root", "a=b"),
        ("method=mdc", "method", "mdc"),
        ("method=picie.methods.picie:PiCIE", "method", "picie.methods.picie:PiCIE"),
        ("views.size = 64", "views.size", 64),
        ("views.invariance=[]", "views.invariance", ()),
        ("views.invariance=", "views.invariance", Config().views.invariance),
        ("seed=", "seed", 0),
        ("views.invariance=blur", "views.invariance", ({"name": "blur"},)),
        ("views.invariance=blur, hue", "views.invariance", ({"name": "blur"}, {"name": "hue"})),
        ('views.equivariance=["crop", "vflip"]', "views.equivariance", ({"name": "crop"}, {"name": "vflip"})),
        (
            'views.equivariance=[{name="crop", scale=[0.2, 0.4]}]',
            "views.equivariance",
            ({"name": "crop", "scale": [0.2, 0.4]},),
        ),
        ('views.equivariance=["hflip", {name="crop"}]', "views.equivariance", ({"name": "hflip"}, {"name": "crop"})),
    ],
)
def test_an_override_takes_toml_or_a_bare_word(text: str, key: str, value: object) -> None:
    assert leaves(load(None, None, [text]))[key] == value


def test_nothing_after_the_sign_unsets(tmp_path: Path) -> None:
    """What lower layers say is dropped, whether or not they have the section; later options still count."""
    file = tmp_path / "mine.toml"
    file.write_text("seed = 5\n[cluster]\nk = 7\nwarm_start = true\n[views]\ncrop = 200\n", "utf-8")
    config = load(
        "reference", file, ["cluster.k=", "seed=", "views.crop=", "views.invariance=", "run.workers=", "loss.cross= "]
    )
    assert (config.cluster.k, config.seed, config.views.crop, config.run.workers) == (27, 0, None, None)
    assert config.views.invariance == Config().views.invariance
    assert config.loss == load("reference").loss
    assert config.cluster.warm_start is True
    assert config.cluster.metric == "mixed"
    assert load(None, None, ["cluster.k=4", "cluster.k="]).cluster.k == 27
    assert load(None, None, ["cluster.k=", "cluster.k=4"]).cluster.k == 4
    assert (
        load(None, None, ["cluster.k=", "cluster.metric=mixed"]).cluster == load(None, None, ["cluster.metric=mixed"]).cluster
    )
    assert with_overrides(load(None, None, ["run.workers=3"]), ["run.workers="]).run.workers is None
    assert "unknown key 'cluster.kk'" in refusal("cluster.kk=")


@pytest.mark.parametrize(
    "key", ["seed", "cluster.k", "cluster.refit", "train.epochs", "views.size", "views.crop", "evaluate.every", "run.workers"]
)
@pytest.mark.parametrize("value", ["true", '"4"', "4.0", "4.5"])
def test_a_whole_number_is_nothing_else(key: str, value: str) -> None:
    assert load(None, None, [f"{key}=400"])
    message = refusal(f"{key}={value}")
    assert message.startswith(f"{key} = ")
    assert "integer" in message


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("train.learning_rate=1", ["unknown key 'train.learning_rate'", "train.lr"]),
        ("cluster.kk=3", ["unknown key 'cluster.kk'", "did you mean 'cluster.k'"]),
        ("k=3", ["unknown key 'k'", "did you mean 'cluster.k'"]),
        ("trian.lr=1", ["unknown key 'trian'", "did you mean 'train'"]),
        ("cluster.temperature=1", ["unknown key 'cluster.temperature'", "did you mean 'loss.temperature'"]),
        ("sed=1", ["unknown key 'sed'", "did you mean 'seed'"]),
        ("cluster=5", ["cluster is a section", "cluster.option=value"]),
        ("no option", ["'no option' is not an option", "section.key=value"]),
        ("=3", ["is not an option"]),
    ],
)
def test_an_unknown_name_gives_the_nearest(override: str, parts: list[str]) -> None:
    message = refusal(override)
    for part in parts:
        assert part in message


def test_an_unknown_preset_gives_the_nearest() -> None:
    assert "unknown preset 'refrence'; did you mean 'reference'" in refusal(preset="refrence")


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("cluster.k=1", "greater than or equal to 2"),
        ("cluster.k=70000", "less than or equal to 65535"),
        ("cluster.k=3.5", "integer"),
        ("cluster.k=many", "integer"),
        ("cluster.over_k=1", "a head needs at least 2 clusters; give 0 for no such head"),
        ("cluster.over_k=-2", "greater than or equal to 0"),
        ("cluster.over_k=65536", "less than or equal to 65535"),
        ("cluster.over_k=2.5", "integer"),
        ("views.size=0", "greater than or equal to 1"),
        ("train.epochs=-1", "greater than or equal to 0"),
        ("train.batch_size=0", "greater than or equal to 1"),
        ("train.lr=0", "greater than 0"),
        ("train.lr=nan", "finite"),
        ("train.lr=inf", "finite"),
        ("loss.temperature=-0.1", "greater than 0"),
        ("loss.cross=-1", "greater than or equal to 0"),
        ("seed=-1", "greater than or equal to 0"),
        ("seed=4294967296", "less than 4294967296"),
        ("run.workers=-1", "greater than or equal to 0"),
        ("run.cache_gb=-1", "greater than or equal to 0"),
        ("cluster.metric=cosine", "'spherical', 'euclidean' or 'mixed'"),
        ("loss.class_weights=balance", "'frequency'"),
        ("data.on_bad_image=ignore", "'skip' or 'error'"),
        ("cluster.warm_start=perhaps", "boolean"),
        ("data.root=[1]", "string"),
        ("views.invariance=3", "tuple"),
        ("views.invariance=[3]", "3 is not a transform"),
        ("views.invariance=[{p=1.0}]", "is not a transform; write a name"),
    ],
)
def test_a_value_that_does_not_fit_is_named_with_its_option(override: str, reason: str) -> None:
    key, _, value = override.partition("=")
    message = refusal(override)
    assert message.startswith(f"{key} = ")
    assert value.strip("[]{}").split("=")[0] in message
    assert reason in message


def test_options_that_contradict_each_other_are_refused() -> None:
    message = refusal("views.size=100", "views.crop=90")
    assert "views.crop = 90 is smaller than views.size = 100" in message
    assert load(None, None, ["views.size=100", "views.crop=100"]).views.frame == 100


@pytest.mark.parametrize(
    ("aspect", "view", "frame"), [(1, (10, 10), (30, 30)), (2, (10, 20), (30, 60)), (0.5, (20, 10), (60, 30))]
)
def test_the_aspect_keeps_the_short_side(aspect: float, view: tuple[int, int], frame: tuple[int, int]) -> None:
    views = load(None, None, ["views.size=10", "views.crop=30", f"views.aspect={aspect}"]).views
    assert (views.view_size, views.frame_size) == (view, frame)
    assert "model.weights is given but model.pretrained = false" in refusal("model.weights=w.pth", "model.pretrained=false")
    assert load(None, None, ["model.weights=w.pth"]).model.weights == "w.pth"


def test_a_settings_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    assert f"{file}: cannot be read: No such file" in refusal(file=file)
    assert "cannot be read" in refusal(file=tmp_path)
    file.write_text("[train\nlr = 1", "utf-8")
    assert f"{file}: not valid TOML" in refusal(file=file)
    file.write_bytes(b"\xff\xfe\x00")
    assert f"{file}: cannot be read: it is not UTF-8 text" in refusal(file=file)
    file.write_text("[train]\nlrr = 1\n", "utf-8")
    assert "unknown key 'train.lrr'" in refusal(file=file)


def test_with_overrides_changes_only_what_is_given() -> None:
    config = load("reference", None, ["cluster.k=5", "views.crop=170"])
    changed = with_overrides(config, ["train.epochs=3", "run.workers=2"])
    differing = {key for key, value in leaves(changed).items() if value != leaves(config)[key]}
    assert differing == {"train.epochs", "run.workers"}
    with pytest.raises(InputError, match="unknown key"):
        with_overrides(config, ["run.worker=2"])


def test_a_configuration_cannot_be_changed_and_every_option_is_described() -> None:
    config = Config()
    with pytest.raises(ValidationError):
        config.seed = 3  # type: ignore[misc]
    for name, field in Config.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            assert section.__doc__, name
            missing = [key for key, option in section.model_fields.items() if not option.description]
            assert not missing
        else:
            assert field.description, name


@pytest.mark.parametrize(
    "option",
    [
        "model.dim=100000",
        "views.size=100000",
        "views.crop=100000",
        "evaluate.size=100000",
        "cluster.refit=1000000",
        "cluster.batch_size=100000000",
        "cluster.init_points=10000000000",
        "train.batch_size=100000000",
        "train.epochs=1e300",
        "run.workers=100000",
        "run.keep_gb=1e300",
    ],
)
def test_values_that_would_exhaust_memory_or_time_are_refused(option: str) -> None:
    key = option.partition("=")[0]
    with pytest.raises(InputError, match=rf"{key} = "):
        load(None, None, [option])


def test_the_defaults_are_valid() -> None:
    assert from_dict(Config().model_dump(mode="json")) == Config()
