"""Checks for the exercises of chapter 10."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

from ..data import faces
from . import Exercise, Mistake


def _uniform(generator: Generator, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    return low + (high - low) * torch.rand(*shape, generator=generator, dtype=torch.float64)


def _normal(generator: Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


# 10.1: two answers and a scale.


def _conditional(generator: Generator) -> Callable[[Tensor, float, Tensor], Tensor]:
    """A stand-in for denoiser(z, t, cond) whose answer depends on all three."""
    weights = _normal(generator, 3)
    return lambda z, t, cond: torch.tanh(weights[0] * z + weights[1] * cond) + weights[2] * t * z


def _guided(denoiser: Callable, z: Tensor, t: float, cond: Tensor, null: Tensor, scale: float) -> Tensor:
    told, untold = denoiser(z, t, cond), denoiser(z, t, null)
    return untold + scale * (told - untold)


def _guided_inputs(generator: Generator) -> tuple:
    t, scale = _uniform(generator, 1).item(), _uniform(generator, 1, low=1.5, high=5.0).item()
    states, cond = _normal(generator, 5, 3), _normal(generator, 5, 3)
    return _conditional(generator), states, t, cond, torch.zeros(5, 3, dtype=torch.float64), scale


# 10.2: captions to numbers.


def _plain(caption: str) -> str:
    """The words of a caption with two spaces between them and around, and no commas."""
    return "  " + "  ".join(caption.replace(",", " ").split()) + "  "


def _count(caption: str, phrase: str) -> int:
    return _plain(caption).count(" " + "  ".join(phrase.split()) + " ")


def _multi_hot(captions: Sequence[str], phrases: Sequence[str]) -> Tensor:
    return torch.tensor([[_count(caption, phrase) > 0 for phrase in phrases] for caption in captions]).double()


def _multi_hot_inputs(generator: Generator) -> tuple[list[str], tuple[str, ...]]:
    """Captions of faces; some wear sunglasses, some are red all over."""
    seed = int(torch.randint(1, 10**6, (), generator=generator))
    some = faces(3, size=8, seed=seed).captions
    dark = faces(3, size=8, seed=seed + 1, fixed={"glasses": 2, "hat": 2}).captions
    red = faces(3, size=8, seed=seed + 2, fixed={"hair": 2, "hair_color": 3, "background": 0, "glasses": 1}).captions
    return some + dark + red, ("smiling", "glasses", "sunglasses", "beard", "sun hat", "red", "looking left")


# 10.3: FiLM.


def _film(
    features: Tensor,
    cond: Tensor,
    weight: Tensor,
    bias: Tensor,
    rest: float = 1.0,
    swapped: bool = False,
    shift_first: bool = False,
    spread: bool = True,
) -> Tensor:
    """Right as it stands; each option breaks one thing."""
    gain, shift = (cond @ weight.T + bias).chunk(2, 1)
    if swapped:
        gain, shift = shift, gain
    if spread:
        gain, shift = gain[:, :, None, None], shift[:, :, None, None]
    return (rest + gain) * (features + shift) if shift_first else (rest + gain) * features + shift


def _film_inputs(generator: Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four images of four channels of 4 x 4 pixels, so that a wrong axis raises no error."""
    return _normal(generator, 4, 4, 4, 4), _normal(generator, 4, 3), _normal(generator, 8, 3), _normal(generator, 8)


# 10.4: dropping the condition.


def _dropped(cond: Tensor, null: Tensor, probability: float, uniform: Tensor) -> Tensor:
    return torch.where((uniform < probability)[:, None, None, None], null, cond)


def _dropped_inputs(generator: Generator) -> tuple[Tensor, Tensor, float, Tensor]:
    """As many images as columns, so that a wrong axis raises no error."""
    probability = _uniform(generator, 1, low=0.25, high=0.45).item()
    return _normal(generator, 6, 2, 3, 6), _normal(generator, 2, 3, 6), probability, _uniform(generator, 6)


# 10.5: classifier guidance.


def _classifier(generator: Generator) -> Callable[[Tensor], Tensor]:
    """log p(c | z) (B,) of one class among three, by a classifier with quadratic logits."""
    weights, curves = _normal(generator, 3, 3), _normal(generator, 3, 3)
    return lambda z: (z @ weights.T + z**2 @ curves.T / 4).log_softmax(1)[:, 0]


