"""Exercises that answer back: `check("04.2", my_function)` says in one line whether it is right, and if not, why.

One module a chapter (`chapter_04.py`) defines `CHAPTER`, a list of `Exercise`. Each exercise has a reference answer and
named mistakes: wrong answers that people really give, each with the hint it deserves.
"""

from __future__ import annotations

import importlib
import numbers
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..checks import check_one_of

DRAWS = 4  # fresh inputs for each check


@dataclass(frozen=True)
class Mistake:
    """A wrong answer with a name: `answer` is what the learner wrote, in a few lines, `hint` what they need to hear."""

    name: str
    answer: object
    hint: str


@dataclass(frozen=True)
class Exercise:
    """One exercise.

    reference: the right function, or the right value (then `inputs` stays None and the answer is a value or a function
        without arguments).
    inputs: inputs(generator) -> tuple of arguments, drawn afresh from a seeded torch.Generator. A noise source among
        the arguments starts anew for the learner's function and for the reference, so both see the same noise.
    judge: judge(output, *arguments) -> None or one sentence saying what is wrong: the oracle, a property that the right
        answer has (A A+ A = A, a closed-form mean). It sees each output after the comparison with the reference.
    unique: False where many answers are right; then only `judge` decides.
    rtol, atol: how close to the reference is right.
    """

    number: str
    title: str
    reference: object
    mistakes: Sequence[Mistake]
    inputs: Callable[[torch.Generator], tuple] | None = None
    judge: Callable[..., str | None] | None = None
    unique: bool = True
    rtol: float = 1e-4
    atol: float = 1e-5


@dataclass(frozen=True)
class Result:
    """What `check` found: true when the answer is right. `message` is the line that was printed."""

    number: str
    passed: bool
    message: str

    def __bool__(self) -> bool:
        return self.passed

    def _ipython_display_(self) -> None:
        """Nothing: `check` has already printed the message."""


def check(number: str, answer: object) -> Result:
    """Check an answer to exercise `number` ("04.2"), print one line and return it as a Result.

    Raises ValueError for a number that does not exist; whatever the answer does wrong is told, never raised.
    """
    exercise = EXERCISES[number]
    problem = _problem(exercise, answer)
    if problem is None:
        result = Result(number, True, f"{number} passed: {exercise.title}.")
    else:
        result = Result(number, False, f"{number} {problem}")
    print(result.message)
    return result


def outputs(exercise: Exercise, answer: object) -> list:
    """What an answer gives on each of the fresh inputs (a value gives itself, once)."""
    if exercise.inputs is None:
        return [answer() if callable(answer) else answer]
    return [answer(*arguments) for arguments in map(exercise.inputs, _generators())]


def _generators() -> Iterator[torch.Generator]:
    return (torch.Generator().manual_seed(seed) for seed in range(DRAWS))


def _problem(exercise: Exercise, answer: object) -> str | None:
    """None when the answer is right, else the end of the sentence that starts with the exercise's number."""
    if exercise.inputs is not None and not callable(answer):
        return f"not yet: hand in the function itself, without calling it, but {_describe(answer)} came."
    try:
        changed = _changed_argument(exercise, answer)
        given = outputs(exercise, answer)
    except NotImplementedError:
        return "is not done yet: write your code where the cell says YOUR CODE HERE, then run the cell and check again."
    except Exception as error:  # the learner's code may raise anything; they get its message, not our traceback
        return f"not yet: your code raised {type(error).__name__}: {_line(error)}"
    problem = _first_difference(exercise, given)
    if problem is None:
        if changed is None:
            return None
        return (
            f"not yet: the result is right, but the function changes its argument {changed} in place; work on a copy."
        )
    for mistake in exercise.mistakes:
        wrong = outputs(exercise, mistake.answer)
        if all(difference(g, w, exercise.rtol, exercise.atol) is None for g, w in zip(given, wrong, strict=True)):
            return f"not yet: {mistake.name}. {mistake.hint}"
    return f"not yet: {problem}"


