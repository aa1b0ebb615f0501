"""The command line: each subcommand reads its options and calls one plain function.

Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from picie.cli import clusters, conversion, data, experiments, images, labelling, pages, scores, training
from picie.cli.app import page
from picie.cli.exit_status import run_app
from picie.errors import InputError
from picie.runtime import distributed
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

app.command(epilog=training.all_options())(training.train)
app.command()(scores.evaluate)
app.command()(scores.score)
app.command()(images.predict)
app.command()(images.gather)
app.command()(conversion.convert)
app.command()(images.import_checkpoint)
app.command()(images.export)
app.command()(images.neighbors)
app.command()(clusters.name)
app.command()(labelling.teach)
app.command()(labelling.uncertain)
app.command("app")(page)
app.command()(pages.report)
app.command()(pages.demo)
app.command("list")(pages.list_)
app.command()(experiments.compare)
app.command()(experiments.ablate)
app.add_typer(data.app)
app.add_typer(clusters.app)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"picie {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show warnings only, no progress.")] = False,
) -> None:
    from picie.runtime.progress import set_up_logging

    set_up_logging(quiet)
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
    elif context.invoked_subcommand not in {"train", "predict"} and distributed.launched() > 1:
        raise InputError(f"picie {context.invoked_subcommand} runs in one process; start it without torchrun")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; None takes the arguments of the process."""
    return run_app(app, "picie", arguments)
