"""The command line: each subcommand reads its options and calls one plain function.

Nothing heavy is imported before a command runs. Errors that picie raises on purpose end as one line on stderr.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from pydantic import BaseModel

from picie.cli import clusters, experiments
from picie.cli import data as data_commands
from picie.cli.app import page
from picie.cli.options import data_options, join_options
from picie.config import Config, load
from picie.errors import InputError, PicieError, Stopped, nearest
from picie.runtime import distributed, failures
from picie.runtime.output_paths import check_file, write_json
from picie.version import __version__

app = typer.Typer(
    name="picie",
    invoke_without_command=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    help="Unsupervised semantic segmentation: from a folder of photos to pixel-wise segments with meaning.",
)


app.add_typer(data_commands.app)
app.add_typer(clusters.app)


def _all_options() -> str:
    """Every section.key with its default and meaning, for `picie train --help`."""
    lines = ["\b", "All options, as section.key=value (TOML values; a bare word is a string; key= unsets):"]
    for name, field in Config.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            lines += _option_lines(f"{name}.", section)
        else:
            lines += [_option_line(name, field)]
    return "\n".join(lines)


def _option_lines(prefix: str, section: type[BaseModel]) -> list[str]:
    return ["", "\b"] + [_option_line(prefix + key, field) for key, field in section.model_fields.items()]


def _option_line(key: str, field: Any) -> str:
    default = field.default
    shown = ",".join(spec["name"] for spec in default) if isinstance(default, tuple) else default
    unset = " " if default is None else f" [{json.dumps(shown) if isinstance(shown, bool) else shown}]"
    choices = getattr(field.annotation, "__args__", ())
    words = [c for c in choices if isinstance(c, str)]
    return f"  {key}{unset}  {field.description}" + (f" ({', '.join(words)})" if words else "")


@app.command(epilog=_all_options())
def train(
    data: Annotated[Optional[str], typer.Argument(help="Folder of images (or a dataset of `picie list datasets`).")] = None,
    overrides: Annotated[Optional[list[str]], typer.Argument(metavar="[section.key=value]...", help="Any option.")] = None,
    preset: Annotated[Optional[str], typer.Option(help="Settings by name; see `picie list presets`.")] = None,
    config: Annotated[Optional[Path], typer.Option(help="TOML file with settings; laid over the preset.")] = None,
    out: Annotated[Optional[Path], typer.Option(help="The run's folder. [default: runs/DATA-METHOD-kK-sSEED]")] = None,
    clusters: Annotated[Optional[int], typer.Option("--clusters", "-k", help="Number of clusters K.")] = None,
    epochs: Annotated[Optional[int], typer.Option(help="Epochs; 0 clusters the network as it starts.")] = None,
    seed: Annotated[Optional[int], typer.Option(help="Seed of every random number.")] = None,
    method: Annotated[Optional[str], typer.Option(help="picie or mdc; see `picie list methods`.")] = None,
    backbone: Annotated[Optional[str], typer.Option(help="timm model; see `picie list backbones`.")] = None,
    size: Annotated[Optional[int], typer.Option(help="Side of a view in pixels; crops come from twice that.")] = None,
    batch_size: Annotated[Optional[int], typer.Option(help="Images per training step.")] = None,
    resume: Annotated[Optional[Path], typer.Option(metavar="DIR", help="Go on exactly where the run in DIR stopped.")] = None,
) -> None:
    """Train on a folder of images; labels are not needed.

    DATA is searched for images recursively. A folder with images/{train,val}, labels/{train,val} (index PNGs) and classes.toml
    is scored while training, too.
    """
    given = list(overrides or [])
    if data is not None and "=" in data and not Path(data).exists():
        given.insert(0, data)  # `picie train --resume DIR run.workers=4`: there is no DATA
        data = None
    flags: dict[str, Any] = {
        "cluster.k": clusters,
        "train.epochs": epochs,
        "seed": seed,
        "method": method,
        "model.backbone": backbone,
        "views.size": size,
        "train.batch_size": batch_size,
    }
    options = join_options({key: value for key, value in flags.items() if value is not None}, given)
    if resume is not None:
        if data is not None or preset is not None or config is not None or out is not None:
            raise InputError("--resume DIR takes data and settings from the run; leave out DATA, --preset, --config and --out")
        from picie.training import api

        _say_trained(api.resume(resume, options))
        return
    settings = load(preset, config, [*data_options(data, options), *options])
    if settings.data.name == "folder" and settings.data.root is None:
        raise InputError("DATA is missing; give a folder of images, e.g. picie train photos/")
    from picie.training import api  # torch and timm: seconds, which a mistaken option need not wait for

    _say_trained(api.train(settings, out or _default_out(settings)))


def _default_out(config: Config) -> Path:
    name = Path(config.data.root).resolve().name if config.data.root else config.data.name.split(":")[-1]
    stem = f"{name}-{config.method.split(':')[-1]}-k{config.cluster.k}-s{config.seed}"
    candidates = [Path("runs") / stem, *(Path("runs") / f"{stem}-{i}" for i in range(2, 1000))]
    return next(path for path in candidates if not path.exists())


def _say_trained(run: Path) -> None:
    if distributed.is_main():
        typer.echo(f"{run}")


_JsonFile = Annotated[Optional[Path], typer.Option("--json", metavar="FILE", help="Write the scores here, too.")]
_Bootstrap = Annotated[int, typer.Option(min=0, help="Resamples of the images for confidence intervals; 0: none.")]


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    overrides: Annotated[
        Optional[list[str]],
        typer.Argument(metavar="[evaluate.key=value]...", help="E.g. evaluate.size=320 evaluate.crop=false."),
    ] = None,
    data: Annotated[Optional[Path], typer.Option(help="Labelled folder to score on. [default: the run's own]")] = None,
    dataset: Annotated[
        Optional[str], typer.Option(help="What that folder is; see `picie list datasets`. [default: as the run's own]")
    ] = None,
    split: Annotated[Optional[str], typer.Option(help="Its split. [default: the run's evaluate.split, val]")] = None,
    matching: Annotated[
        Optional[str], typer.Option(help="one-to-one, one-to-one-iou or many-to-one. [default: the run's evaluate.matching]")
    ] = None,
    json_file: _JsonFile = None,
    baselines: Annotated[
        bool,
        typer.Option("--baselines", help="Score beside it a constant, and k-means on colour and on raw backbone features."),
    ] = False,
    probes: Annotated[
        bool,
        typer.Option("--probes", help="Score beside it what else its features give: more clusters; with train labels, probes."),
    ] = False,
    name_clusters: Annotated[
        bool, typer.Option("--name-clusters", help="Store the matching in the run: its clusters get the class names.")
    ] = False,
    bootstrap: _Bootstrap = 1000,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
) -> None:
    """Score a run on labelled images. The run is only read, unless --name-clusters is given."""
    from picie.cli import tables
    from picie.scoring import evaluation
    from picie.scoring.baselines import evaluate_baselines
    from picie.scoring.probes import evaluate_probes

    check_file("--json", json_file)
    flags = {"evaluate.split": split, "evaluate.matching": matching}
    overridden = join_options({key: value for key, value in flags.items() if value is not None}, overrides or [])
    options = evaluation.ScoreOptions(dataset, overridden, device)
    result = evaluation.evaluate(run, data, name_clusters=name_clusters, bootstrap=bootstrap, options=options)
    asked = {"baselines": (baselines, evaluate_baselines), "probes": (probes, evaluate_probes)}
    others = {kind: evaluate(run, data, options=options) for kind, (wanted, evaluate) in asked.items() if wanted}
    tables.show_evaluation(result, {name: row for rows in others.values() for name, row in rows.items()})
    content = result.to_dict()
    for kind, rows in others.items():
        keys = ("accuracy", "miou", "matching", "protocol")
        content[kind] = {name: {key: row.to_dict()[key] for key in keys} for name, row in rows.items()}
    write_json(json_file, content)


@app.command()
def score(
    predictions: Annotated[Path, typer.Argument(metavar="PRED_DIR", help="Folder of predicted index PNGs, of any method.")],
    labels: Annotated[Path, typer.Argument(metavar="LABEL_DIR", help="Folder of label PNGs of the same names and sizes.")],
    classes: Annotated[str, typer.Option(help="A classes.toml, or the name of a label set, e.g. cocostuff27.")],
    matching: Annotated[str, typer.Option(help="one-to-one, one-to-one-iou, many-to-one or identity.")] = "one-to-one",
    prediction_suffix: Annotated[str, typer.Option(help="What names of predictions end in, e.g. _leftImg8bit.")] = "",
    label_suffix: Annotated[str, typer.Option(help="What names of labels end in, e.g. _gtFine_labelIds.")] = "",
    unpredicted: Annotated[
        Optional[int], typer.Option(metavar="VALUE", help="Value that predicts nothing: errors, never matched.")
    ] = None,
    json_file: _JsonFile = None,
    bootstrap: _Bootstrap = 1000,
) -> None:
    """Score label maps of any method, without any run."""
    from picie.cli import tables
    from picie.scoring import folders as scoring

    check_file("--json", json_file)
    result = scoring.score_folders(
        predictions,
        labels,
        classes,
        matching,
        bootstrap=bootstrap,
        options=scoring.FolderOptions(prediction_suffix, label_suffix, unpredicted),
    )
    tables.show_evaluation(result, {})
    write_json(json_file, result.to_dict())


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Images, or folders searched recursively.")],
    out: Annotated[Path, typer.Option(help="Folder for the label maps and overlays.")],
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
) -> None:
    """Segment images: for each an indexed PNG of its own size and an overlay, and one legend."""
    from picie.inference import predict

    done = predict.predict_files(run, paths, out, device)
    typer.echo(f"{done} images -> {out}")


@app.command("import-checkpoint")
def import_checkpoint(
    file: Annotated[Path, typer.Argument(help="A checkpoint of the authors' published code; nothing in it is run.")],
    out: Annotated[Path, typer.Option(metavar="RUN", help="Folder of the run that it becomes.")],
    dataset: Annotated[str, typer.Option(help="What it is scored on; see `picie list datasets`.")] = "cocostuff27",
) -> None:
    """Turn a checkpoint of the published code into a run that evaluate, predict and export take."""
    from picie.inference import import_published

    typer.echo(f"{import_published.import_checkpoint(file, out, dataset)}")


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    file: Annotated[Path, typer.Argument(help="File to write: .pt2 (torch.export) or .onnx.")],
    size: Annotated[
        Optional[tuple[int, int]], typer.Option(metavar="HEIGHT WIDTH", help="Fix the size of its input. [default: any]")
    ] = None,
) -> None:
    """Write the segmentation network as one file that is used without picie."""
    from picie.inference import export

    typer.echo(f"{export.export(run, file, size)}")


@app.command()
def neighbors(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    image: Annotated[Path, typer.Argument(help="The image that the query lies in.")],
    x: Annotated[int, typer.Argument(help="Column of the query in pixels, from 0.")],
    y: Annotated[int, typer.Argument(help="Row of the query in pixels, from 0.")],
    folder: Annotated[Path, typer.Option("--in", metavar="DIR", help="Images to look in, recursively.")],
    k: Annotated[int, typer.Option("-k", help="How many pixels.")] = 10,
    per_image: Annotated[int, typer.Option(help="Most of one image.")] = 1,
    out: Annotated[Path, typer.Option(help="Picture of query and neighbours; a .json file is written beside it.")] = Path(
        "neighbors.png"
    ),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
) -> None:
    """Find the pixels of a folder that are most like one pixel: exact, over every feature cell of every image."""
    from picie.inference import neighbors as neighborhood

    query = neighborhood.Query(image, x, y, folder, k, per_image)
    for neighbor in neighborhood.neighbors(run, query, out, device):
        typer.echo(f"{neighbor.similarity:.3f}  {neighbor.path} ({neighbor.x}, {neighbor.y})  {neighbor.name}")
    typer.echo(f"{out}")


app.command()(clusters.name)
app.command("app")(page)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="A run's folder.")],
    out: Annotated[Optional[Path], typer.Option(metavar="FILE", help="The page. [default: RUN/report.html]")] = None,
    data: Annotated[Optional[Path], typer.Option(help="Where its dataset lies now. [default: where it lay]")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
) -> None:
    """Show a run on one HTML page: curves, examples, scores, each cluster's crops, both views, settings."""
    from picie.report import write_report

    typer.echo(f"{write_report(run, out, data, device)}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the dataset, the run and the pictures.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Seed of the scenes and of the training.")] = 0,
) -> None:
    """Show everything on built-in scenes: generate, train, evaluate, predict; a few minutes on two CPU cores."""
    from picie.cli import demo as demonstration

    demonstration.demo(out, seed)


