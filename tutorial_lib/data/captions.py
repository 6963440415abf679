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
_THING = rf"(?: (?:an?|any|wearing))*(?: (?:{'|'.join(COLORS)}))?(?: sun)? [a-z]+"
_DENIED = rf"\b(?:no|not|without)(?! hair){_THING}(?: or{_THING})*"
_RULES = (  # what to look for, and the phrases that it says
    (rf"\b({'|'.join(MOODS)})\b", "{0}"),
    (r"\b(?:no|without) hair\b", "no hair"),
    (rf"\b({'|'.join(h for h in HAIR if h not in ('no', 'bun'))})(?: [a-z]+){{0,2}} hair\b", "{0} hair"),
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


def _likeness(phrase: str, text: list[str]) -> float:
    """How much the phrase resembles the stretch of the text, as many words long, that resembles it most."""
    n = len(phrase.split())
    stretches = [" ".join(text[i : i + n]) for i in range(max(1, len(text) - n + 1))]
    return max(difflib.SequenceMatcher(None, phrase, stretch).ratio() for stretch in stretches)


def caption_phrases(caption: str) -> list[str]:
    """The known phrases in a caption, in the order of PHRASES: "sunglasses on a red background" says two.

    What a caption does not mention it leaves open, and so it does what it denies, for no phrase but "no hair" says that
    something is not there. Raises ValueError when no phrase is found, with the nearest one.
    """
    if not isinstance(caption, str):
        raise TypeError(f"caption must be a string, but a {type(caption).__name__} came")
    text = re.sub(_DENIED, "", " ".join(caption.lower().split()))
    found = {said.format(*match.groups()) for rule, said in _RULES for match in re.finditer(rule, text)}
    if not found:
        near = max(PHRASES, key=lambda phrase: _likeness(phrase, caption.lower().split()))
        raise ValueError(f"caption {caption!r} has no phrase that the faces know; the nearest is {near!r}")
    return [phrase for phrase in PHRASES if phrase in found]


def words(captions: Sequence[str]) -> Tensor:
    """Captions as float vectors (B, len(PHRASES)) of zeros and ones: one where the phrase is said, see `caption_phrases`."""
    if isinstance(captions, str):
        raise TypeError("captions must be a list of strings, but one string came; write [caption]")
    rows = [set(caption_phrases(caption)) for caption in captions]
    said = [float(phrase in row) for row in rows for phrase in PHRASES]
    return torch.tensor(said).reshape(len(rows), len(PHRASES))
