"""Undo for the changes that `picie name` stores in a run.

The checkpoint's entry `undo` is a list of what the run's names and clusters were before each of
the latest changes, oldest first. Teaching by clicks changes a run many times, so what it was before
the first of these changes is kept, however many there are:

    what        the change, in words
    naming      the entry `naming` before it, or None
    matching    the matching before it, or None
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from picie.errors import InputError
from picie.runtime import checkpoint

_STEPS = 50  # clusters that several steps share are stored once


def remember(before: Mapping[str, Any], after: dict[str, Any], what: str) -> dict[str, Any]:
    """Return the state `after` a change, from which `undone` returns to the state `before`."""
    step = {"what": what, "naming": before.get("naming"), "matching": before.get("matching")}
    return {**after, "undo": _latest([*before.get("undo", []), step])}


def _latest(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The latest steps, with the last one to names that were not taught by clicks."""
    kept = steps[-_STEPS:]
    if all(checkpoint.taught_clicks(step) is not None for step in kept):
        not_taught = [step for step in steps if checkpoint.taught_clicks(step) is None]
        kept[: len(not_taught[-1:])] = not_taught[-1:]
    return kept


def undone(state: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Return the state before the latest change, and the change in words.

    A matching that was made since is kept if it is of the same clusters.

    Raises:
        InputError: there is nothing to undo.
    """
    if not state.get("undo"):
        raise InputError("--undo: the run has no change of names or clusters that could be undone")
    *steps, last = state["undo"]
    before = {key: value for key, value in state.items() if key not in {"naming", "undo"}}
    if last["naming"] is not None:
        before["naming"] = last["naming"]
    if steps:
        before["undo"] = steps
    same = all(
        torch.equal(now, then)
        for now, then in zip(checkpoint.classifier_in_use(state), checkpoint.classifier_in_use(before), strict=True)
    )
    return before if same else {**before, "matching": last["matching"]}, last["what"]


def undo(run: str | Path) -> str:
    """Undo the latest change of a run's names or clusters.

    Returns:
        The change, in words.

    Raises:
        InputError: the run does not exist, another process is using it, or there is nothing to
            undo.
    """
    with checkpoint.changing(run) as (path, state):
        before, what = undone(state)
        checkpoint.save(path, before)
    return what


def last_change(state: Mapping[str, Any]) -> str | None:
    """The latest change that can be undone, in words, or None."""
    steps = state.get("undo")
    return steps[-1]["what"] if steps else None
