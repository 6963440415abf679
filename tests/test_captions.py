"""Captions and words: what a caption says of a face is true, and all that it says becomes ones in the right places."""

from __future__ import annotations

import pytest
import torch

from tutorial_lib.data import faces
from tutorial_lib.data.captions import PHRASES, caption_phrases, words
from tutorial_lib.data.faces import COLORS, HAIR, HAIR_COLORS, HATS, NAMES


def true_phrases(attributes, i):
    """Every phrase that is true of face i, from its attributes alone (thresholds as in the captions' documentation)."""
    word = {name: values[attributes[name][i]] for name, values in NAMES.items()}
    smile, pose = attributes["smile"][i].item(), attributes["pose"][i].item()
    truths = {
        "smiling": smile > 0.35,
        "sad": smile < -0.25,
        "calm": -0.25 <= smile <= 0.35,
        "looking left": pose <= -0.4,
        "looking right": pose >= 0.4,
        "beard": word["beard"] == "beard",
        "glasses": word["glasses"] == "glasses",
        "sunglasses": word["glasses"] == "sunglasses",
        "no hair": word["hair"] == "no",
        "bun": word["hair"] == "bun",
    }
    truths |= {f"{style} hair": word["hair"] == style for style in HAIR if style not in ("no", "bun")}
    truths |= {f"{c} hair": word["hair_color"] == c and word["hair"] != "no" for c in HAIR_COLORS}
    truths |= {hat: word["hat"] == hat for hat in HATS[1:]}
    truths |= {f"{c} hat": word["hat_color"] == c and word["hat"] != "no" for c in COLORS}
    truths |= {f"{c} background": word["background"] == c for c in COLORS}
    assert set(truths) == set(PHRASES)
    return [phrase for phrase in PHRASES if truths[phrase]]


@pytest.fixture(scope="module")
def people():
    return faces(2000, 8, seed=5)


def test_a_phrase_is_said_exactly_if_it_is_true(people):
    """2,000 faces; colours are bound to what they colour: hair, hat and background of one face have three."""
    table = words(people.captions)
    assert table.shape == (2000, len(PHRASES)) and table.dtype == torch.float32
    for i, caption in enumerate(people.captions):
        said = caption_phrases(caption)
        assert said == true_phrases(people.attributes, i), caption
        assert [PHRASES[k] for k in table[i].nonzero().flatten()] == said
    assert ((table == 0) | (table == 1)).all()
    assert (table.sum(0) >= 20).all(), "every phrase is said often enough to be learned"


def test_phrases_are_distinct_and_find_themselves():
    assert len(set(PHRASES)) == len(PHRASES) == 37
    for phrase in PHRASES:
        assert phrase in caption_phrases(phrase) and phrase in caption_phrases(phrase.upper())
        assert caption_phrases(phrase) == [phrase]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sunglasses on a red background", ["sunglasses", "red background"]),
        ("Glasses and a BEARD, smiling", ["smiling", "beard", "glasses"]),
        ("a red hat on grey hair, blue background", ["grey hair", "red hat", "blue background"]),
        ("a green beanie", ["beanie", "green hat"]),
        ("an orange sun hat, a purple background", ["sun hat", "orange hat", "purple background"]),
        ("somebody with long, red hair", ["red hair"]),
        ("a long face and brown hair", ["brown hair"]),
        ("short hair and long red hair", ["short hair", "long hair", "red hair"]),
        ("curly\n  brown   hair", ["curly hair", "brown hair"]),
        ("black hair in a bun", ["bun", "black hair"]),
        ("red glasses, a bunny, hairy", ["glasses"]),
        ("looking right; the left ear is hidden", ["looking right"]),
        ("no hair and no hat", ["no hair"]),
        ("without hair", ["no hair"]),
        ("smiling, no beard", ["smiling"]),
        ("sad, without a red sun hat or glasses, bun", ["sad", "bun"]),
        ("not smiling, not wearing glasses, looking left", ["looking left"]),
        ("no beard and glasses", ["glasses"]),
    ],
)
def test_free_text(text, said):
    assert caption_phrases(text) == said


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("a face with glases", "glasses"),
        ("red hatt", "red hat"),
        ("a man lookin left", "looking left"),
        ("beart", "beard"),
        ("a yelow background", "yellow background"),
        ("curled hair", "curly hair"),
        ("", ""),
        ("a face with no glasses", "glasses"),
    ],
)
def test_unknown_text_gets_the_nearest_phrase(text, near):
    with pytest.raises(ValueError) as caught:
        caption_phrases(text)
    message = str(caught.value)
    assert message.startswith(f"caption {text!r} has no phrase that the faces know; the nearest is '{near}")
    assert message.split("'")[-2] in PHRASES


def test_words_refuse_what_is_no_list_of_strings():
    with pytest.raises(TypeError, match="captions must be a list of strings, but one string came"):
        words("smiling")
    with pytest.raises(TypeError, match="caption must be a string, but a int came"):
        words(["smiling", 3])
    with pytest.raises(ValueError, match="caption 'x' has no phrase"):
        words(["smiling", "x"])
    assert words([]).shape == (0, len(PHRASES))
    assert torch.equal(words(("sad", "bun")), torch.cat([words(["sad"]), words(["bun"])]))
