"""How a command ends: its exit status, and one line on stderr for every expected error."""

from __future__ import annotations

import re
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import typer

from picie import registry
from picie.config import all_sections
from picie.errors import InputError, PicieError, Stopped
from picie.runtime import distributed, failures
from picie.runtime.atomic_write import is_disk_full
from picie.runtime.interrupts import end_at_signals

# Depending on its version, Typer raises click's exceptions or its own copies of them. This is their
# common base class.
_UsageError: Any = typer.BadParameter.__base__


def run_app(app: typer.Typer, name: str, arguments: Sequence[str] | None = None) -> int:
    """Run a Typer application and return its exit status.

    Args:
        app: the application.
        name: the program's name in usage lines and in front of messages.
        arguments: the command line without the program; None takes that of the process.

    Returns:
        0 for success; 2 if the input was invalid; 1 if the run, the disk or the network failed;
        128 + signal if the command was interrupted.
    """
    if arguments is None and distributed.launched() == 1:
        end_at_signals()
    try:
        with registry.trust_scope(), warnings.catch_warnings():
            # Pillow warns about damaged metadata.
            warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
            status = typer.main.get_command(app).main(
                args=None if arguments is None else list(arguments), prog_name=name, standalone_mode=False
            )
        if status == 128 + signal.SIGINT:  # Typer's silent status for an interrupt outside training
            return _end(name, "stopped", status)
        return status if isinstance(status, int) else 0
    except Stopped as stopped:
        return _end(name, str(stopped), 128 + stopped.signum)
    except InputError as error:
        return _end(name, f"error: {error}", 2)
    except PicieError as error:
        return _end(name, f"error: {error}", 1)
    except _UsageError as error:
        command = error.ctx.command_path if error.ctx is not None else name
        return _end(name, f"error: {_usage_message(error)}; see {command} --help", 2)
    except (typer.Abort, KeyboardInterrupt):
        return _end(name, "stopped", 130)
    except SystemExit as end:
        if end.code != 128 + signal.SIGTERM:
            raise
        return _end(name, "stopped", 128 + signal.SIGTERM)
    except BrokenPipeError:
        return 0
    except OSError as error:
        # with a file name: a path that the caller can change; without: e.g. a full disk
        where = "" if error.filename is None else f"{error.filename}: "
        if is_disk_full(error):
            return _end(name, f"error: {where}the disk is full; free some space, then repeat the command", 1)
        return _end(name, f"error: {where}{error.strerror or error}", 1 if error.filename is None else 2)


def _usage_message(error: Any) -> str:
    """The message of a usage error; for an unknown flag it suggests a section.key=value option."""
    message: str = error.format_message().rstrip(".")
    message = re.sub(r"Input should be (.*?)(, unable to parse.*)?$", r"must be \1", message)  # pydantic's words
    flag: str = getattr(error, "option_name", "")
    overrides = [p for p in error.ctx.command.params if p.name == "overrides"] if flag and error.ctx is not None else []
    if not overrides:
        return message
    wanted = flag.lstrip("-").replace("-", "_")
    if wanted == "k" and any(p.name == "clusters" for p in error.ctx.command.params):
        return "No such option: --k; write -k K or --clusters K"
    sections = all_sections()
    # the only section that `picie evaluate` accepts
    if overrides[0].metavar.startswith("[evaluate."):
        sections = {"evaluate": sections["evaluate"]}
    options = [
        f"{name}.{key}=VALUE"
        for name, section in sections.items()
        for key in section.model_fields
        if wanted in {key, f"{name}.{key}"}
    ]
    return f"No such option: {flag}; write {' or '.join(options)}" if options else message


def _end(name: str, message: str, status: int) -> int:
    """Print the message, unless another process of the same run prints it, and return `status`."""
    words = failures.final_message(" ".join(message.split()), distributed.local_rank())
    if words is not None:
        sys.stderr.write(f"{name.split()[-1]}: {words}\n")
        sys.stderr.flush()
    failures.announce_reported()
    return status
