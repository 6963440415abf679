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
# # Solutions 01: Super-resolution basics
#
# Seven functions, from a warm-up to a small research question. Each cell asks for a few lines; run it, then run the check
# below it. The check draws fresh inputs and answers in one line. They belong to
# [chapter 01](../notebooks/01_super_resolution_basics.ipynb).
#
# Running time: about 5 s on two processor cores.
#
# Images are tensors `(B, C, H, W)` with values in [0, 1]. An `operator` has `operator(y)` for $Ay$, `operator.adjoint(x)` for
# $A^\top x$, `operator.pinv(x)` for $A^+x$ and `operator.solve_data(x, rho)` for $(AA^\top + \rho I)^{-1}x$.

# %%
import torch
import torch.nn.functional as F

from tutorial_lib import plots
from tutorial_lib.degradations import gaussian_kernel
from tutorial_lib.exercises import check
from tutorial_lib.images import crop_to_multiple, photo, resize, rgb_to_y, to_uint8
from tutorial_lib.metrics import psnr
from tutorial_lib.noise import standard_normal
from tutorial_lib.operators import Bicubic, Blur

# %% [markdown]
# ## Exercise 01.1: A pair for the benchmark (warm-up)
#
# From `image` of shape (B, C, H, W), any H and W, make the pair `(lr, hr)` of the classical benchmark at a whole-number `scale`:
#
# - `hr`: the image cut at the bottom and at the right until H and W are multiples of the scale;
# - `lr`: `hr` shrunk by MATLAB's antialiased bicubic (`images.resize`), rounded to 8 bits (`images.to_uint8`), as floats in [0, 1].


# %%
def make_pair(image, scale):
    """(B, C, H, W) -> lr (B, C, H // scale, W // scale) and hr, which is scale times as large."""
    ### BEGIN SOLUTION
    hr = crop_to_multiple(image, scale)
    lr = resize(hr, 1 / scale)
    return to_uint8(lr).float() / 255, hr
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("01.1", make_pair)

# %% [markdown]
# ## Exercise 01.2: Blur, then sample
#
# Write $x[i, j] = \sum_{a,b} k[a, b]\, y[s i - a + c,\; s j - b + c]$ for a square kernel of odd size with centre $c$, with the photo mirrored at its
# border (`F.pad(..., mode="reflect")`). `F.conv2d` may do the sums; `tutorial_lib.degradations` may not. `hr` is (B, C, H, W), `kernel` is (size, size),
# the result (B, C, H / scale, W / scale). Treat each channel alone.
#
# *Hint*: `F.conv2d` computes a correlation. What has to happen to the kernel?