@app.command("list")
def list_(
    what: Annotated[str, typer.Argument(metavar="WHAT", help="datasets, backbones, transforms, methods, presets or recipes.")],
) -> None:
    """List what an option can name."""
    from picie.cli import tables

    kinds = ("datasets", "backbones", "transforms", "methods", "presets", "recipes")
    if what not in kinds:
        raise InputError(f"list: unknown kind {what!r}; {nearest(what, kinds)}")
    tables.show_list(what)


app.command()(experiments.compare)
app.command()(experiments.ablate)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"picie {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No log lines but warnings.")] = False,
) -> None:
    from picie.runtime.progress import set_up_logging

    set_up_logging(quiet)
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
    elif context.invoked_subcommand != "train" and distributed.launched() > 1:
        raise InputError(f"picie {context.invoked_subcommand} runs in one process; start it without torchrun")


# Typer hands on click's exceptions, its own copy of them or click's, by version; their common base is reached through one.
_UsageError: Any = typer.BadParameter.__base__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; `arguments` are those of the process if None."""
    try:
        status = typer.main.get_command(app).main(
            args=None if arguments is None else list(arguments), prog_name="picie", standalone_mode=False
        )
        if status == 128 + signal.SIGINT:  # what Typer makes of an interrupt that no run takes, without a word
            return _end("stopped", status)
        return status if isinstance(status, int) else 0
    except Stopped as stopped:
        return _end(str(stopped), 128 + stopped.signum)
    except InputError as error:
        return _end(f"error: {error}", 2)
    except PicieError as error:
        return _end(f"error: {error}", 1)
    except _UsageError as error:
        command = error.ctx.command_path if error.ctx is not None else "picie"
        return _end(f"error: {error.format_message().rstrip('.')}; see {command} --help", 2)
    except (typer.Abort, KeyboardInterrupt):
        return _end("stopped", 130)
    except BrokenPipeError:
        return 0
    except OSError as error:  # a path that cannot be written, which is the caller's to mend, or a full disk and the like
        where = "" if error.filename is None else f"{error.filename}: "
        return _end(f"error: {where}{error.strerror or error}", 1 if error.filename is None else 2)


def _end(message: str, status: int) -> int:
    """Say with what this process ends, unless another process of the run says it."""
    words = failures.wording(" ".join(message.split()), distributed.local_rank())
    if words is not None:
        sys.stderr.write(f"picie: {words}\n")
        sys.stderr.flush()
    failures.said()
    return status
