# ---
# jupyter:
#   jupytext:
#     formats: ipynb,source//py:percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Solutions 00: first steps
#
# These exercises belong to [chapter 00](../notebooks/00_start_here.ipynb). They make you feel at home with the conventions that all
# chapters share, and with `check`. Each takes one to five lines; together they take about 20 minutes.
#
# Running time: about 5 s on two CPU cores.

# %%
import torch

from tutorial_lib import plots
from tutorial_lib.exercises import check
from tutorial_lib.images import photo
from tutorial_lib.schedules import vp_cosine, vp_linear

# %% [markdown]
# ## Exercise 00.1: from [0, 1] to 8 bits
#
# Image files hold whole numbers from 0 to 255. Convert `images`, a float tensor (B, C, H, W) that should lie in [0, 1] but
# may overshoot a little, to a `torch.uint8` tensor of the same shape: clip to [0, 1], multiply by 255, round to the nearest
# whole number, halves upwards.


# %%
def to_8_bit(images):
    """Images in [0, 1] -> whole numbers 0..255, dtype torch.uint8."""
    ### BEGIN SOLUTION
    return (images.clamp(0, 1) * 255 + 0.5).floor().to(torch.uint8)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("00.1", to_8_bit)

# %% [markdown] tags=["solution"]
# Without the 0.5 every pixel loses half a level on average. This looks harmless, but the image gets darker by
# $0.5/255$ each time it is saved, and a method compared after 10 such round trips would seem to have a colour cast.

# %% [markdown]
# ## Exercise 00.2: a size that the scale divides
#
# A photo of 451 columns cannot be shrunk by exactly 4. Cut rows from the bottom and columns from the right of `images`
# (B, C, H, W) until `scale` divides height and width. If it does already, nothing is cut.


# %%
def crop_to_scale(images, scale):
    """(B, C, H, W) -> (B, C, H', W'), the largest H' <= H and W' <= W that are multiples of scale."""
    ### BEGIN SOLUTION
    height, width = images.shape[-2:]
    return images[..., : height - height % scale, : width - width % scale]
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("00.2", crop_to_scale)

# %% [markdown]
# ## Exercise 00.3: what is lost
#
# A colour image of `height` rows and `width` columns is first cropped as above, then shrunk by `scale`.
# Return three whole numbers: the small height, the small width, and how many *numbers* the cropped image holds that the
# small one does not (each pixel holds three). This is how many numbers super-resolution must come up with.


# %%
def lost(height, width, scale):
    """(small height, small width, numbers of the cropped image minus numbers of the small image)."""
    ### BEGIN SOLUTION
    small_height, small_width = height // scale, width // scale
    kept = 3 * small_height * small_width
    return small_height, small_width, kept * scale**2 - kept
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("00.3", lost)

# %% [markdown] tags=["solution"]
# At scale 4, for each number that is known fifteen have to be found.

# %% [markdown]
# ## Exercise 00.4: decibels
#
# Write PSNR for images whose values lie in [0, 1]: $-10 \log_{10}$ of the mean squared error. `sr` and `hr` have the shape
# (B, C, H, W); return one value per image, shape (B,), in dB. Average over channels, rows and columns, not over the batch.


# %%
def decibels(sr, hr):
    """PSNR over all channels, shape (B,), for images in [0, 1]."""
    ### BEGIN SOLUTION
    return -10 * torch.log10((sr - hr).square().mean((1, 2, 3)))
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("00.4", decibels)

# %% [markdown] tags=["solution"]
# A rule of thumb: half the error (not squared) is 6 dB more; ten times the squared error is 10 dB less.

# %% [markdown]
# ## Exercise 00.5: from image units to state units
#
# A diffusion model works on states in [-1, 1], $z_0 = 2y - 1$. Given `images` $y$ in [0, 1] and the standard deviation
# `noise_std` of some noise *in image units*, return the pair (state, standard deviation of the same noise *in state units*).


