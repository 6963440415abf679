"""Train the shipped weights and put them, with their cards, into the package.

python tools/train_weights.py                        every recipe in order, each from its last checkpoint if there is one
python tools/train_weights.py photo-regression-x4    one of them
python tools/train_weights.py NAME --export-only     no training: weights and card from the checkpoint in runs/NAME
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tutorial_lib.pretrained import FOLDER
from tutorial_lib.recipes import RECIPES
from tutorial_lib.training import export, fit

RUNS = Path(__file__).parents[1] / "runs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="recipes; all by default")
    parser.add_argument("--export-only", action="store_true", help="use the checkpoint that is there")
    arguments = parser.parse_args()
    for name in arguments.names or RECIPES:
        if name not in RECIPES:
            parser.error(f"unknown recipe {name!r}; there are {', '.join(RECIPES)}")
        recipe = RECIPES[name]()
        if not arguments.export_only:
            fit(recipe, out=RUNS / name, resume=True)
        print(export(recipe, RUNS / name / "state.safetensors", FOLDER))


if __name__ == "__main__":
    main()
