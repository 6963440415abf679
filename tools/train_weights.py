"""Train the shipped weights and put them, with their cards, into the package.

python tools/train_weights.py                        every recipe in order, each from its last checkpoint if there is one
python tools/train_weights.py photo-regression-x4    one of them
python tools/train_weights.py NAME --export-only     no training: weights and card from the checkpoint in runs/NAME
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tutorial_lib.pretrained import FOLDER
from tutorial_lib.recipes import DIRECT_RECIPES, RECIPES
from tutorial_lib.training import export, fit, solve

RUNS = Path(__file__).parents[1] / "runs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="recipes; all by default")
    parser.add_argument("--export-only", action="store_true", help="use the checkpoint that is there")
    arguments = parser.parse_args()
    known = RECIPES | DIRECT_RECIPES
    for name in arguments.names or known:
        if name not in known:
            parser.error(f"unknown recipe {name!r}; there are {', '.join(known)}")
        if name in DIRECT_RECIPES:  # nothing to go on from
            print(solve(DIRECT_RECIPES[name](), FOLDER))
            continue
        recipe = RECIPES[name]()
        if not arguments.export_only:
            fit(recipe, out=RUNS / name, resume=True)
        print(export(recipe, RUNS / name / "state.safetensors", FOLDER))


if __name__ == "__main__":
    main()
