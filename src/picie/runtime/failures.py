"""Passes an error in one of several processes on to the others, so that none waits forever.

A process that fails writes a note to a store that all can read and closes its connections. The
backend reports this to any process that waits for it, then or later; that process reads the note
and raises the same error. If there is no note, the process was killed or its machine cannot be
reached. One process prints the message: the main process, or the first to notice if that is gone.

torchrun's error records cannot replace this: they are written by the failed process and read by
the launcher after it has ended the others, so the others could not raise the error, and a killed
process leaves none. Its summary is also a report of many lines, and it knows no rank that waits
for a machine that stopped responding.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from picie import errors
from picie.errors import LostError, PicieError, Stopped, TrainingError

_TIMEOUT = 20.0  # seconds; torchrun kills processes 30 s after asking them to stop
_group: _Group | None = None  # inside `shared_failures`
_last: _Group | None = None  # the latest group


@contextlib.contextmanager
def shared_failures(store: Any, rank: int) -> Iterator[None]:
    """Share errors between processes within the block, by notes in `store`."""
    global _group, _last
    _group = _last = _Group(store, rank)
    watch = _Watch(_group)
    try:
        yield
    except BaseException as error:
        _group.fail(error)
        raise
    else:
        _group.silent = rank > 0
        _close()
    finally:
        watch.close()
        _group = None


@contextlib.contextmanager
def communication() -> Iterator[None]:
    """Mark that this process waits for others within the block.

    Raises the error that another process noted, or `LostError`.
    """
    assert _group is not None
    _group.exchanges += 1
    try:
        yield
    except RuntimeError as error:
        raise _group.cause(error) from error
    finally:
        _group.exchanges += 1


def final_message(message: str, local_rank: int) -> str | None:
    """Return the final error line of this process, or None if another process prints it.

    An error before the processes connect occurs in each process of a machine, and its first
    process prints it. The others wait for torchrun to end them after the first has ended; if they
    ended earlier, torchrun might end the first process before it has printed the message.
    """
    if _last is None:
        if local_rank > 0:
            time.sleep(_TIMEOUT)
        return message if local_rank == 0 else None
    return None if _last.silent else f"{_last.prefix}{message}"


def announce_reported() -> None:
    """Announce that the main process has printed its error.

    The others may exit, and torchrun then ends all.
    """
    if _last is not None and _last.rank == 0:
        with contextlib.suppress(RuntimeError):
            _last.store.set("reported", "")


class _Group:
    """The state that this process shares with the others of its run.

    Attributes:
        exchanges: Counts beginnings and ends of exchanges; odd while this process waits for
            others.
        silent: Whether another process prints the final error.
        prefix: The text before the final error.
    """

    def __init__(self, store: Any, rank: int) -> None:
        self.store, self.rank = store, rank
        self.exchanges, self.silent, self.prefix = 0, False, ""
        self._from_others = False

    def cause(self, failed: RuntimeError) -> PicieError:
        """Return the error behind a `failed` exchange."""
        with contextlib.suppress(RuntimeError):
            if self.store.check(["note"]):
                self._from_others = True
                return _read_note(self.store.get("note").decode())
        first_line = (str(failed).splitlines() or [type(failed).__name__])[0]
        # Drop the source location and the advice.
        reason = re.sub(r"^\[\S+\] ", "", first_line).split(". ")[0]
        return LostError(f"rank {self.rank}: another process of this run died or cannot be reached ({reason})")

    def fail(self, error: BaseException) -> None:
        """Write a note, close the connections, and determine which process prints the error."""
        if not (self._from_others or isinstance(error, LostError)):
            with contextlib.suppress(RuntimeError):
                self.store.compare_set("note", "", _write_note(error, self.rank))
        _close()
        if self.rank > 0 and not isinstance(error, LostError) and self._wait_for_report():
            self.silent = True
            return
        self.silent = not self._is_first_to_report()
        if self.rank > 0 and not isinstance(error, LostError):
            self.prefix = f"rank {self.rank}: "

    def _wait_for_report(self) -> bool:
        """Wait until the main process has printed the error; return whether it did.

        If this process exited earlier, torchrun would end the main process before it could print.
        """
        try:
            self.store.wait(["reported"], timedelta(seconds=_TIMEOUT))
        except RuntimeError:
            return False
        return True

    def _is_first_to_report(self) -> bool:
        try:
            return bool(self.store.add("reporting", 1) == 1)
        except RuntimeError:  # the store is gone with the main process
            return True


def _close() -> None:
    """Close the connections to the other processes."""
    import torch.distributed as dist

    with contextlib.suppress(RuntimeError, AssertionError, ValueError):
        dist.destroy_process_group()


def _write_note(error: BaseException, rank: int) -> str:
    is_picie_error = isinstance(error, PicieError)
    text = str(error) if is_picie_error else f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    bases = (base.__name__ for base in type(error).__mro__) if is_picie_error else iter([TrainingError.__name__])
    kind = next(name for name in bases if hasattr(errors, name))
    return json.dumps({"kind": kind, "text": text, "signum": getattr(error, "signum", None), "rank": rank})


def _read_note(note: str) -> PicieError:
    content = json.loads(note)
    if content["signum"] is not None:
        return Stopped(content["signum"], content["text"])
    kind = getattr(errors, content["kind"], TrainingError)
    error: PicieError = kind(f"rank {content['rank']}: {content['text']}" if content["rank"] else content["text"])
    return error


class _Watch:
    """Ends this process with a message if it was asked to stop but keeps waiting for others.

    A process that waits inside an exchange runs no Python signal handlers. gloo reports closed
    connections at once; NCCL and machines that stopped responding do not.
    """

    def __init__(self, group: _Group) -> None:
        self._group, self._closed = group, threading.Event()
        self._writer: socket.socket | None = None
        if threading.current_thread() is threading.main_thread():
            # Windows has no pipes that do not block.
            reader, self._writer = socket.socketpair()
            self._writer.setblocking(False)
            self._before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
            threading.Thread(target=self._watch, args=(reader,), name="picie-watch", daemon=True).start()

    def _watch(self, signals: socket.socket) -> None:
        with signals:
            number = signals.recv(1)
            # Ignore other signals, e.g. of a scheduler.
            while number and number[0] not in (signal.SIGINT, signal.SIGTERM):
                number = signals.recv(1)
            if not number:
                return
        seen, since = self._group.exchanges, time.monotonic()
        while not self._closed.wait(_TIMEOUT / 20):
            if self._group.exchanges != seen or seen % 2 == 0:
                seen, since = self._group.exchanges, time.monotonic()
            elif time.monotonic() - since > _TIMEOUT:
                if self._group._is_first_to_report():
                    sys.stderr.write(
                        f"picie: error: rank {self._group.rank}: was asked to stop but is still waiting for another process of "
                        "this run, which died or cannot be reached; the last checkpoint is kept, continue with --resume\n"
                    )
                    sys.stderr.flush()
                os._exit(1)

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()
        if self._writer is not None:
            signal.set_wakeup_fd(self._before)
            self._writer.close()  # ends the thread's wait