# %%
def to_state(images, noise_std):
    """(B, C, H, W) in [0, 1] and a number -> the state in [-1, 1] and the noise's standard deviation there."""
    ### BEGIN SOLUTION
    return 2 * images - 1, 2 * noise_std
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("00.5", to_state)

# %% [markdown] tags=["solution"]
# Published tables mix the two: "noise 0.05" is twice as strong in a paper that adds it to images as in one that adds it to
# states. Always ask for the unit.

# %% [markdown]
# ## Exercise 00.6: one number drowns
#
# Before whole images, one pixel. Given a clean number `z_0`, a draw `eps` from the standard normal distribution, a `schedule`
# with the functions `schedule.alpha(t)` and `schedule.sigma(t)`, and a time `t`, return the state $z_t$.


# %%
def noisy_number(z_0, eps, schedule, t):
    """z_t = alpha(t) z_0 + sigma(t) eps, one number."""
    ### BEGIN SOLUTION
    return schedule.alpha(t) * z_0 + schedule.sigma(t) * eps
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("00.6", noisy_number)

# %% [markdown]
# ## Exercise 00.7: read a schedule
#
# At which time are signal and noise equally strong, $\alpha(t) = \sigma(t)$? Every schedule has two functions that help:
# `schedule.log_snr(t)` is $\log(\alpha^2/\sigma^2)$, and `schedule.time_at(value)` is the time at which `log_snr` has that
# value. Return the time for the `schedule` handed in.


# %%
def balance(schedule):
    """The time t in (0, 1) with alpha(t) = sigma(t)."""
    ### BEGIN SOLUTION
    return schedule.time_at(0.0)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("00.7", balance)

# %% [markdown]
# Two schedules, two balances. The *cosine* schedule (`vp_cosine`) is the chapter's. The *linear* one (`vp_linear`) is that of
# the first DDPM paper: the variance that a step adds grows linearly with time. Read your two times off the crossings.

# %%
times = torch.linspace(0, 1, 201)
schedules = {"cosine": vp_cosine(), "linear": vp_linear()}
plots.strip(
    [
        plots.curves(
            times,
            {"signal α": schedule.alpha(times), "noise σ": schedule.sigma(times)},
            xlabel="time t",
            ylabel="factor",
            width=460,
            height=320,
            title=f"the {name} schedule",
            alt=f"The signal factor alpha falls, the noise factor sigma rises: {name} schedule.",
        )
        for name, schedule in schedules.items()
    ],
    title="Signal falls, noise rises: the linear schedule is in more of a hurry",
    alt="Two panels over time from 0 to 1, in each alpha falls from 1 to 0 and sigma rises from 0 to 1. With the cosine "
    "schedule they cross at height 0.71 near t = 0.5, with the linear schedule at the same height already near t = 0.26.",
)

# %% [markdown] tags=["solution"]
# The crossings lie at the same height, $1/\sqrt 2 \approx 0.71$, because $\alpha^2 + \sigma^2 = 1$ in both schedules. Here are the times in
# numbers, and a photo at its two balances: by construction they are equally noisy.

# %% tags=["solution", "nbval-check-output"]
found = {name: float(schedule.time_at(0.0)) for name, schedule in schedules.items()}
print({name: round(t, 3) for name, t in found.items()})

# %% tags=["solution"]
z_0 = 2 * photo("coffee")[..., 60:180, 150:270] - 1
eps = torch.randn(z_0.shape, generator=torch.Generator().manual_seed(0))
plots.image_grid(
    [(noisy_number(z_0, eps, schedules[name], t) + 1) / 2 for name, t in found.items()],
    [f"{name}, t = {t:.2f}" for name, t in found.items()],
    title="Two times, one noise level",
    alt="The same noisy detail of a coffee cup twice: cosine schedule at its balance and linear schedule at its balance, "
    "indistinguishable, with the rim of the cup clearly visible under strong grain.",
)
