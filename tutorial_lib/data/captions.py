"""Words for faces: the phrases that captions of `data.faces` are made of, as vectors a network can be told."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

import torch
from torch import Tensor

from .faces import COLORS, HAIR, HAIR_COLORS, HATS

MOODS = ("smiling", "calm", "sad")
PHRASES: tuple[str, ...] = (
    *MOODS,
    "no hair",
    *(f"{style} hair" for style in HAIR if style not in ("no", "bun")),
    "bun",
    *(f"{color} hair" for color in HAIR_COLORS),
    "beard",
    "glasses",
    "sunglasses",
    *HATS[1:],
    *(f"{color} hat" for color in COLORS),
    "looking left",
    "looking right",
    *(f"{color} background" for color in COLORS),
)
_HATS = "|".join(HATS[1:])
_RULES = (  # what to look for, and the phrases that it says
    (rf"\b({'|'.join(MOODS)})\b", "{0}"),
    (r"\bno hair\b", "no hair"),
    (rf"\b({'|'.join(h for h in HAIR if h not in ('no', 'bun'))})\b[a-z ]*\bhair\b", "{0} hair"),
    (r"\bbun\b", "bun"),
    (rf"\b({'|'.join(HAIR_COLORS)}) hair\b", "{0} hair"),
    (r"\bbeard\b", "beard"),
    (r"\bglasses\b", "glasses"),
    (r"\bsunglasses\b", "sunglasses"),
    (rf"\b({_HATS})\b", "{0}"),
    (rf"\b({'|'.join(COLORS)}) (?:{_HATS}|hat)\b", "{0} hat"),
    (r"\blooking (left|right)\b", "looking {0}"),
    (rf"\b({'|'.join(COLORS)}) background\b", "{0} background"),
)


def caption_phrases(caption: str) -> list[str]:
    """The known phrases in a caption, in the order of PHRASES: "sunglasses on a red background" says two.

    What a caption does not mention it leaves open. Raises ValueError when no phrase is found, with the nearest one.
    """
    if not isinstance(caption, str):
        raise TypeError(f"caption must be a string, but a {type(caption).__name__} came")
    text = caption.lower()
    found = {said.format(*match.groups()) for rule, said in _RULES for match in re.finditer(rule, text)}
    if not found:
        near = difflib.get_close_matches(text.strip(), PHRASES, n=1, cutoff=0.0)[0]
        raise ValueError(f"caption {caption!r} has no phrase that the faces know; the nearest is {near!r}")
    return [phrase for phrase in PHRASES if phrase in found]


def words(captions: Sequence[str]) -> Tensor:
    """Captions as float vectors (B, len(PHRASES)) of zeros and ones: one where the phrase is said, see `caption_phrases`."""
    if isinstance(captions, str):
        raise TypeError("captions must be a list of strings, but one string came; write [caption]")
    rows = [set(caption_phrases(caption)) for caption in captions]
    return torch.tensor([[float(phrase in row) for phrase in PHRASES] for row in rows])