def _gradient(log_prob: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        return torch.autograd.grad(log_prob(z).sum(), z)[0]


def _steered(
    z: Tensor,
    z_0: Tensor,
    log_prob: Callable[[Tensor], Tensor],
    alpha: float,
    sigma: float,
    scale: float,
    noise: float = 2.0,
    signal: float = 1.0,
) -> Tensor:
    """Right as it stands: sigma^2 / alpha^1."""
    return z_0 + scale * sigma**noise / alpha**signal * _gradient(log_prob, z)


def _steered_inputs(generator: Generator) -> tuple:
    alpha = _uniform(generator, 1, low=0.3, high=0.9).item()
    scale = _uniform(generator, 1, low=1.5, high=4.0).item()
    return (
        _normal(generator, 5, 3),
        _normal(generator, 5, 3),
        _classifier(generator),
        alpha,
        math.sqrt(1 - alpha**2),
        scale,
    )


# 10.6: what guidance samples.


def _guided_variance(v_c: Tensor, v_u: Tensor, scale: float) -> Tensor:
    return v_c**scale * v_u ** (1 - scale)


def _guided_variance_inputs(generator: Generator) -> tuple[Tensor, Tensor, float]:
    v_u = _uniform(generator, 3, low=0.8, high=1.5)
    return v_u * _uniform(generator, 3, low=0.2, high=0.6), v_u, _uniform(generator, 1, low=1.5, high=3.0).item()


def _as_the_flow_does(answer: Tensor, v_c: Tensor, v_u: Tensor, scale: float) -> str | None:
    """The oracle: the guided probability-flow ODE of N(0, v_c) against N(0, v_u), solved from pure noise of level 1000.

    With x the noise's variance, d log(y) / dx = (s / (v_c + x) + (1 - s) / (v_u + x)) / 2; trapezia on a fine grid."""
    x = torch.cat([torch.zeros(1, dtype=torch.float64), torch.logspace(-7, 6, 20_001, dtype=torch.float64)])[:, None]
    slope = (scale / (v_c + x) + (1 - scale) / (v_u + x)) / 2
    variance = 1e6 * (-2 * torch.trapezoid(slope, x, dim=0)).exp()
    if torch.allclose(torch.as_tensor(answer), variance, rtol=1e-3):
        return None
    return "a fine solver, started from pure noise, ends with another variance."


# 10.7: bringing the contrast back.


def _rescaled(guided: Tensor, told: Tensor, share: float, dims: tuple[int, ...] = (1, 2, 3)) -> Tensor:
    ratio = told.std(dims, keepdim=True) / guided.std(dims, keepdim=True)
    return (share * ratio + 1 - share) * guided


def _rescaled_inputs(generator: Generator) -> tuple[Tensor, Tensor, float]:
    size = _uniform(generator, 4, 1, 1, 1, low=0.5, high=1.5)
    told = size * _normal(generator, 4, 3, 5, 6) + 0.5 * _normal(generator, 4, 3, 1, 1)
    guided = 2.5 * told + _normal(generator, 4, 3, 5, 6) + 0.4
    return guided, told, _uniform(generator, 1, low=0.6, high=0.9).item()


# 10.8: does it listen?


def _swap_errors(denoiser: Callable, z_0: Tensor, z: Tensor, cond: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squared error per image (B,) with its own condition and with its neighbour's."""
    return (
        (denoiser(z, cond) - z_0).square().flatten(1).mean(1),
        (denoiser(z, cond.roll(1, 0)) - z_0).square().flatten(1).mean(1),
    )


def _swap_test(denoiser: Callable, z_0: Tensor, z: Tensor, cond: Tensor) -> tuple[Tensor, Tensor]:
    own, foreign = _swap_errors(denoiser, z_0, z, cond)
    return (foreign - own).mean(), (foreign - own).std() / math.sqrt(len(z))


def _swap_inputs(generator: Generator) -> tuple:
    """A denoiser that listens a little, on images that differ a lot in how hard they are."""
    share = _uniform(generator, 1, low=0.2, high=0.4).item()
    z_0 = _normal(generator, 12, 1, 3, 4)
    cond = 0.8 * z_0 + 0.6 * _normal(generator, 12, 1, 3, 4)
    z = z_0 + _uniform(generator, 12, 1, 1, 1, low=0.2, high=2.0) * _normal(generator, 12, 1, 3, 4)
    return lambda z, cond: (1 - share) * z + share * cond, z_0, z, cond


def _change_of_the_answer(denoiser: Callable, z_0: Tensor, z: Tensor, cond: Tensor) -> tuple[Tensor, Tensor]:
    change = (denoiser(z, cond) - denoiser(z, cond.roll(1, 0))).square().flatten(1).mean(1)
    return change.mean(), change.std() / math.sqrt(len(z))


def _unpaired(denoiser: Callable, z_0: Tensor, z: Tensor, cond: Tensor) -> tuple[Tensor, Tensor]:
    own, foreign = _swap_errors(denoiser, z_0, z, cond)
    return (foreign - own).mean(), ((own.var() + foreign.var()) / len(z)).sqrt()


CHAPTER = [
    Exercise(
        "10.1",
        "classifier-free guidance",
        reference=_guided,
        inputs=_guided_inputs,
        mistakes=[
            Mistake(
                "you took the scale for the paper's w",
                lambda d, z, t, cond, null, scale: _guided(d, z, t, cond, null, 1 + scale),
                "Here scale 1 is the conditional answer itself; Ho and Salimans count from there, w = scale - 1.",
            ),
            Mistake(
                "you swapped the two answers",
                lambda d, z, t, cond, null, scale: _guided(d, z, t, null, cond, scale),
                "Start at the unconditional answer and walk towards the conditional one, and beyond.",
            ),
            Mistake(
                "you dropped the condition",
                lambda d, z, t, cond, null, scale: d(z, t, null),
                "Both calls were told the null condition, so their difference is zero and no scale can change anything.",
            ),
            Mistake(
                "you multiplied the conditional answer, not the difference",
                lambda d, z, t, cond, null, scale: d(z, t, null) + scale * d(z, t, cond),
                "The weights of the two answers, 1 - scale and scale, must add to 1.",
            ),
            Mistake(
                "you walked from the state z",
                lambda d, z, t, cond, null, scale: z + scale * (d(z, t, cond) - d(z, t, null)),
                "Guidance mixes two estimates of z_0; the state belongs to the sampler.",
            ),
        ],
    ),
    Exercise(
        "10.2",
        "captions as zeros and ones",
        reference=_multi_hot,
        inputs=_multi_hot_inputs,
        mistakes=[
            Mistake(
                "you found glasses in sunglasses",
                lambda captions, phrases: torch.tensor([[p in c for p in phrases] for c in captions]).double(),
                "A phrase counts only as whole words: put a space on either side of both texts before you search.",
            ),
            Mistake(
                "you looked single words up",
                lambda captions, phrases: torch.tensor(
                    [[p in _plain(c).split() for p in phrases] for c in captions]
                ).double(),
                "A phrase of two words, such as 'sun hat', is not in a list of single words.",
            ),
            Mistake(
                "you left the commas in",
                lambda captions, phrases: torch.tensor(
                    [[f" {p} " in f" {c} " for p in phrases] for c in captions]
                ).double(),
                "'glasses,' with its comma is not the word 'glasses': remove the commas first.",
            ),
            Mistake(
                "you counted",
                lambda captions, phrases: torch.tensor([[_count(c, p) for p in phrases] for c in captions]).double(),
                "Red hair before a red background says 'red' twice and is still a 1: the entries mean yes or no.",
            ),
            Mistake(
                "you kept the first phrase only",
                lambda captions, phrases: (
                    _multi_hot(captions, phrases) * (_multi_hot(captions, phrases).cumsum(1) == 1).double()
                ),
                "One-hot is for classes that exclude each other; a face can smile and wear a hat.",
            ),
        ],
    ),
    Exercise(
        "10.3",
        "a condition as gain and shift (FiLM)",
        reference=lambda f, c, w, b: _film(f, c, w, b),
        inputs=_film_inputs,
        mistakes=[
            Mistake(
                "your gain lacks the 1",
                lambda f, c, w, b: _film(f, c, w, b, rest=0.0),
                "With 1 + gain a condition that says nothing changes nothing; without the 1 it wipes the features out.",
            ),
            Mistake(
                "you swapped gain and shift",
                lambda f, c, w, b: _film(f, c, w, b, swapped=True),
                "The first C of the 2 C numbers are the gains.",
            ),
            Mistake(
                "you shifted before you scaled",
                lambda f, c, w, b: _film(f, c, w, b, shift_first=True),
                "FiLM is gain times features, plus shift; the shift itself is not scaled.",
            ),
            Mistake(
                "your gains run along the pixels",
                lambda f, c, w, b: _film(f, c, w, b, spread=False),
                "(B, C) beside (B, C, H, W) lines up with H and W; view it as (B, C, 1, 1).",
            ),
            Mistake(
                "you conditioned every image on the first one's condition",
                lambda f, c, w, b: _film(f, c[:1].expand_as(c), w, b),
                "Row i of cond belongs to image i.",
            ),
        ],
    ),
    Exercise(
        "10.4",
        "dropping the condition in training",
        reference=_dropped,
        inputs=_dropped_inputs,
        mistakes=[
            Mistake(
                "you decided for the whole batch at once",
                lambda cond, null, p, u: _dropped(cond, null, p, u[:1].expand_as(u)),
                "Each image has its own number in `uniform`; one decision a batch makes the loss jump from step to step.",
            ),
            Mistake(
                "you dropped columns of pixels",
                lambda cond, null, p, u: torch.where(u < p, null, cond),
                "(B,) beside (B, C, H, W) lines up with W; view it as (B, 1, 1, 1).",
            ),
            Mistake(
                "you kept the condition with this probability",
                lambda cond, null, p, u: _dropped(cond, null, 1 - p, 1 - u),
                "The condition is dropped where the uniform number lies below the probability.",
            ),
            Mistake(
                "you put zeros for a dropped condition",
                lambda cond, null, p, u: _dropped(cond, torch.zeros_like(null), p, u),
                "The null condition is a value that no real condition has; grey (zero in state units) is a real image.",
            ),
            Mistake(
                "you enlarged what is kept, as a dropout layer does",
                lambda cond, null, p, u: torch.where((u < p)[:, None, None, None], null, cond / (1 - p)),
                "A dropout layer keeps the mean of its output; here the network must see conditions as they are.",
            ),
        ],
    ),
    Exercise(
        "10.5",
        "a denoiser steered by a classifier",
        reference=lambda z, z_0, f, a, s, scale: _steered(z, z_0, f, a, s, scale),
        inputs=_steered_inputs,
        mistakes=[
            Mistake(
                "you added the gradient as it is",
                lambda z, z_0, f, a, s, scale: _steered(z, z_0, f, a, s, scale, noise=0.0, signal=0.0),
                "A gradient adds to the score; Tweedie turns a score into z_0 with the factor sigma^2 / alpha.",
            ),
            Mistake(
                "you walked down the gradient",
                lambda z, z_0, f, a, s, scale: _steered(z, z_0, f, a, s, -scale),
                "The class becomes likelier up the gradient of log p(c | z); the minus belongs to the eps form.",
            ),
            Mistake(
                "you multiplied by sigma instead of sigma^2",
                lambda z, z_0, f, a, s, scale: _steered(z, z_0, f, a, s, scale, noise=1.0),
                "The posterior mean is (z + sigma^2 score) / alpha.",
            ),
            Mistake(
                "you forgot to divide by alpha",
                lambda z, z_0, f, a, s, scale: _steered(z, z_0, f, a, s, scale, signal=0.0),
                "sigma^2 times the score moves z; the clean image is z / alpha, so it moves 1 / alpha as far.",
            ),
            Mistake(
                "you gave z_0 the correction of eps",
                lambda z, z_0, f, a, s, scale: _steered(z, z_0, f, a, s, -scale, noise=1.0, signal=0.0),
                "eps changes by -sigma times the gradient; z_0 = (z - sigma eps) / alpha turns that into sigma^2 / alpha.",
            ),
            Mistake(
                "you differentiated the mean over the batch",
                lambda z, z_0, f, a, s, scale: _steered(z, z_0, f, a, s, scale / len(z)),
                "The mean divides every image's gradient by the batch size; use the sum, whose parts do not mix.",
            ),
        ],
    ),
    Exercise(
        "10.6",
        "the variance that guidance samples",
        reference=_guided_variance,
        inputs=_guided_variance_inputs,
        judge=_as_the_flow_does,
        mistakes=[
            Mistake(
                "you gave the tempered law's variance",
                lambda v_c, v_u, s: 1 / (s / v_c + (1 - s) / v_u),
                "That belongs to the density p_c^s p_u^(1-s), which the guided scores match at t = 0 only; solve the ODE.",
            ),
            Mistake(
                "you mixed the variances",
                lambda v_c, v_u, s: s * v_c + (1 - s) * v_u,
                "Scores mix linearly. The ODE then adds up growth rates, which are logarithms of sizes.",
            ),
            Mistake(
                "you took the scale for the paper's w",
                lambda v_c, v_u, s: _guided_variance(v_c, v_u, 1 + s),
                "At scale 1 the answer must be v_c.",
            ),
            Mistake(
                "you left the unconditional law out",
                lambda v_c, v_u, s: v_c**s,
                "With v_c = v_u guidance changes no spread, whatever the scale.",
            ),
            Mistake(
                "you gave a standard deviation",
                lambda v_c, v_u, s: _guided_variance(v_c, v_u, s).sqrt(),
                "The path is multiplied by the root of this; its variance by the whole.",
            ),
        ],
    ),
    Exercise(
        "10.7",
        "guidance with its contrast restored",
        reference=lambda guided, told, share: _rescaled(guided, told, share),
        inputs=_rescaled_inputs,
        mistakes=[
            Mistake(
                "you measured one contrast for the whole batch",
                lambda guided, told, share: _rescaled(guided, told, share, dims=(0, 1, 2, 3)),
                "Every image gets its own factor, or it would depend on its batch mates.",
            ),
            Mistake(
                "you measured each channel alone",
                lambda guided, told, share: _rescaled(guided, told, share, dims=(2, 3)),
                "One factor an image, over all channels and pixels: separate factors shift the colours.",
            ),
            Mistake(
                "you divided the wrong way round",
                lambda guided, told, share: (
                    (share * guided.std((1, 2, 3), keepdim=True) / told.std((1, 2, 3), keepdim=True) + 1 - share)
                    * guided
                ),
                "Guidance made the contrast too large; multiply by told / guided, which is below 1.",
            ),
            Mistake(
                "you swapped share and 1 - share",
                lambda guided, told, share: _rescaled(guided, told, 1 - share),
                "share = 0 changes nothing, share = 1 restores the whole contrast.",
            ),
            Mistake(
                "you mixed with the conditional answer",
                lambda guided, told, share: share * _rescaled(guided, told, 1.0) + (1 - share) * told,
                "The rest, 1 - share, is the guided answer as it was; the conditional one would undo the guidance.",
            ),
        ],
    ),
    Exercise(
        "10.8",
        "a swap test with its standard error",
        reference=_swap_test,
        inputs=_swap_inputs,
        mistakes=[
            Mistake(
                "you treated the two errors as independent",
                _unpaired,
                "They belong to the same images: take the difference image by image, then its standard error.",
            ),
            Mistake(
                "you gave the standard deviation of one image",
                lambda d, z_0, z, cond: (
                    _swap_test(d, z_0, z, cond)[0],
                    _swap_test(d, z_0, z, cond)[1] * math.sqrt(len(z)),
                ),
                "The mean of B differences is sqrt(B) times more certain than one of them.",
            ),
            Mistake(
                "your sign is the wrong way round",
                lambda d, z_0, z, cond: (-_swap_test(d, z_0, z, cond)[0], _swap_test(d, z_0, z, cond)[1]),
                "Error with the neighbour's condition minus error with its own: listening gives a positive number.",
            ),
            Mistake(
                "you measured how much the answer changes",
                _change_of_the_answer,
                "Any network that uses its condition changes, even one that misreads it; compare with the truth.",
            ),
            Mistake(
                "you swapped the states along with the conditions",
                lambda d, z_0, z, cond: (lambda difference: (difference.mean(), difference.std() / math.sqrt(len(z))))(
                    (d(z.roll(1, 0), cond.roll(1, 0)) - z_0).square().flatten(1).mean(1)
                    - (d(z, cond) - z_0).square().flatten(1).mean(1)
                ),
                "Only the condition moves on by one; state and truth stay where they are.",
            ),
        ],
    ),
]
