"""exercises: every check accepts the reference, refuses each named mistake with its own hint, and cannot be fooled."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from torch import Tensor

from tutorial_lib import exercises
from tutorial_lib.exercises import EXERCISES, Exercise, Mistake, check, difference, outputs

ROOT = Path(__file__).resolve().parent.parent
NUMBERS = list(EXERCISES)
CHAPTERS = sorted({number[:2] for number in NUMBERS})


def stub(*_arguments):
    raise NotImplementedError()


def filled(value: object, fill: float) -> object:
    """Something of the same type and shape as `value` that holds `fill` everywhere."""
    if isinstance(value, Tensor):
        return torch.full_like(value, fill)
    if isinstance(value, tuple | list):
        return type(value)(filled(v, fill) for v in value)
    if isinstance(value, bool):
        return bool(fill)
    return fill if isinstance(value, int | float | np.number) else ""


@pytest.mark.parametrize("number", NUMBERS)
def test_the_reference_passes(number, capsys):
    exercise = EXERCISES[number]
    result = check(number, exercise.reference)
    assert result and result.passed, result.message
    assert capsys.readouterr().out == f"{number} passed: {exercise.title}.\n"


@pytest.mark.parametrize("number", NUMBERS)
def test_the_stub_fails_politely(number):
    result = check(number, stub)
    assert not result
    assert "not done yet" in result.message and "\n" not in result.message


@pytest.mark.parametrize("number", NUMBERS)
def test_each_mistake_is_called_by_its_name(number):
    exercise = EXERCISES[number]
    assert len(exercise.mistakes) >= 3
    assert (
        len({m.hint for m in exercise.mistakes}) == len({m.name for m in exercise.mistakes}) == len(exercise.mistakes)
    )
    for mistake in exercise.mistakes:
        result = check(number, mistake.answer)
        assert not result, f"{mistake.name}: accepted"
        assert result.message == f"{number} not yet: {mistake.name}. {mistake.hint}"
        assert "\n" not in result.message and len(result.message) < 400
        assert not mistake.name.endswith(".") and mistake.hint.endswith((".", "?", "!"))


@pytest.mark.parametrize("number", NUMBERS)
def test_zeros_ones_and_the_input_fail(number):
    exercise = EXERCISES[number]
    right = outputs(exercise, exercise.reference)
    for fill in (0.0, 1.0):
        answers = iter([filled(right[0], fill), *(filled(value, fill) for value in right)] * 2)
        wrong = next(answers) if exercise.inputs is None else lambda *_arguments, answers=answers: next(answers)
        # A yes-or-no question has one of the two as its answer; over several draws no constant may pass.
        if not (exercise.inputs is None and isinstance(right[0], bool)):
            assert not check(number, wrong), f"all {fill} is accepted"
    if exercise.inputs is not None:
        assert not check(number, lambda *arguments: arguments[0]), "the first argument is accepted"
    assert not check(number, None)


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_exercises_are_numbered_and_asked_in_the_solutions(chapter):
    numbers = [n for n in NUMBERS if n.startswith(chapter)]
    assert numbers == [f"{chapter}.{i}" for i in range(1, len(numbers) + 1)]
    (source,) = (ROOT / "solutions" / "source").glob(f"{chapter}_*.py")
    text = source.read_text()
    assert re.findall(r"(?m)^assert check\(\"(\d\d\.\d+)\"", text) == numbers
    assert re.findall(r"(?m)^# #+ Exercise (\d\d\.\d+)", text) == numbers
    assert text.count("### BEGIN SOLUTION") >= len(numbers)


@pytest.mark.parametrize("path", sorted((ROOT / "exercises").glob("*.ipynb")), ids=lambda p: p.stem)
def test_a_fresh_exercise_notebook_runs_and_says_what_is_to_do(path, capsys, monkeypatch):
    monkeypatch.setattr("builtins.display", lambda *_figures: None, raising=False)
    scope: dict = {}
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            assert not cell.outputs
            exec(compile(cell.source, path.name, "exec"), scope)
    said = capsys.readouterr().out
    asked = [n for n in NUMBERS if n.startswith(path.name[:2])]
    assert re.findall(r"(?m)^(\d\d\.\d+) is not done yet", said) == asked


# The machinery, on exercises made for it.


def double(x):
    return 2 * x


TOY = Exercise(
    "99.1",
    "twice a tensor",
    double,
    [Mistake("you squared", lambda x: x**2, "Twice x is x + x.")],
    inputs=lambda generator: (torch.randn(3, 4, generator=generator),),
)


def test_inputs_are_fresh_and_equal_for_learner_and_reference():
    first, second = outputs(TOY, lambda x: x), outputs(TOY, lambda x: x)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert len({t.sum().item() for t in first}) == exercises.DRAWS


@pytest.fixture
def toy(monkeypatch):
    """`answer -> message` for a toy exercise."""

    def ask(answer, exercise=TOY):
        monkeypatch.setattr(exercises, "EXERCISES", {exercise.number: exercise})
        return check(exercise.number, answer).message

    return ask


def in_place(x):
    return x.mul_(2)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (double, "99.1 passed: twice a tensor."),
        (lambda x: x**2, "99.1 not yet: you squared. Twice x is x + x."),
        (lambda x: 2 * x.T, "99.1 not yet: expected a tensor of shape (3, 4), but a tensor of shape (4, 3) came."),
        (lambda x: None, "99.1 not yet: expected a tensor of shape (3, 4), but None (is a return missing?) came."),
        (lambda x: x * float("nan"), "99.1 not yet: your result holds NaN"),
        (lambda x: 2 * x + 0.1, "99.1 not yet: the values are off by up to 0.1, where the right values reach"),
        (lambda x: 1 / 0, "99.1 not yet: your code raised ZeroDivisionError: division by zero"),
        (lambda: 3, "99.1 not yet: your code raised TypeError"),
        (stub, "99.1 is not done yet: write your code where the cell says YOUR CODE HERE"),
        (in_place, "99.1 not yet: the result is right, but the function changes its argument 1 in place"),
        (3.0, "99.1 not yet: hand in the function itself, without calling it, but float 3.0 came."),
        (
            torch.zeros(3),
            "99.1 not yet: hand in the function itself, without calling it, but a tensor of shape (3,) came.",
        ),
    ],
)
def test_messages(toy, answer, message):
    assert toy(answer).startswith(message)


def test_a_judge_sees_output_and_arguments(toy):
    def judge(output, x):
        return None if torch.allclose(output.sum(), x.sum()) else "The sum of your answer is not that of x."

    free = Exercise("99.2", "keep the sum", lambda x: x.flip(0), [], TOY.inputs, judge, unique=False)
    assert toy(lambda x: x.flip(1), free) == "99.2 passed: keep the sum."
    assert toy(lambda x: 2 * x, free) == "99.2 not yet: The sum of your answer is not that of x."
    assert "cannot be judged (AttributeError" in toy(lambda x: "text", free)


def test_a_measured_value_is_not_given_away(toy):
    value = Exercise("99.3", "the answer", lambda: 42.0, [Mistake("you forgot 2", 40.0, "Add 2.")], rtol=1e-2)
    assert toy(42.1, value) == toy(lambda: 42, value) == toy(torch.tensor(42.0), value) == "99.3 passed: the answer."
    assert toy(40, value) == "99.3 not yet: you forgot 2. Add 2."
    assert toy(50.0, value) == "99.3 not yet: your value 50 is too large."
    for wrong in (True, "many", [1.0], None):
        assert "not yet" in toy(wrong, value) and "42" not in toy(wrong, value)


@pytest.mark.parametrize(
    ("given", "right", "same"),
    [
        (1.0, 1.0 + 1e-6, True),
        (np.float32(2), 2.0, True),
        (torch.ones(2), np.ones(2), True),
        (torch.ones(1, 2), torch.ones(2), False),
        ((1.0, 2.0), [1.0, 2.0], True),
        ((1.0, 2.0), (1.0, 2.5), False),
        (1.0, (1.0, 2.0), False),
        ("b", "b", True),
        ("b", "c", False),
        (1, True, False),
        (True, True, True),
        (torch.ones(2, dtype=torch.bool), torch.ones(2), True),
    ],
)
def test_difference(given, right, same):
    assert (difference(given, right, 1e-4, 1e-5) is None) is same


@pytest.mark.skipif(not NUMBERS, reason="no chapter has exercises yet")
def test_an_unknown_number_names_the_nearest():
    with pytest.raises(ValueError, match=r"number must be one of .*did you mean"):
        check("01.99", double)
    with pytest.raises(ValueError, match="number must be one of"):
        EXERCISES["77.1"]


def test_results_work_in_assertions_and_print_once(toy, capsys):
    toy(double)
    assert capsys.readouterr().out == "99.1 passed: twice a tensor.\n"
    assert exercises.Result("1", True, "")._ipython_display_() is None