# %%
def blur_and_sample(hr, kernel, scale):
    """Convolve every channel with `kernel`, then keep pixels 0, scale, 2 scale, ..."""
    ### BEGIN SOLUTION
    size, channels = len(kernel), hr.shape[1]
    padded = F.pad(hr, [size // 2] * 4, mode="reflect")
    weights = kernel.flip(0, 1).expand(channels, 1, size, size)
    return F.conv2d(padded, weights, groups=channels)[..., ::scale, ::scale]
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("01.2", blur_and_sample)

# %% [markdown] tags=["solution"]
# `F.conv2d(..., stride=scale)` computes only the pixels that are kept: the same result for a fraction of the work.

# %% [markdown]
# ## Exercise 01.3: The pseudo-inverse by hand
#
# `matrix` is (M, N) with M < N and independent rows. Return $A^+$, shape (N, M), without `torch.linalg.pinv`: find the shortest $y$ with $Ay = x$.
# It is a combination of the rows of $A$.


# %%
def pseudo_inverse(matrix):
    """(M, N) -> (N, M), for independent rows."""
    ### BEGIN SOLUTION
    return matrix.T @ torch.linalg.inv(matrix @ matrix.T)
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("01.3", pseudo_inverse)

# %% [markdown] tags=["solution"]
# With nearly dependent rows $AA^\top$ is nearly singular and squares the condition number. Numerical libraries go through the singular value
# decomposition instead: $A^+ = V\,\mathrm{diag}(1/s)\,U^\top$, leaving out the $s$ that are zero to rounding.

# %% [markdown]
# ## Exercise 01.4: An impostor
#
# Return a photo that has the same measurement as `y` and carries `amount` (a number) times the null part of `w`. `y` and `w` are (B, C, H, W).
# Do not clip.


# %%
def impostor(operator, y, w, amount):
    """y plus amount times the part of w that the operator cannot see."""
    ### BEGIN SOLUTION
    return y + amount * (w - operator.pinv(operator(w)))
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("01.4", impostor)

# %% [markdown]
# When the check passes, engrave one photo into another and look: `plots.image_grid([y, impostor(...)], title=..., alt=...)`.

# %% tags=["solution"]
shrink = Bicubic(4)
espresso, wall = photo("coffee")[..., 100:292, 180:436], photo("gravel")[..., :192, :256]
plots.image_grid(
    [espresso, impostor(shrink, espresso, wall, 1.0), shrink(espresso)],
    ["y", "the impostor", "the LR image of both"],
    title="Espresso on gravel, with the thumbnail of espresso",
    alt="Three pictures: a cup of espresso; the same cup with the cracks of a gravel surface engraved all over it; the small thumbnail "
    "that both have, a clean cup.",
)

# %% [markdown]
# ## Exercise 01.5: Make any answer consistent
#
# `sr` (B, C, H, W) is somebody's answer to the measurement `x`. Change it as little as possible, in the least-squares sense, so that
# `operator` maps it to `x` exactly.


# %%
def make_consistent(operator, sr, x):
    """The image closest to sr among those that the operator maps to x."""
    ### BEGIN SOLUTION
    return sr + operator.pinv(x - operator(sr))
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("01.5", make_consistent)

# %% [markdown] tags=["solution"]
# Why closest: the correction $A^+(x - A\,\mathrm{sr})$ is the shortest vector $d$ with $A(\mathrm{sr} + d) = x$, by the definition of the pseudo-inverse. Bicubic
# interpolation plus this correction is a good test case. It lands on $A^+x$ itself: bicubic interpolation has no null part to keep, because it
# spreads LR pixels with the kernel that the shrinking collects them with.

# %% tags=["solution", "nbval-check-output"]
cat = photo("chelsea")[..., 60:252, 100:356]
lr = shrink(cat)
corrected = make_consistent(shrink, resize(lr, 4), lr)
print(f"bicubic   {psnr(resize(lr, 4), cat, crop=4).item():.2f} dB")
print(f"corrected {psnr(corrected, cat, crop=4).item():.2f} dB")
print("equals the pseudo-inverse:", torch.allclose(corrected, shrink.pinv(lr), atol=1e-5))

# %% [markdown]
# ## Exercise 01.6: What a regulariser costs and saves
#
# An operator has singular values `s` (K,), the photo has coefficients `c` (K,) in its singular basis, and the measurement has white noise of standard
# deviation `noise_std`. For $\hat y = A^\top(AA^\top + \rho I)^{-1}x$ return two scalars: the squared error from lost signal, and the expected squared error
# from amplified noise, each summed over all coefficients.


# %%
def expected_error(s, c, noise_std, rho):
    """(lost signal, amplified noise), both summed over all coefficients."""
    ### BEGIN SOLUTION
    lost = ((rho / (s**2 + rho)) ** 2 * c**2).sum()
    amplified = noise_std**2 * (s**2 / (s**2 + rho) ** 2).sum()
    return lost, amplified
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("01.6", expected_error)

# %% [markdown] tags=["solution"]
# Coefficient by coefficient, $\hat c_i = \frac{s_i}{s_i^2 + \rho}(s_i c_i + n_i)$, so $\hat c_i - c_i = -\frac{\rho}{s_i^2 + \rho}c_i + \frac{s_i}{s_i^2 + \rho}n_i$. Square
# and take the mean: the cross term vanishes because $n_i$ has mean zero. If each $c_i$ had variance $\tau_i^2$, the best factor would be Wiener's,
# $\rho_i = \sigma^2/\tau_i^2$, one $\rho$ for each frequency. The plain $\rho$ pretends that all frequencies of photos are equally strong.

# %% [markdown]
# ## Exercise 01.7: Choose rho without the original (research-like)
#
# In practice the valley of section 6 is invisible: nobody hands you $y$. Morozov's **discrepancy principle** uses what you may know, the noise level. The right
# answer does not explain $x$ perfectly; it misses it by as much as the noise. Find $\rho$ such that for $\hat y_\rho = A^\top(AA^\top + \rho I)^{-1}x$
#
# $$\frac1N\,\|A\hat y_\rho - x\|^2 = \sigma^2 \qquad (N \text{ numbers in } x).$$
#
# The left side grows with $\rho$, so bisection works; $\rho$ lies between $10^{-10}$ and $10^4$, so bisect its *logarithm*. Return a float, right to 2 %.


# %%
def choose_rho(operator, x, noise_std):
    """rho at which the mean squared residual equals noise_std squared."""
    ### BEGIN SOLUTION
    low, high = 1e-10, 1e4
    for _ in range(50):
        rho = (low * high) ** 0.5
        answer = operator.adjoint(operator.solve_data(x, rho))
        if (operator(answer) - x).square().mean() < noise_std**2:
            low = rho
        else:
            high = rho
    return rho
    ### END SOLUTION


# %% tags=["nbval-check-output"]
assert check("01.7", choose_rho)

# %% [markdown]
# How good is the principle? Compare it, on a photo that you blur yourself, with the best $\rho$ that an oracle who knows the original would take.

# %% tags=["solution", "nbval-check-output"]
face = rgb_to_y(photo("astronaut")[..., 32:128, 176:272]).double()
lens = Blur(gaussian_kernel(21, 1.6))
print("noise     chosen rho   PSNR      best rho   PSNR")
for level in (0.5, 2.0, 8.0):
    x = lens(face) + level / 255 * standard_normal(0)(face)
    chosen = choose_rho(lens, x, level / 255)
    quality = {
        rho: psnr(lens.adjoint(lens.solve_data(x, rho)), face).item() for rho in [10 ** (k / 4) for k in range(-24, 1)]
    }
    best = max(quality, key=quality.get)
    at_chosen = psnr(lens.adjoint(lens.solve_data(x, chosen)), face).item()
    print(f"{level:3.1f}/255   {chosen:9.1e}   {at_chosen:5.2f} dB   {best:7.1e}   {quality[best]:5.2f} dB")

# %% [markdown] tags=["solution"]
# Without ever seeing the original, the principle comes within half a decibel of the oracle at all three noise levels, because the valley is flat at its bottom.
# Questions to go on with: how wrong may `noise_std` be before the answer falls below the
# blurred input? Does the principle survive a wrong kernel, whose error also sits in the residual?
