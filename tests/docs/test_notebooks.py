"""The notebooks of the documentation: they run from start to end, and what is shown came from a whole run."""

import json

import nbformat
import pytest
from nbclient import NotebookClient

from tests.support.tools import ROOT

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def test_there_are_notebooks():
    assert NOTEBOOKS


def test_what_is_shown_came_from_one_whole_run(notebook):
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [
        out for cell in code for out in cell.outputs if out.output_type == "error" or out.get("name") == "stderr"
    ]
    assert len(json.dumps(notebook)) < 400_000


@pytest.mark.slow
def test_it_runs(notebook, tmp_path, monkeypatch):
    monkeypatch.delenv("MPLBACKEND", raising=False)  # figures of a notebook are its outputs
    shown = [len(cell.outputs) for cell in notebook.cells if cell.cell_type == "code"]
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", coalesce_streams=True, resources={"metadata": {"path": tmp_path}}
    ).execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    kinds = [[out.output_type for out in cell.outputs if out.get("name") != "stderr"] for cell in code]
    assert [len(outputs) for outputs in kinds] == shown
    (result,) = tmp_path.glob("runs/*/result.json")
    assert json.loads(result.read_text())["top1"] > 70
