"""How every shipped weight comes to be: network, data, loss and numbers, one function per recipe.

`python -m tutorial_lib train photo-regression-x4` follows one from start to end.
"""

from __future__ import annotations

from collections.abc import Callable

from . import conditioning, corruption, domains, generative, sr3
from .base import DirectRecipe, Recipe
from .digits import digits_likelihood
from .faces import faces_distilled_32, faces_unconditional_32, faces_unconditional_64
from .photos import photo_regression_x4, photo_residual_x4, photo_unconditional
from .sparse import photo_sparse_x4

RECIPES: dict[str, Callable[[], Recipe]] = {
    "photo-regression-x4": photo_regression_x4,
    "photo-residual-x4": photo_residual_x4,
    "faces-unconditional-32": faces_unconditional_32,
    "faces-distilled-32": faces_distilled_32,
    "faces-unconditional-64": faces_unconditional_64,
    "photo-unconditional": photo_unconditional,
    "digits-likelihood": digits_likelihood,
    **generative.RECIPES,
    **sr3.RECIPES,
    **conditioning.RECIPES,
    **domains.RECIPES,
    **corruption.RECIPES,
}
DIRECT_RECIPES: dict[str, Callable[[], DirectRecipe]] = {"photo-sparse-x4": photo_sparse_x4}

__all__ = ["DIRECT_RECIPES", "RECIPES", "DirectRecipe", "Recipe"]