def _first_difference(exercise: Exercise, given: list) -> str | None:
    if exercise.unique:
        for output, right in zip(given, outputs(exercise, exercise.reference), strict=True):
            problem = difference(output, right, exercise.rtol, exercise.atol)
            if problem:
                return problem
    if exercise.judge:
        arguments = [()] if exercise.inputs is None else map(exercise.inputs, _generators())
        for output, drawn in zip(given, arguments, strict=True):
            try:
                problem = exercise.judge(output, *drawn)
            except Exception as error:  # an output of a wrong type or shape
                problem = f"{_describe(output)} cannot be judged ({type(error).__name__}: {_line(error)})."
            if problem:
                return problem
    return None


def _changed_argument(exercise: Exercise, answer: object) -> int | None:
    """The position (from 1) of the first tensor argument that the answer changes in place; None when there is none."""
    if exercise.inputs is None:
        return None
    arguments = exercise.inputs(next(_generators()))
    before = [a.clone() if isinstance(a, Tensor) else None for a in arguments]
    answer(*arguments)
    for position, (now, then) in enumerate(zip(arguments, before, strict=True), start=1):
        if then is not None and not torch.equal(torch.nan_to_num(now), torch.nan_to_num(then)):
            return position
    return None


def difference(given: object, right: object, rtol: float, atol: float) -> str | None:
    """None when `given` equals `right` within the tolerance, else one sentence: type, shape, NaN, or how far off."""
    if isinstance(right, str | bool | None):
        return None if given == right and isinstance(given, type(right)) else f"the answer {given!r} is not right."
    if isinstance(right, tuple | list):
        if not isinstance(given, tuple | list) or len(given) != len(right):
            return f"expected {len(right)} results, but {_describe(given)} came."
        found = (difference(g, r, rtol, atol) for g, r in zip(given, right, strict=True))
        return next((problem for problem in found if problem), None)
    wanted = _describe(right) if isinstance(right, Tensor | np.ndarray) else "a number"  # never the number itself
    if isinstance(given, bool | str) or not isinstance(given, Tensor | np.ndarray | numbers.Number):
        return f"expected {wanted}, but {_describe(given)} came."
    got, want = torch.as_tensor(given).detach(), torch.as_tensor(right).detach()
    one_number = want.ndim == 0 and got.numel() == 1
    if got.shape != want.shape and not one_number:
        return f"expected {wanted}, but {_describe(given)} came."
    got, want = got.to(torch.float64).reshape(want.shape), want.to(torch.float64)
    if torch.isnan(got).any() and not torch.isnan(want).any():
        return "your result holds NaN (a division by zero or the root of a negative number?)."
    if torch.allclose(got, want, rtol=rtol, atol=atol, equal_nan=True):
        return None
    if want.ndim == 0:
        return f"your value {got.item():.6g} is too {'large' if got > want else 'small'}."
    gap = (got - want).abs().max().item()
    return f"the values are off by up to {gap:.3g}, where the right values reach {want.abs().max().item():.3g}."


def _line(error: Exception) -> str:
    """The message of an error on one line."""
    return " ".join(str(error).split())[:200]


def _describe(value: object) -> str:
    if isinstance(value, Tensor | np.ndarray):
        return f"a {'tensor' if isinstance(value, Tensor) else 'NumPy array'} of shape {tuple(value.shape)}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    if value is None:
        return "None (is a return missing?)"
    return f"a {type(value).__name__}" if callable(value) else f"{type(value).__name__} {value!r}"[:80]


class _Exercises(Mapping):
    """Number -> Exercise, in order; a chapter's module is imported when one of its exercises is asked for."""

    def _chapter(self, chapter: str) -> dict[str, Exercise]:
        module = importlib.import_module(f"{__name__}.chapter_{chapter}")
        return {exercise.number: exercise for exercise in module.CHAPTER}

    def _chapters(self) -> list[str]:
        return sorted(m.name[-2:] for m in pkgutil.iter_modules(__path__) if m.name.startswith("chapter_"))

    def __getitem__(self, number: str) -> Exercise:
        chapter = str(number)[:2]
        if chapter in self._chapters() and number in (known := self._chapter(chapter)):
            return known[number]
        check_one_of(number, list(self), "number")
        raise KeyError(number)

    def __iter__(self) -> Iterator[str]:
        return (number for chapter in self._chapters() for number in self._chapter(chapter))

    def __len__(self) -> int:
        return sum(1 for _ in self)


EXERCISES: Mapping[str, Exercise] = _Exercises()
