"""What goes wrong in one of several processes, and how the others come to know of it, so that none waits in vain.

A process that an error leaves writes a note to a store that all can read, then closes its connections. Whoever waits for it at
that time, or later, is told so by the backend, finds the note, and raises the same error. Where there is no note the process
was killed, or its machine cannot be reached. One process says it: the main one, or the first to notice if that is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from picie import errors
from picie.errors import LostError, PicieError, Stopped, TrainingError

_PATIENCE = 20.0  # seconds; torchrun ends its processes 30 after it asked them to stop
_team: _Team | None = None  # inside `shared`
_last: _Team | None = None  # the latest


@contextlib.contextmanager
def shared(store: Any, rank: int) -> Iterator[None]:
    """Inside, processes depend on each other; `store` is where they leave notes."""
    global _team, _last
    _team = _last = _Team(store, rank)
    watch = _Watch(_team)
    try:
        yield
    except BaseException as error:
        _team.fail(error)
        raise
    else:
        _team.silent = rank > 0
        _close()
    finally:
        watch.close()
        _team = None


@contextlib.contextmanager
def reaching() -> Iterator[None]:
    """Inside, this process waits for others. Raises the error that one of them left, or `LostError`."""
    assert _team is not None
    _team.exchanges += 1
    try:
        yield
    except RuntimeError as error:
        raise _team.cause(error) from error
    finally:
        _team.exchanges += 1


def wording(message: str, local_rank: int) -> str | None:
    """How this process says `message`, with which it ends; None where another process says it.

    What goes wrong before processes meet goes wrong in each of a machine's: its first says it. The others wait for their end,
    which torchrun brings them when the first ends; if they ended before, it would bring it to that one, maybe unheard.
    """
    if _last is None:
        if local_rank > 0:
            time.sleep(_PATIENCE)
        return message if local_rank == 0 else None
    return None if _last.silent else f"{_last.prefix}{message}"


def said() -> None:
    """The main process has said with what it ends: the others may go, upon which torchrun ends all."""
    if _last is not None and _last.rank == 0:
        with contextlib.suppress(RuntimeError):
            _last.store.set("said", "")


class _Team:
    """What this process knows of the others.

    Attributes:
        exchanges: odd while it waits for others, and one more at each beginning and end.
        silent: whether another process says with what this one ends.
        prefix: what comes before it.
    """

    def __init__(self, store: Any, rank: int) -> None:
        self.store, self.rank = store, rank
        self.exchanges, self.silent, self.prefix = 0, False, ""
        self._from_others = False

    def cause(self, failed: RuntimeError) -> PicieError:
        """Why an exchange `failed`."""
        with contextlib.suppress(RuntimeError):
            if self.store.check(["note"]):
                self._from_others = True
                return _read_note(self.store.get("note").decode())
        first = (str(failed).splitlines() or [type(failed).__name__])[0]
        reason = re.sub(r"^\[\S+\] ", "", first).split(". ")[0]  # without the source line, and advice that is not for here
        return LostError(f"rank {self.rank}: another process of this run died or cannot be reached ({reason})")

    def fail(self, error: BaseException) -> None:
        """Leave a note, go away, and find out who says it."""
        if not (self._from_others or isinstance(error, LostError)):
            with contextlib.suppress(RuntimeError):
                self.store.compare_set("note", "", _write_note(error, self.rank))
        _close()
        if self.rank > 0 and not isinstance(error, LostError) and self._hears_it_said():
            self.silent = True
            return
        self.silent = not self._is_first_to_say()
        if self.rank > 0 and not isinstance(error, LostError):
            self.prefix = f"rank {self.rank}: "

    def _hears_it_said(self) -> bool:
        """Whether the main process says it; until then this one stays, or torchrun would end that one before it can."""
        try:
            self.store.wait(["said"], timedelta(seconds=_PATIENCE))
        except RuntimeError:
            return False
        return True

    def _is_first_to_say(self) -> bool:
        try:
            return bool(self.store.add("saying", 1) == 1)
        except RuntimeError:  # the store is gone with the main process
            return True


def _close() -> None:
    """Close the connections to the others."""
    import torch.distributed as dist

    with contextlib.suppress(RuntimeError, AssertionError, ValueError):
        dist.destroy_process_group()


def _write_note(error: BaseException, rank: int) -> str:
    of_picie = isinstance(error, PicieError)
    text = str(error) if of_picie else f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    bases = (base.__name__ for base in type(error).__mro__) if of_picie else iter([TrainingError.__name__])
    kind = next(name for name in bases if hasattr(errors, name))
    return json.dumps({"kind": kind, "text": text, "signum": getattr(error, "signum", None), "rank": rank})


def _read_note(note: str) -> PicieError:
    found = json.loads(note)
    if found["signum"] is not None:
        return Stopped(found["signum"], found["text"])
    kind = getattr(errors, found["kind"], TrainingError)
    error: PicieError = kind(f"rank {found['rank']}: {found['text']}" if found["rank"] else found["text"])
    return error


class _Watch:
    """Ends this process, with a word, if it was asked to stop and goes on waiting for others.

    A process that waits inside an exchange takes no signal in Python. gloo tells at once of connections that were closed; NCCL
    and a machine that fell silent do not.
    """

    def __init__(self, team: _Team) -> None:
        self._team, self._asked, self._over = team, threading.Event(), threading.Event()
        self._ends: tuple[int, int] | None = None
        if threading.current_thread() is threading.main_thread():
            self._ends = os.pipe()
            os.set_blocking(self._ends[1], False)
            self._before = signal.set_wakeup_fd(self._ends[1], warn_on_full_buffer=False)
            threading.Thread(target=self._watch, args=(self._ends[0],), name="picie-watch", daemon=True).start()

    def _watch(self, asked: int) -> None:
        with os.fdopen(asked, "rb", buffering=0) as signals:
            number = signals.read(1)
            while number and number[0] not in (signal.SIGINT, signal.SIGTERM):  # a scheduler's word, say
                number = signals.read(1)
            if not number:
                return
        seen, since = self._team.exchanges, time.monotonic()
        while not self._over.wait(_PATIENCE / 20):
            if self._team.exchanges != seen or seen % 2 == 0:
                seen, since = self._team.exchanges, time.monotonic()
            elif time.monotonic() - since > _PATIENCE:
                if self._team._is_first_to_say():
                    sys.stderr.write(
                        f"picie: error: rank {self._team.rank}: was asked to stop, and waits in vain for another process of "
                        "this run, which died or cannot be reached; the last checkpoint is kept, --resume goes on with it\n"
                    )
                    sys.stderr.flush()
                os._exit(1)

    def close(self) -> None:
        """Stop watching."""
        self._over.set()
        if self._ends is not None:
            signal.set_wakeup_fd(self._before)
            os.close(self._ends[1])  # which ends the thread's wait
