"""The notebooks run from top to bottom, and are stored in git without outputs."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "picie"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TINY = {
    "tour": "N_TRAIN, N_VAL, SIZE, CROP, K, EPOCHS = 8, 4, 64, 64, 6, 2",
    "understanding-picie": "N_TRAIN, N_VAL, SIZE, CROP, K, EPOCHS = 10, 4, 64, 64, 8, 1",
}
CHECKS = {  # assertions on a notebook's own variables, run after its last cell
    "tour": """
assert labels.shape == (160, 240) and labels.max() < K
assert len(found) == N_VAL - 1  # at most one per picture, the query's own left out
assert all(a.similarity >= b.similarity for a, b in zip(found, found[1:]))
assert result.confusion.shape == (8, K)
assert 0 < result.matchings["one-to-one"].accuracy <= result.matchings["many-to-one"].accuracy < 1
assert all(0 < line["within"] < 5 for line in lines) and len(lines) == EPOCHS
assert segmenter.names[:2] == ("sky", "cloud")
""",
    "understanding-picie": """
assert 0 < agreement < 1
assert aligned["view 2"] > aligned["view 2 without G"] + 0.05  # cells align only where G also moves the features
assert all(0 < value < 10 for row in entropy for value in row)
assert clustering.counts.sum(1).tolist() == [store.read(indices)[0].numel()] * 2
assert all(0 < result.scores.miou < 1 for result in (baselines | results | compared_results).values())
assert all(1 / K < value <= 1 for value in consistency.values())
assert set(SETTINGS) == {*registry.INVARIANCE, *registry.EQUIVARIANCE}
""",
}
PICTURES = {"tour": 9, "understanding-picie": 8}  # the number of cells that show a picture


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_is_stored_without_outputs(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) >= (4, 5), "older formats have no cell ids and change with every save"
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs, f"{cell.id}: clear all outputs before you save"
            assert cell.execution_count is None, f"{cell.id}: clear all outputs before you save"
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert path.read_text("utf-8") == nbformat.writes(notebook, indent=1) + "\n"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_what_a_notebook_refers_to_exists(path: Path) -> None:
    text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", text):
        assert (path.parent / target).is_file(), target
    for file, name in re.findall(r"`([a-z_/]+\.py)(?:: ([\w.]+))?`", text):
        assert (SOURCE / file).is_file(), file
        assert not name or name in names_in(SOURCE / file), f"{file}: {name}"


def names_in(path: Path) -> set[str]:
    """Functions and classes, and methods as Class.method."""
    names = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
            names |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return names


@pytest.mark.long
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_runs_from_top_to_bottom(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TMPDIR", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR"):  # nothing is written outside of tmp_path
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(SOURCE.parent))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = read(path)
    (parameters,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert notebook.cells.index(parameters) == 1, "the first code cell"
    assert set(re.findall(r"[A-Z_]{2,}|K", TINY[path.stem])) <= set(re.findall(r"\w+", parameters.source))
    parameters.source += "\n" + TINY[path.stem]
    notebook.cells.append(nbformat.v4.new_code_cell(CHECKS[path.stem]))
    NotebookClient(notebook, timeout=300).execute(cwd=str(tmp_path))
    shown = [c.id for c in notebook.cells if any("image/png" in o.get("data", {}) for o in c.get("outputs", []))]
    assert len(shown) == PICTURES[path.stem], shown
    printed = [o.text for c in notebook.cells for o in c.get("outputs", []) if o.output_type == "stream" and o.name == "stdout"]
    assert any("epoch 1/" in text for text in printed), "the lines of a training run are shown"
