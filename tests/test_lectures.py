"""Every lab runs: notebooks are fresh, solutions pass, and an untouched student notebook fails in exercises only."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

import make_notebooks

LABS = [pytest.param(source, id=source.stem) for source in make_notebooks.sources()]


@pytest.mark.parametrize("source", LABS)
def test_committed_notebooks_are_fresh(source: Path) -> None:
    for path, text in make_notebooks.outputs(source).items():
        assert path.exists() and path.read_text(encoding="utf-8") == text, f"{path.name} is stale: run `make labs`"


def test_no_notebook_without_source() -> None:
    expected = {path for source in make_notebooks.sources() for path in make_notebooks.outputs(source)}
    assert set(make_notebooks.LECTURES.glob("*/*.ipynb")) == expected


def error(cell: NotebookNode) -> str | None:
    """The name of the exception that a cell ended with."""
    return next((output.ename for output in cell.get("outputs", []) if output.output_type == "error"), None)


@pytest.mark.parametrize("source", LABS)
def test_lab_runs(source: Path) -> None:
    # One kernel runs the untouched student notebook and after it the solved exercises, as a student does who first
    # runs all and then goes back. The training in between is paid for once.
    student = make_notebooks.notebook(source, "student")
    cells = len(student.cells)
    solved = [c for c in make_notebooks.notebook(source, "solution").cells if "exercise" in c.metadata.get("tags", [])]
    student.cells += solved
    NotebookClient(
        student, timeout=None, allow_errors=True, resources={"metadata": {"path": str(source.parent)}}
    ).execute()

    for cell in student.cells[:cells]:
        expected = "NotSolved" if "exercise" in cell.metadata.get("tags", []) else None
        assert error(cell) == expected, f"student version:\n{cell.source}\n{cell.outputs}"
    for cell in student.cells[cells:]:
        assert error(cell) is None, f"solution:\n{cell.source}\n{cell.outputs}"
    assert solved, "a lab has exercises"

    pictures = [o for c in student.cells for o in c.get("outputs", []) if "image/png" in o.get("data", {})]
    assert pictures, "a lab has figures"
    for picture in pictures:
        about = picture.metadata.get("image/png", {})
        assert re.search(r"\w+ \w+", about.get("alt", "")), (
            "a figure has alternative text: tinyconv.teaching.show(figure, alt)"
        )
        assert about["width"] <= 700, "a figure is at most 7 inches wide"
