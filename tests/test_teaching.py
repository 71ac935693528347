"""The generator of the notebooks and the self-checking exercises."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import pytest

import make_notebooks
from tinyconv.teaching import NotSolved, Quiz, show

LAB = """# %% [markdown]
# # A lab

# %%
from tinyconv.teaching import Quiz
q = Quiz(globals())

@q.exercise(2, "Double it.")
def _(double):
    if double(2) != 4:
        return "twice two is four."

# %%
def double(x):
    ### BEGIN SOLUTION
    return 2 * x
    ### END SOLUTION
q.check(2)
"""


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    source = tmp_path / "01_lab.py"
    source.write_text(LAB)
    return source


def run(source: Path, version: str) -> None:
    namespace: dict[str, object] = {}
    for cell in make_notebooks.notebook(source, version).cells:
        if cell.cell_type == "code":
            exec(cell.source, namespace)


def test_solution_version_passes(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(lab, "solution")
    assert "Exercise 2 is right." in capsys.readouterr().out


def test_student_version_has_no_answer_and_fails_in_its_exercise(lab: Path) -> None:
    markdown, quiz, exercise = make_notebooks.notebook(lab, "student").cells
    assert exercise.source == "def double(x):\n    ...  # your code here\nq.check(2)"
    assert exercise.metadata.tags == ["exercise", "raises-exception"]
    with pytest.raises(NotSolved, match="Exercise 2: twice two is four"):
        run(lab, "student")


def test_solution_text_reaches_the_student_notebook(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    namespace: dict[str, object] = {}
    exec(make_notebooks.notebook(lab, "student").cells[1].source + "\nq.solution(2)", namespace)
    assert capsys.readouterr().out == "return 2 * x\n"


def test_notebooks_are_the_same_every_time(lab: Path) -> None:
    assert make_notebooks.outputs(lab) == make_notebooks.outputs(lab)


@pytest.mark.parametrize(
    "broken",
    [
        LAB.replace("### END SOLUTION", ""),
        LAB.replace("q.check(2)", ""),
        LAB.replace("### BEGIN", "").replace("### END", ""),
    ],
    ids=["no end", "no check", "no solution"],
)
def test_generator_refuses_a_broken_exercise(lab: Path, broken: str) -> None:
    lab.write_text(broken)
    with pytest.raises(ValueError, match="01_lab.py"):
        make_notebooks.notebook(lab, "student")


def quiz_about(namespace: dict[str, object]) -> Quiz:
    q = Quiz(namespace)

    @q.exercise(1, "first hint", "second hint")
    def _(answer: int) -> str | None:
        return None if answer == 42 else f"{answer} is not 42."

    return q


@pytest.mark.parametrize("namespace", [{}, {"answer": ...}])
def test_open_exercise_names_what_to_define(namespace: dict[str, object]) -> None:
    with pytest.raises(NotSolved, match="Exercise 1 is open: define `answer`"):
        quiz_about(namespace).check(1)


def test_wrong_answer_is_diagnosed_in_one_line() -> None:
    with pytest.raises(NotSolved, match="Exercise 1: 41 is not 42.") as raised:
        quiz_about({"answer": 41}).check(1)
    assert raised.value._render_traceback_() == [str(raised.value)]


def test_hints_come_one_at_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    q = quiz_about({"answer": 42})
    q.check(1)
    for _ in range(3):
        q.hint()
    assert capsys.readouterr().out.splitlines()[1:] == ["first hint", "second hint", "second hint"]


@pytest.mark.parametrize("call", ["check", "hint", "solution"])
def test_unknown_number_is_refused(call: str) -> None:
    with pytest.raises(ValueError, match=rf"{call}: number must be one of \[1\], but is 7"):
        getattr(quiz_about({}), call)(7)


def test_exercise_without_hint_is_refused() -> None:
    with pytest.raises(ValueError, match="exercise 3 has no hint"):
        Quiz({}).exercise(3)


def test_wide_figure_is_refused() -> None:
    figure = plt.figure(figsize=(8, 2))
    with pytest.raises(ValueError, match="at most 7 inches wide but is 8"):
        show(figure, "nothing")
    plt.close(figure)
