"""Is a shipped weight what its recipe makes? The first steps of a recipe again, beside the loss curve in its card.

    python benchmarks/rebuild.py faces-flow-x4 --steps 500

The same seed gives the same weights, batches and noise, so the two columns agree to rounding on the same kind of
processor and to a few per cent elsewhere; a changed loss, network or batch shows at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tutorial_lib.pretrained import MODEL_CARDS
from tutorial_lib.recipes import RECIPES
from tutorial_lib.training import STRETCH, fit

CURVE = f"mean loss of every {STRETCH} steps"


def main(arguments: Sequence[str] | None = None) -> None:
    with_curve = [name for name, card in MODEL_CARDS.items() if CURVE in card]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=with_curve)
    parser.add_argument("--steps", type=int, default=500)
    options = parser.parse_args(arguments)
    curve = MODEL_CARDS[options.name][CURVE]
    trained = fit(RECIPES[options.name](), until=options.steps, progress=False)
    print(f"{options.name}: {CURVE}\n\n| steps | card | here | here - card |\n|---|---:|---:|---:|")
    for i, (theirs, ours) in enumerate(zip(curve, trained.curve, strict=False)):
        print(f"| {i * STRETCH} to {(i + 1) * STRETCH} | {theirs:.4g} | {ours:.4g} | {ours - theirs:+.2g} |")


if __name__ == "__main__":
    main()
