"""Write the student and the solution notebook of every lab from its one source, ``NN_name.py``.

    python lectures/make_notebooks.py

A source is in Jupytext's percent format. Three things in it have a meaning:

- The cell that makes ``q = Quiz(globals())`` (see `tinyconv.teaching`) holds the checkers of the exercises; it is
  folded in both notebooks, and the solutions are appended to it for ``q.solution()``.
- A cell of an exercise ends with ``q.check(number)`` and has its answer between two marks::

      answer = ...
      ### BEGIN SOLUTION
      answer = 6 * 26
      ### END SOLUTION
      q.check(1)

  The student version has a line to fill in there. Such a cell may fail, so nothing after it may need its names,
  except another exercise.
- Everything else is the same in both. Notebooks are written without output and byte for byte the same every time.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode

LECTURES = Path(__file__).parent
SOLUTION = re.compile(r"^([ \t]*)### BEGIN SOLUTION\n(.*?)^[ \t]*### END SOLUTION\n", re.MULTILINE | re.DOTALL)
CHECK = re.compile(r"^q\.check\((\d+)\)$", re.MULTILINE)
QUIZ = "Quiz(globals())"


def sources() -> list[Path]:
    """The hand-written labs, in the order of the course."""
    return sorted(LECTURES.glob("[0-9][0-9]*_*.py"))


def notebook(source: Path, version: str) -> NotebookNode:
    """The notebook of one lab; ``version`` is "student" or "solution"."""
    cells = jupytext.reads(source.read_text(encoding="utf-8"), fmt="py:percent").cells
    solutions: dict[int, str] = {}
    for cell in cells:
        cell.metadata = NotebookNode()
        answers = SOLUTION.findall(cell.source)
        if not answers:
            if "### BEGIN SOLUTION" in cell.source or CHECK.search(cell.source):
                raise ValueError(f"{source.name}: a solution has no end or a check no solution in\n{cell.source}")
            continue
        numbers = CHECK.findall(cell.source)
        if len(numbers) != 1:
            raise ValueError(
                f"{source.name}: an exercise needs one q.check(number) in its cell, found {numbers} in\n{cell.source}"
            )
        solutions[int(numbers[0])] = "\n".join(textwrap.dedent(code).rstrip() for _, code in answers)
        if version == "student":
            cell.source = SOLUTION.sub(r"\1...  # your code here\n", cell.source)
            cell.metadata.tags = ["exercise", "raises-exception"]  # "run all" goes on after the second
        else:
            cell.source = SOLUTION.sub(r"\2", cell.source)
            cell.metadata.tags = ["exercise"]
    for cell in cells:
        if QUIZ in cell.source:
            cell.source += "\n\n" + "\n".join(f"q.set_solution({n}, {text!r})" for n, text in sorted(solutions.items()))
            cell.metadata.jupyter = {"source_hidden": True}
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number:03d}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})


def outputs(source: Path) -> dict[Path, str]:
    """The files of one lab and what they must hold."""
    return {
        LECTURES / version / f"{source.stem}.ipynb": nbformat.writes(notebook(source, version), indent=1) + "\n"
        for version in ("student", "solution")
    }


def main() -> None:
    for source in sources():
        for path, text in outputs(source).items():
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(path.relative_to(LECTURES.parent))


if __name__ == "__main__":
    main()
