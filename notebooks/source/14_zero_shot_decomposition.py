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
# # 14 No retraining: decomposition
#
# Every camera splits an image in two: a part that it sees and a part that it does not. The seen part is known, up to noise. The unseen part can be anything, and a diffusion model that has never heard of this camera can paint it. In this chapter you make the split for cameras of all kinds with the singular value decomposition, catch an operator that is
# nine tenths wrong and passes every usual test, and build the four methods that live on the split: DDNM, DDRM, DDNM+ and SNIPS. Where the posterior is known exactly you find out which of them draw from it. With noise in the measurement two of them do not, and more steps can make them worse.
#
# ## What you will be able to do
#
# 1. **Split** an image into range and null part for any camera, composites included.
# 2. **Catch** a wrong operator that is adjoint, orthogonal and consistent with itself.
# 3. **Derive** DDNM, and say when it draws from the posterior.
# 4. **Budget** the noise of a measurement coordinate by coordinate, and test the budget at step level (DDRM, DDNM+).
# 5. **Predict** what Langevin dynamics in spectral coordinates settles to (SNIPS).
# 6. **Choose** a method by its task, noise and number of calls.
# 7. **Read** a failed restoration.
#
# **Prerequisites**: [chapter 01](01_super_resolution_basics.ipynb) ($A$, $A^\top$, $A^+$), [chapter 07](07_efficient_sampling.ipynb) (DDIM and its $\eta$), [chapter 05](05_score_based_models.ipynb) (Langevin dynamics). [Chapter 13](13_zero_shot_projection.ipynb) does the same by projecting noised states; it helps, but is not needed.
#
# **Reading time**: 80 minutes. Running time: about 30 s on two cores.
# **Survey section**: "Zero-Shot Diffusion Models", decomposition-based (arXiv:2401.00736).
# **Exercises**: [exercises](../exercises/14_zero_shot_decomposition.ipynb), worked in [solutions](../solutions/14_zero_shot_decomposition.ipynb).

# %% [markdown]
# > **Notation**
# >
# > | here | code | meaning |
# > |---|---|---|
# > | $x = A z_0 + \sigma_y n$ | `operator`, `noise_std` | the measurement; $n$ is white ($\nu$: drawn fresh in a step). The papers' $y = Hx + z$ |
# > | $A^+A$, $I - A^+A$ | `operator.pinv` | projections onto the range part and the null part of a state |
# > | $A = U\,\mathrm{diag}(s_i)\,V^\top$ | `operator.svd(z)` | singular values $s_i > 0$; `vt`, `v`, `ut`, `u` are maps |
# > | $c = V^\top z_0$, $\bar x = U^\top x/s$ | `svd.vt(z)` | coordinates of the image; of the measurement, $\bar x_i = c_i + (\sigma_y/s_i)\,n_i$ |
# > | $\hat z_0 = D(z_t, t)$ | `denoiser(z, t)` | the denoiser's estimate of $\mathbb E[z_0\mid z_t]$ |
# > | $\eta$ | `eta` | DDIM's: multiplies the posterior's standard deviation |
# > | $f$ | `eta_total` | share of the *whole* $\sigma_s$ drawn anew; called $\eta$ in DDRM and DDNM |
# >
# > A step goes from $t$ to $s < t$. The letter $s$ without index is a time, $s_i$ a singular value. **Noise units**: states live in $[-1, 1]$, so noise of 0.05 in images of $[0, 1]$ is `noise_std=0.1` here. DDRM's and DDNM's code doubles the number given to it for that reason; DPS' code adds 0.05 in $[-1, 1]$ as it stands. Two tables that both say 0.05 need not mean the same.

# %%
import json
import math
from importlib import resources

import torch
import torch.nn.functional as F
from torch.testing import assert_close

from tutorial_lib import plots, widgets
from tutorial_lib.data import faces
from tutorial_lib.degradations import gaussian_kernel
from tutorial_lib.denoisers import NetworkDenoiser, count_calls
from tutorial_lib.images import photo, resize
from tutorial_lib.metrics import psnr, sharpness
from tutorial_lib.noise import standard_normal
from tutorial_lib.operators import SVD, AveragePool, Bicubic, Blur, Dense, Grayscale, Mask
from tutorial_lib.oracles import Gaussian, GaussianMixture, affine_law, convergence_order, denoiser_for, gaussian_w2
from tutorial_lib.pretrained import load_pretrained
from tutorial_lib.samplers import ddpm, last, trajectory
from tutorial_lib.schedules import log_snr_times, uniform_times, vp_cosine, vp_linear
from tutorial_lib.zero_shot import ddnm, ddrm, ilvr, resampling_path, snips

double = torch.float64

# %% [markdown]
# ## 1. A face in two parts
#
# Here is a face, and a camera that keeps the mean of every 4×4 block: 64 numbers out of 1024 for each colour. The **range part** $A^+A\,z_0$ is what the camera sees; the **null part** $(I - A^+A)\,z_0$ is what it does not. Leave the range part as it is, exchange the null part for anything you like, and the camera notices nothing (→ Exercise 14.1).

# %% tags=["nbval-check-output"]
group = faces(6, seed=1414).images
face = 2 * group[:1] - 1
camera = AveragePool(4)
x = camera(face)


def null_part(operator, z):
    return z - operator.pinv(operator(z))


seen = camera.pinv(x)
grain = 0.5 * standard_normal(3)(face)
choices = {"nothing": 0 * face, "its own": face, "another face's": 2 * group[1:2] - 1, "grain": grain}
explanations = {name: seen + null_part(camera, z) for name, z in choices.items()}
for name, z in explanations.items():
    print(f"null part: {name:15} largest |A z - x| {(camera(z) - x).abs().max():.6f}")


# %%
def to_image(z):
    return ((z + 1) / 2).clamp(0, 1)


plots.image_grid(
    [to_image(face), to_image(seen), 0.5 + null_part(camera, face) / 2, *map(to_image, explanations.values())],
    ["face", "range part", "null part, on grey", *(f"+ {name}" for name in explanations)],
    title="One range part, four null parts: all explain the measurement to the last digit, one is a face",
    alt="Seven pictures of 32 by 32 pixels: a drawn face; its range part, squares of 4 by 4 pixels; its null part, the edges inside those squares on grey; then range part plus nothing, again squares; plus its own null part, the face; plus another face's null part, squares with foreign edges; plus noise, squares with grain.",
    zoom=4,
    columns=7,
)

# %% [markdown]
# All four explain $x$. Which null part is plausible? That depends on the range part, and a diffusion model knows how the two go together. The recipe of **DDNM** fits in a sentence: ask the denoiser for its estimate $\hat z_0$, replace the estimate's range part by the measured one, and take the usual step.

# %%
cosine = vp_cosine()
prior = NetworkDenoiser(load_pretrained("faces-unconditional-32"))


def my_ddnm(denoiser, schedule, operator, x, times, z, noise):
    for t, s in zip(times[:-1], times[1:], strict=True):
        guess = denoiser(z, t)
        eps = (z - schedule.alpha(t) * guess) / schedule.sigma(t)
        repaired = guess + operator.pinv(x - operator(guess))
        z = schedule.alpha(s) * repaired
        if schedule.sigma(s) > 0:
            kept = schedule.alpha(t) * schedule.sigma(s) / (schedule.alpha(s) * schedule.sigma(t))
            z = z + schedule.sigma(s) * (kept * eps + (1 - kept**2).sqrt() * noise(z))
    return z


grid, noise = uniform_times(25), standard_normal(0)
painted = my_ddnm(prior, cosine, camera, x, grid, noise(face.repeat(4, 1, 1, 1)), noise)
plots.image_grid(
    torch.cat([to_image(seen), to_image(painted), to_image(painted).mean(0, keepdim=True), to_image(face)]),
    ["$A^+x$", *(f"sample {k}" for k in range(1, 5)), "their mean", "the face"],
    title="An unconditional model and ten lines: four faces that the camera cannot tell from the true one",
    alt="Seven pictures: squares of 4 by 4 pixels; four samples, each a clean face with eyes, mouth and hair at the same places and small differences between them; their mean, slightly softer; and the true face, which the samples resemble closely.",
    zoom=4,
    columns=7,
)

# %% [markdown]
# No training, no gradient, 25 calls. (`kept` is the share of the old noise that a DDPM step keeps, chapter 07.) The network has been shown faces, never a camera. In the rest of the chapter you find out why this works, when it is *right*, and what noise does to it. First play: mix the parts of this solution yourself. `seen` is how much of the measured range part you keep (the rest comes from another face), `unseen` how much of the painted null part.

# %%
cameras = {
    "pool 4": camera,
    "bicubic 4": Bicubic(4),
    "blur": Blur(gaussian_kernel(9, 1.5)),
    "hole": Mask(1 - F.pad(torch.ones(12, 16), (8, 8, 10, 10))),
    "grey": Grayscale(),
}
noise = standard_normal(5)
solved = {
    name: last(ddnm(prior, cosine, a, a(face), times=grid, z=noise(face), noise=noise)) for name, a in cameras.items()
}


def draw_blend(seen=1.0, unseen=1.0, camera="pool 4"):
    """range part: seen * measured + (1 - seen) * another face's; null part: unseen * painted."""
    a, other = cameras[camera], 2 * group[1:2] - 1
    known, hidden = a.pinv(a(seen * face + (1 - seen) * other)), unseen * null_part(a, solved[camera])
    missed = (a(known + hidden) - a(face)).square().mean().sqrt()
    return plots.image_grid(
        torch.cat([to_image(known), 0.5 + hidden / 2, to_image(known + hidden)]).clamp(0, 1),
        ["range", "null", "sum"],
        title=f"{camera}, seen {seen:g}, unseen {unseen:g}: residual {missed:.3f}",
        alt=f"Camera {camera}: range part with {seen:.0%} of the measured one, {unseen:.0%} of the painted null part, and their sum; root mean square residual {missed:.3f}.",
        zoom=3,
    )


widgets.explorer(draw_blend, seen=(0.0, 1.0, 0.1, 1.0), unseen=(0.0, 2.0, 0.1, 1.0), camera=list(cameras))

# %%
widgets.frames(
    draw_blend,
    [
        *({"unseen": u} for u in (0.0, 1.0, 2.0)),
        {"seen": 0.5},
        *({"camera": name} for name in ("bicubic 4", "blur", "hole", "grey")),
        {"camera": "grey", "unseen": 2.0},
    ],
    title="Null parts change nothing that the camera measures; range parts do",
    alt="Nine panels, each with range part, null part and sum. Pooling with none, all and twice the painted null part: blocks, a face, a face with exaggerated edges, residual 0 each time. Half of the range part from another face: a mixture, and a residual that is not zero. Bicubic: a soft range part and fine edges. Blur: the whole face in the range part and next to nothing in the null part. A hole: a face without eyes and nose, and those alone. Grey: a grey face and its colours; with twice the null part, garish colours. Residual 0 in the last five.",
    columns=3,
)

# %% [markdown]
# The residual is zero wherever the range part is the measured one, whatever stands in the null space. So a small residual is *necessary* and says nothing about the painted half. Keep that in mind for every table of "consistency".
#
# ## 2. What a camera sees: singular values
#
# The split has a finer form. Any matrix is $A = U\,\mathrm{diag}(s_i)\,V^\top$ with orthonormal columns in $U$ and $V$: the camera looks at the image through the pictures $v_i$ (columns of $V$), multiplies each coordinate $c_i = v_i^\top z_0$ by $s_i$, and writes the result along $u_i$. Pictures with $s_i = 0$ span the null space. Then
#
# $$A^+x = \sum_{s_i>0} v_i\,\frac{u_i^\top x}{s_i}, \qquad A^+A = \sum_{s_i>0} v_i v_i^\top .$$

# %%
small = 2 * resize(group[:1], 1 / 2).double().clamp(0, 1) - 1  # (1, 3, 16, 16)
watched = {
    "pool 4": AveragePool(4),
    "bicubic 4": Bicubic(4),
    "blur": Blur(gaussian_kernel(9, 1.0)),
    "grey": Grayscale(),
    "half masked": Mask(torch.arange(16) % 2),
}
share, lines, pictures = torch.linspace(0, 1, 768), {}, []
for name, operator in watched.items():
    svd = operator.svd(small)
    s_i = svd.singular_values.sort(descending=True)
    lines[name] = F.pad(s_i.values, (0, 768 - len(s_i.values)))
    for k in (len(s_i.values) // 40, len(s_i.values) - 1):
        v_i = svd.v(torch.eye(len(s_i.values), dtype=double)[s_i.indices[k]][None])
        pictures.append((0.5 + 0.5 * v_i / v_i.abs().max()).float())
plots.curves(
    share,
    lines,
    title="What five cameras keep of a colour image: singular values, largest first",
    alt="Singular values against the share of the 768 coordinates of a 16 by 16 colour image. "
    + " ".join(
        f"{name}: from {s.max():.2f} to {s[s > 0].min():.4f}, {(s > 0).double().mean():.0%} of the coordinates seen."
        for name, s in lines.items()
    ),
    xlabel="share of the coordinates",
    ylabel="singular value $s_i$",
    height=340,
)

# %%
plots.image_grid(
    torch.cat(pictures),
    [f"{name}, {which}" for name in watched for which in ("strong", "weak")],
    title="Through which pictures they look: one of the strongest and the weakest $v_i$",
    alt="Ten small pictures on grey, two for each camera. Pool: one 4 by 4 block of one colour each. Bicubic: one flat colour, and a coarse soft chessboard. Blur: a slow diagonal wave, and a fine chessboard of single pixels. Grey: a single pixel of equal red, green and blue, twice. Mask: a single pixel of one colour, twice.",
    zoom=4,
    columns=10,
)

# %% [markdown]
# Three kinds of camera. *Pooling, grey and masks* see some coordinates, all equally well, and the rest not at all: $A^+$ is a harmless multiple of $A^\top$. *Blur* sees nearly everything, but fine waves only faintly: the weakest $s_i$ above is two ten-thousandths, $1/s_i$ five thousand, and any noise grows with it. *Bicubic* lies between.
#
# For large images nobody stores $V$: pooling has blocks, bicubic two small matrices (rows and columns), blur the Fourier transform. `operator.svd(z)` returns the maps. And composites? $(AB)^+ = B^+A^+$ holds only in special cases. Two composites of practice:
#
# - **Grey of a mask, pooled** ("an old photo"): scratches, no colour, small. The rows of this matrix touch disjoint sets of pixels, so they are at right angles, and their lengths *are* the singular values: $s_i^2 = (AA^\top)_{ii}$.
# - **A blur, pooled**: the classical camera of super-resolution. Pooling is a box blur followed by keeping every fourth pixel. On the small grid $k^2$ waves of the large one look alike (aliasing), and the row of $A$ for a wave $f$ of the small grid adds them up, each with its gain $K_g/k$ ($K$: the spectrum of both blurs together). Rows of different $f$ share no wave, so they too are at right angles, with the lengths
#
# $$s_f^2 = \frac{1}{k^2}\sum_{g\,\text{aliased to}\,f} |K_g|^2 .$$
#
# Check both against a dense matrix (→ Exercises 14.2 and 14.4):

# %% tags=["nbval-check-output"]
scratches = (standard_normal(1)(torch.empty(16, 16)) > -1).double()
old_photo = AveragePool(4) @ Grayscale() @ Mask(scratches)
soft = AveragePool(4) @ Blur(gaussian_kernel(9, 1.0))
for name, operator in (("old photo", old_photo), ("blur, pooled", soft)):
    dense = operator.dense((3, 16, 16))
    values = operator.svd(small).singular_values.sort(descending=True).values
    assert_close(values, torch.linalg.svdvals(dense)[: len(values)])
    assert_close(operator.pinv(operator(small)).flatten(), torch.linalg.pinv(dense) @ dense @ small.flatten())
    print(f"{name:13} {len(values)} singular values, {values.max():.3f} to {values.min():.3f}, as in the dense matrix")

spike = F.pad(torch.ones(1, 1, 1, 1, dtype=double), (0, 15, 0, 15))
smeared = Blur(gaussian_kernel(9, 1.0))(spike)
boxed = sum(torch.roll(smeared, (-i, -j), (2, 3)) for i in range(4) for j in range(4)) / 16
power = torch.fft.fft2(boxed)[0, 0].abs() ** 2
folded = power.reshape(4, 16 // 4, 4, 16 // 4).mean((0, 2)).sqrt()  # (alias, row of f, alias, column of f)
assert_close(folded.flatten().sort().values, soft.svd(small[:, :1]).singular_values.sort().values)

composed = Mask(scratches).pinv(Grayscale(3).pinv(AveragePool(4).pinv(old_photo(small))))
gap = (old_photo(composed) - old_photo(small)).norm() / old_photo(small).norm()
print(f"the three pseudo-inverses one after the other: A A+ x misses x by {gap:.0%}")

# %% [markdown]
# The last line does what DDNM's published code does for old photos: it applies the three pseudo-inverses in turn. The method rests on $AA^+A = A$, which this does not satisfy. Some composites have no closed form (a bicubic resize of a blur): there `pinv` solves by conjugate gradients, and methods that need an SVD say so.
#
# ## 3. An operator that is wrong and passes its tests
#
# How do you know that an operator is right? The usual tests are: $\langle Az, w\rangle = \langle z, A^\top w\rangle$ (the adjoint); $V^\top V = I$; $AA^+A = A$. Here is a blur with its SVD, written as in public code that several repositories have copied. The kernel is separable, so two small SVDs do. Coordinates are stored pixel by pixel (all colours of the first, then of the second, …):


# %%
def spectral_blur(taps, size, channels=3, interleaved=False):
    """SVD of the blur with the kernel taps x taps, zeros outside the image."""
    half = len(taps) // 2
    rows = sum(w * torch.diag(torch.ones(size - abs(k - half), dtype=double), k - half) for k, w in enumerate(taps))
    u, s, vt = torch.linalg.svd(rows)
    values, order = torch.outer(s, s).flatten().sort(descending=True)

    def inwards(z, m):  # (B, C, size, size) -> (B, size * size * C), strongest first, pixel by pixel
        return (m @ z @ m.T).flatten(2)[..., order].mT.flatten(1)

    def outwards(c, m):
        return m.T @ c.unflatten(1, (-1, channels)).mT[..., order.argsort()].unflatten(2, (size, size)) @ m

    return SVD(
        values.repeat_interleave(channels) if interleaved else values.repeat(channels),
        vt=lambda z: inwards(z, vt),
        v=lambda c: outwards(c, vt),
        ut=lambda x: inwards(x, u.T),
        u=lambda c: outwards(c, u.T),
    )


taps = gaussian_kernel(5, 10.0)[2].double()
taps = taps / taps.sum()
svd = spectral_blur(taps, 16)


def through(z):
    return svd.u(svd.singular_values * svd.vt(z))


def adjoint(w):
    return svd.v(svd.singular_values * svd.ut(w))


def pinv(w):
    return svd.v(torch.where(svd.singular_values > 1e-10, svd.ut(w) / svd.singular_values, 0))


# %% tags=["nbval-check-output"]
z, w = (standard_normal(k)(small) for k in (1, 2))
print(f"adjoint:           {((through(z) * w).sum() - (z * adjoint(w)).sum()).abs():.6f}")
print(f"orthonormal V:     {(svd.vt(svd.v(svd.vt(z))) - svd.vt(z)).abs().max():.6f}")
print(f"A A+ A = A:        {(through(pinv(through(z))) - through(z)).abs().max():.6f}")
grey_svd = spectral_blur(taps, 16, channels=1)
truth = F.conv2d(small, torch.outer(taps, taps).expand(3, 1, 5, 5), padding=2, groups=3)
one = grey_svd.u(grey_svd.singular_values * grey_svd.vt(small[:, :1]))
print(f"one channel against conv2d: {(one - truth[:, :1]).abs().max():.6f}")


def matrix_of(operator):
    return operator(torch.eye(768, dtype=double).reshape(768, 3, 16, 16)).flatten(1)


blur_matrix = matrix_of(lambda z: F.conv2d(z, torch.outer(taps, taps).expand(3, 1, 5, 5), padding=2, groups=3))
wrong = (matrix_of(through) - blur_matrix).norm() / blur_matrix.norm()
svd_right = spectral_blur(taps, 16, interleaved=True)
right = (matrix_of(lambda z: svd_right.u(svd_right.singular_values * svd_right.vt(z))) - blur_matrix).norm()
print(f"three channels against conv2d: {wrong:.0%} wrong; with repeat_interleave {right / blur_matrix.norm():.6f}")

# %%
plots.image_grid(
    torch.cat([to_image(part).float() for part in (small, truth, through(small), pinv(through(small)))]),
    ["image", "conv2d", "the 'blur'", "$A^+$ of it"],
    title="The 'blur' passes for a blur, and its own inverse takes it back without a trace; yet it is another operator",
    alt="Four small pictures of a face: the image; the true blur, soft; what the wrong operator makes, soft as well, but with the face folded onto itself from left to right and dark edges; and the pseudo-inverse of that, the image again.",
    zoom=8,
    columns=4,
)

# %% [markdown]
# All tests pass, because they only compare the operator *with itself*. Coordinates lie pixel by pixel, singular values were tiled colour by colour (`repeat` for `repeat_interleave`): an orthonormal frame with the wrong gains. It *is* a linear operator with that adjoint and that pseudo-inverse. It just is not this blur: look how it folds the face onto itself. In a benchmark it stays hidden as well: the measurement is made by the same wrong operator. And with one channel it is right.
#
# What fails is a comparison with something *independent*: `conv2d`, a dense matrix, several channels, an image that is not square, odd kernels. This package tests every operator that way (→ Exercise 14.3).
#
# <details><summary><b>Question.</b> Would a restoration with this operator look bad?</summary>
#
# With a measurement made by the same operator it looks fine, since all is consistent. With a photo from a real blurred lens it would be a mess: the model is told to undo something that never happened.
# </details>

# %% [markdown]
# ## 4. DDNM, derived and tested
#
# The denoiser's estimate $\hat z_0$ does not explain $x$. Which image that does is nearest to it? Minimise $\|z - \hat z_0\|^2$ under $Az = x$. Moving inside the null space costs and does not help, so only the range part moves:
#
# $$\hat z_{0,x} = \hat z_0 + A^+(x - A\hat z_0) = A^+x + (I - A^+A)\,\hat z_0 .$$
#
# This is section 1's ten lines: the rest is the DDIM step with $\eta = 1$, whose direction $\epsilon = (z_t - \alpha_t\hat z_0)/\sigma_t$ stays that of the *raw* estimate (→ Exercise 14.5). At the last step $\sigma_s = 0$, the repaired estimate itself is returned, and $Az = x$ holds for any network, trained or not:

# %% tags=["nbval-check-output"]
ours = my_ddnm(prior, cosine, camera, x, grid, standard_normal(1)(face), standard_normal(2))
theirs = last(ddnm(prior, cosine, camera, x, times=grid, z=standard_normal(1)(face), noise=standard_normal(2)))
assert_close(ours, theirs, rtol=0, atol=1e-4)
for name, a in cameras.items():
    assert (a(solved[name]) - a(face)).abs().max() < (1e-2 if name == "blur" else 1e-5)
nonsense = my_ddnm(lambda z, t: torch.sin(9 * z), cosine, camera, x, grid, standard_normal(1)(face), standard_normal(2))
print(f"a denoiser that talks nonsense: largest |A z - x| {(camera(nonsense) - x).abs().max():.5f}")

# %% [markdown]
# <details><summary><b>Question.</b> What would happen if the network had only ever seen cats?</summary>
#
# The pooled image would still be that of the face, to the last digit; within the blocks you would find fur. DDNM forces the range part and trusts the network for the rest.
# </details>
#
# Explaining $x$ is easy, then. Drawing from $p(z_0 \mid x)$ is another matter, and for a Gaussian prior we can know. Take two numbers with variance 1 and correlation 0.9, measure the first: $x = 1$. The posterior of the second is $\mathcal N(0.9, 0.19)$. With the exact denoiser every method here is affine in its noise, so `affine_law` gives its law without sampling.

# %%
linear = vp_linear()
pair = Gaussian(torch.zeros(2, dtype=double), torch.tensor([[1, 0.9], [0.9, 1]], dtype=double))
first, one = Dense(torch.tensor([[1.0, 0.0]], dtype=double)), torch.ones(1, 1, dtype=double)
target = pair.posterior(first, one, 0.0)
knows, told = denoiser_for(pair, linear), denoiser_for(target, linear)


def walk(n, **options):
    """DDNM from its own start: noise -> one sample."""

    def run(noise):
        z = noise(torch.zeros(1, 2, dtype=double))
        return last(ddnm(knows, linear, first, one, 0.0, uniform_times(n), z, noise=noise, **options))

    return run


def control(n):
    """DDPM with the posterior's own denoiser: right up to the error of its steps."""
    return lambda noise: last(ddpm(told, linear, noise(torch.zeros(1, 2, dtype=double)), uniform_times(n), noise=noise))


def off(run):
    """W_2 to the posterior."""
    return gaussian_w2(*affine_law(run, 2), target.means[0], target.covariances[0])


# %%
counts = (10, 20, 40, 80, 160, 320)
distances = {
    "posterior's own denoiser": [off(control(n)) for n in counts],
    "DDNM, $\\eta = 1$": [off(walk(n)) for n in counts],
    "DDNM, $\\eta = 0$ (DDIM)": [off(walk(n, eta=0.0)) for n in counts],
    "DDNM, $f = 0.85$ (its code)": [off(walk(n, eta_total=0.85)) for n in counts],
}
plots.curves(
    counts,
    distances,
    title="DDNM with DDPM's noise goes to the exact posterior at first order; with a fixed share of fresh noise it stays off",
    alt="Wasserstein-2 distance to the posterior against the number of steps, both logarithmic. "
    + " ".join(
        f"{name.replace('$', '')}: {row[0]:.3f} at 10, {row[3]:.3f} at 80, {row[-1]:.4f} at 320 steps."
        for name, row in distances.items()
    ),
    xlabel="steps",
    ylabel="$W_2$ to the posterior",
    logx=True,
    logy=True,
    height=360,
)

# %% tags=["nbval-check-output"]
for label in ("DDNM, $\\eta = 1$", "DDNM, $\\eta = 0$ (DDIM)"):
    late = dict(zip(counts, distances[label], strict=True))
    print(f"order of {label.replace('$', '')}: {convergence_order(late.get, (40, 80, 160, 320)):.2f}")
start = standard_normal(0)(torch.empty(2000, 2, dtype=double))
for options in ({"eta": 1.0}, {"eta_total": 0.85}):
    for n in (20, 80, 320):
        states = trajectory(
            ddnm(knows, linear, first, one, 0.0, uniform_times(n), start, noise=standard_normal(1), **options)
        )
        middle = min(states, key=lambda state: abs(state.t - 0.5)).z_0[:, 0]
        print(
            f"{options}, {n:3} steps: at t = 0.5 the denoiser expects a first number of {middle.mean():.2f} +- {middle.std():.2f}"
        )

# %% [markdown]
# The paper's code uses a fixed share $f = 0.85$ of fresh noise, whatever the step size; ours defaults to $\eta = 1$. The difference is a limit: right against wrong (→ Exercise 14.6). From 40 steps on $\eta = 1$ is even a little nearer than the posterior's own denoiser: both have only the error of their steps left. With $\eta = 0$ (DDIM) the distance falls as well, with about half the order.
#
# Why is $\eta = 1$ right? The printed lines hold the answer. In every step the repaired estimate pulls the state's range part by the gap $\alpha_s A^+(x - A\hat z_0)$, and the raw $\epsilon$ keeps what was pulled before. The pulls add up until there is no gap: with many small steps the state comes to lie where *the denoiser itself* expects $x$ (here $x = 1$; at $t = 0.5$ it has got to 0.20, 0.45 and 0.89 with 20, 80 and 320 steps). With $f = 0.85$ every step throws away $f^2 = 72$ % of the noise's variance, and the pulls with it, so the gap stays at any number of steps. And a state for which $\mathbb E[Az_0 \mid z_t] = x$ has, in the null space, the very score that the posterior has, *if* the prior is Gaussian. To see it, write $\nabla_{\text{null}}$ for the gradient along the null space. Given $Az_0$, the null part $z_t^{\text{null}} = (I - A^+A)z_t$ does not depend on the state's range part, whose noise is independent; hence the first equality. For a Gaussian the inner score is linear in $Az_0$, so the mean may be put in; hence the second:
#
# $$\nabla_{\text{null}} \log p(z_t) = \mathbb E\big[\nabla_{\text{null}}\log p(z_t^{\text{null}} \mid A z_0)\,\big|\,z_t\big] \overset{\text{Gaussian}}{=} \nabla_{\text{null}}\log p\big(z_t^{\text{null}} \mid Az_0 = m\big)\Big|_{m = \mathbb E[Az_0\mid z_t]} .$$
#
# For other priors an average of scores gives way to the score at the average, which is something else. Take four blobs in the plane, at three, six, nine and twelve o'clock, and measure the first number: $x = 0.5$. Three blobs can explain it equally well.

# %% tags=["nbval-check-output"]
clock = GaussianMixture(
    torch.ones(4), torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]], dtype=double), 0.04 * torch.eye(2).expand(4, 2, 2)
)
half = torch.full((1, 1), 0.5, dtype=double)
posterior = clock.posterior(first, half, 0.0)
start = standard_normal(0)(torch.empty(4000, 2, dtype=double))
seconds = {}
for name, method, denoiser in (
    ("posterior's own denoiser", None, denoiser_for(posterior, linear)),
    ("DDNM", ddnm, denoiser_for(clock, linear)),
):
    for n in (30, 100, 300):
        fresh = standard_normal(1)
        if method:
            z = last(method(denoiser, linear, first, half, 0.0, uniform_times(n), start, noise=fresh))
        else:
            z = last(ddpm(denoiser, linear, start, uniform_times(n), noise=fresh))
        seconds[name] = z[:, 1]
        print(
            f"{name:25} {n:3} steps: {(z[:, 1].abs() < 0.5).double().mean():.0%} in the middle, residual {(first(z) - 0.5).abs().max():.1e}"
        )
print(f"{'the truth':25}            {posterior.weights[0]:.0%}")

# %%
heights = torch.linspace(-1.8, 3.2, 301, dtype=double)
plots.histogram(
    seconds,
    exact={
        "exact posterior": (
            heights,
            sum(
                w * torch.exp(-((heights - m) ** 2) / 0.08) / (0.08 * math.pi) ** 0.5
                for w, m in zip(posterior.weights, posterior.means[:, 1], strict=True)
            ),
        )
    },
    bins=60,
    caption="300 steps.",
    title="Not a Gaussian: DDNM blurs three separate answers into one another, and more steps do not help",
    alt="Density of the second number, given that the first is 0.5. The exact posterior has three equal peaks at -1, 0 and 1. The sampler with the posterior's own denoiser follows it. DDNM fills the valleys between the peaks, lowers all three, pulls the outer ones inwards, and has more mass in the middle.",
    xlabel="second number",
    height=340,
)

# %% [markdown]
# DDNM fills the valleys between the answers: ten points too many in the middle, and many samples where no image is. The residual is at rounding in every line. Consistency, once more, does not see it.
#
# **Time travel.** DDNM's paper improves hard tasks by walking some stretches several times: take `travel_length` steps, add noise to go back, `travel_repeat` times over. It is RePaint's idea ([chapter 13](13_zero_shot_projection.ipynb)), and it costs calls: `resampling_path` counts them. At about a hundred calls in all:

# %% tags=["nbval-check-output"]
for n, length, repeat in ((100, 1, 1), (50, 1, 2), (52, 4, 2), (36, 4, 3), (24, 5, 5)):
    path = resampling_path(n, length, repeat)
    calls = sum(after > before for before, after in zip(path, path[1:], strict=False))
    counted = count_calls(denoiser_for(clock, linear))
    options = {"travel_length": length, "travel_repeat": repeat}
    z = last(ddnm(counted, linear, first, half, 0.0, uniform_times(n), start, noise=standard_normal(1), **options))
    assert counted.calls == calls
    print(
        f"{n:3} steps, stretches of {length}, {repeat} times: {calls:3} calls, W2 on the pair {off(walk(n, **options)):.3f},"
        f" four blobs: {(z[:, 1].abs() < 0.5).double().mean():.0%} in the middle"
    )

# %% [markdown]
# On the pair every call is better spent on a smaller step; on the four blobs short stretches change nothing, and the longest do harm. Time travel repairs what large jumps have broken, and with an exact denoiser smaller jumps are the better repair. With a network on a hard task measure again, at equal *calls*, never at equal steps.
#
# ## 5. Noise: every coordinate has its own
#
# Real measurements are noisy. In spectral coordinates the measurement is a noisy copy of the image's own coordinate:
#
# $$\bar x_i = \frac{u_i^\top x}{s_i} = c_i + \frac{\sigma_y}{s_i}\,n_i .$$
#
# A block mean has $s = 1/4$, so its coordinate carries $4\sigma_y$. A wave that a blur leaves at 1 % carries $100\,\sigma_y$. What $A^+$ makes of it, and what DDNM makes of it if it takes $x$ at its word (`noise_std=0`):

# %% tags=["nbval-check-output"]
noise_std = 0.1
noisy = {}
for number, (name, a) in enumerate(cameras.items()):
    noisy[name] = a(face) + noise_std * standard_normal(20 + number)(a(face))
    s_i = a.svd(face).singular_values.double()
    amplified = noise_std * (1 / s_i**2).mean().sqrt()
    print(
        f"{name:9} sees {len(s_i) / face[0].numel():4.0%} of the coordinates, noise there {noise_std / s_i.max():.2g} to"
        f" {noise_std / s_i.min():.2g}, root mean square {amplified:.2g}"
    )


def solve(name, told, steps=25, method=ddnm, seed=5, **options):
    noise = standard_normal(seed)
    return last(
        method(
            prior, cosine, cameras[name], noisy[name], told, uniform_times(steps), noise(face), noise=noise, **options
        )
    )


believed = {name: solve(name, 0.0) for name in cameras}
weighed = {name: solve(name, noise_std) for name in cameras}

# %%
plots.image_grid(
    torch.cat(
        [
            to_image(z)
            for z in [*(a.pinv(noisy[name]) for name, a in cameras.items()), *believed.values(), *weighed.values()]
        ]
    ),
    [f"{way}, {name}" for way in ("$A^+x$", "believed", "weighed") for name in cameras],
    title="Noise of 0.1: amplified by the pseudo-inverse, believed by DDNM, weighed by DDNM+",
    alt="Three rows of five pictures for pool, bicubic, blur, hole and grey. Top: the pseudo-inverse of the noisy measurement; blocks and soft blobs with off colours; for the blur nothing but saturated fine noise; speckle around the hole; a speckled grey face. Middle: DDNM told of no noise: faces that keep the speckle; the blur again pure noise. Bottom: DDNM+ told of the noise: clean faces throughout, the one from the blur as well; those from pooling and from the hole wear glasses.",
    zoom=4,
    columns=5,
)

# %% [markdown]
# (The glasses in some pictures are invented; nothing in $x$ forbids them.) The middle row is the price of $Az = x$: the noise is in $x$, so it is in the answer. The bottom row needs a rule for how much of $\bar x_i$ to use, and when. **DDRM** gives one (→ Exercise 14.7). A state at time $s$ should look like a noised image: coordinate $i$ with mean $\alpha_s c_i$ and standard deviation $\sigma_s$. That is a *budget*, and $\alpha_s\bar x_i$ brings noise $\alpha_s\sigma_y/s_i$ of its own:
#
# $$
# z_{s,i} = \begin{cases}
# \alpha_s\hat c_i + \sigma_s\big(\sqrt{1-f^2}\,\hat\epsilon_i + f\,\nu_i\big) & s_i = 0:\ \text{unseen}\\[4pt]
# \alpha_s\hat c_i + \sigma_s\Big(\sqrt{1-f^2}\,\dfrac{\bar x_i-\hat c_i}{\sigma_y/s_i} + f\,\nu_i\Big) & \sigma_s < \alpha_s\sigma_y/s_i:\ \text{noisier than the state}\\[10pt]
# \alpha_s\bar x_i + \sqrt{\sigma_s^2-(\alpha_s\sigma_y/s_i)^2}\;\nu_i & \text{otherwise: cleaner than the state}
# \end{cases}
# $$
#
# Here $\hat c$ and $\hat\epsilon$ are the coordinates of $\hat z_0$ and of $(z_t - \alpha_t\hat z_0)/\sigma_t$, and $\nu$ is fresh. Suppose $\hat c_i = c_i$. Then in the first case $\hat\epsilon$ is the noise of $z_t$; in the second $(\bar x_i - c_i)/(\sigma_y/s_i)$ is the *measurement's* noise, of variance 1, put to use as the state's; in the third the measurement's noise is topped up. Mean $\alpha_s c_i$ and variance $\sigma_s^2$ each time. (The third case has a knob more, $\eta_b$, for using $\bar x_i$ only partly; here it is 1.)


# %%
def my_ddrm(denoiser, schedule, svd, x, noise_std, times, z, noise, f=0.85, slip=""):
    """All states of DDRM, eta_b = 1; `slip` names a mistake."""
    seen, level, states = svd.ut(x) / svd.singular_values, noise_std / svd.singular_values, [z]
    for t, s in zip(times[:-1], times[1:], strict=True):
        alpha, sigma, guess = schedule.alpha(s).to(z), schedule.sigma(s).to(z), denoiser(z, t)
        eps = (z - schedule.alpha(t) * guess) / schedule.sigma(t)
        fresh = noise(z) / (2**0.5 if slip == "noise / sqrt 2" else 1)
        unseen = alpha * guess + sigma * ((1 - f**2) ** 0.5 * eps + f * fresh)
        c, n = svd.vt(guess), svd.vt(fresh)
        replaced = alpha * seen + (sigma**2 - (alpha * level) ** 2).clamp(min=0).sqrt() * n
        leaning = alpha * c + sigma * ((1 - f**2) ** 0.5 * (seen - c) / level.clamp(min=1e-12) + f * n)
        clear = sigma >= alpha * level
        if slip == "strict":
            clear = sigma > alpha * level
        coordinates = torch.where(clear, replaced, leaning)
        if slip == "case by noise_std":
            coordinates = torch.where(svd.singular_values > noise_std, coordinates, svd.vt(unseen))
        z = unseen + svd.v(coordinates - svd.vt(unseen))
        states.append(z)
    return states


# %% tags=["nbval-check-output"]
soft_camera, short = cameras["blur"], uniform_times(12)
soft_x, z, face_svd = noisy["blur"].double(), standard_normal(6)(face.double()), soft_camera.svd(face.double())
arguments = (prior, cosine, face_svd, soft_x, noise_std, short, z)


def my_ddnm_plus(denoiser, schedule, svd, x, noise_std, times, z, noise, f=0.85):
    """DDNM+ as its paper has it: repair by a share of A+ (x - A z_0), with noise fitted to each singular value."""
    for t, s in zip(times[:-1], times[1:], strict=True):
        a, sigma, guess = schedule.alpha(s).to(z), schedule.sigma(s).to(z), denoiser(z, t)
        eps = (z - schedule.alpha(t) * guess) / schedule.sigma(t)
        fresh, per, level = noise(z), svd.singular_values, noise_std / svd.singular_values
        late = sigma < a * level
        share = torch.where(late, sigma * (1 - f**2) ** 0.5 / (a * level), 1.0)
        spread = torch.where(late, sigma * f, (sigma**2 - (a * level) ** 2).clamp(min=0).sqrt())
        hidden = sigma * (f * fresh + (1 - f**2) ** 0.5 * eps)
        repaired = guess + svd.v(share * (svd.ut(x) / per - svd.vt(guess)))
        z = a * repaired + hidden - svd.v(svd.vt(hidden)) + svd.v(spread * svd.vt(fresh))
    return z


mine = my_ddrm(*arguments, standard_normal(7))[-1]
theirs = last(ddrm(prior, cosine, soft_camera, soft_x, noise_std, short, z, noise=standard_normal(7)))
plus = my_ddnm_plus(*arguments, standard_normal(7))
print(
    f"my_ddrm against ddrm: {(mine - theirs).abs().max():.12f}; DDNM+ against DDRM: {(plus - theirs).abs().max():.12f}"
)
assert_close(mine, theirs, rtol=0, atol=1e-12)
assert_close(plus, theirs, rtol=0, atol=1e-12)

# %% [markdown]
# The last number deserves a pause: **DDNM+ is DDRM** with $\eta_b = 1$. Two papers, two derivations, one step. (`ddnm(noise_std=...)` offers DDIM's $\eta$ as well as the fixed share $f$.)
#
# Which case applies when? The boundary is $s_i = \sigma_y\,\alpha_s/\sigma_s$:

# %%
moments = torch.linspace(0.02, 0.9, 60, dtype=double)
ratio = cosine.alpha(moments) / cosine.sigma(moments)
plots.curves(
    moments,
    {f"$\\sigma_y$ = {level}": (moments, level * ratio) for level in (0.05, 0.1, 0.5)},
    title="Above its curve a coordinate is replaced by the measurement, below it the measurement only advises",
    alt="Boundary singular value against time for three noise levels, vertical axis logarithmic. All fall from left (t near 0, where the state is nearly clean) to right. For sigma_y 0.1 the boundary crosses 1 at t about 0.06, 0.25 at about 0.24. Horizontal lines mark a mask at 1, grey at 0.58, pooling by 4 at 0.25, and a wave that a blur leaves at 0.01.",
    xlabel="time $s$ (the walk goes from right to left)",
    ylabel="singular value $s_i$",
    horizontal={"mask": 1.0, "grey": 3**-0.5, "pool 4": 0.25, "faint wave": 0.01},
    logy=True,
    height=360,
)

# %% [markdown]
# A faint wave is hardly ever replaced: only at the very start, when the state knows nothing itself. Each coordinate of a blur changes sides at its own time. A projection that treats them alike cannot do that.
#
# ## 6. Break it: a budget is a test
#
# The budget can be checked step by step, with no network at all: hand in a denoiser that *knows* $z_0$, average over the noise of the walk and of the measurement, and demand $\mathrm{Var}[z_{s,i} \mid z_0] = \sigma_s^2$ in every coordinate. Here with seven coordinates of known $s_i$, right and with slips found in public code:
#
# - **noise / √2**, in a published DDRM;
# - **the case decided by $s_i > \sigma_y$**, in the same one, where it should be $\sigma_s$ against $\alpha_s\sigma_y/s_i$;
# - **DDNM+ without an SVD**, a shortcut in DDNM's repository that writes $\bar\alpha = \alpha^2$ where $\alpha$ is meant: for $\sigma_s$ it takes $\sqrt{1-\alpha_s^4}$, and multiplies it onto noise that has its $\sigma_s$ already.


# %%
def shortcut(denoiser, schedule, operator, x, noise_std, times, z, noise, f=0.85):
    """All states of the simplified DDNM+, alpha ** 2 for alpha."""
    states = [z]
    for t, s in zip(times[:-1], times[1:], strict=True):
        alpha, sigma, guess = schedule.alpha(s).to(z), schedule.sigma(s).to(z), denoiser(z, t)
        eps = (z - schedule.alpha(t) * guess) / schedule.sigma(t)
        a, wide = alpha**2, (1 - alpha**4).sqrt()  # alpha and sigma are meant
        trust = min(1.0, (wide / (a * noise_std)).item()) if noise_std else 1.0
        rest = (wide**2 - (a * trust * noise_std) ** 2).clamp(min=0).sqrt()
        repaired = guess + trust * operator.pinv(x - operator(guess))
        z = alpha * repaired + rest * sigma * (f * noise(z) + (1 - f**2) ** 0.5 * eps)
        states.append(z)
    return states


strengths = torch.tensor([1.0, 0.5, 0.25, 0.1, 0.05, 0.0, 0.0], dtype=double)
bench, truth = Dense(torch.diag(strengths)), torch.zeros(1, 7, dtype=double)
bench_svd = bench.svd(truth)
right_answer = lambda z, t: torch.zeros_like(z)  # noqa: E731  (z_0 = 0; another z_0 moves the mean only)
steps = uniform_times(20, 0.99)


def spreads(make, noise_std=0.1):
    """Standard deviation over sigma_s, (states, coordinates)."""
    rows = []
    for k in range(1, 20):

        def run(noise, k=k):
            z = noise(torch.zeros(1, 7, dtype=double))
            x = bench(torch.zeros_like(z)) + noise_std * noise(z)
            return make(x, noise_std, cosine.sigma(steps[0]) * z, noise)[k]

        rows.append(affine_law(run, 7)[1].diagonal().sqrt() / cosine.sigma(steps[k]))
    return torch.stack(rows)


# %%
variants = {
    name: (lambda x, n, z, noise, slip=slip: my_ddrm(right_answer, cosine, bench_svd, x, n, steps, z, noise, slip=slip))
    for name, slip in (("right", ""), ("noise / √2", "noise / sqrt 2"), ("case by $\\sigma_y$", "case by noise_std"))
}
variants["shortcut"] = lambda x, n, z, noise: shortcut(right_answer, cosine, bench, x, n, steps, z, noise)
budget = {name: spreads(make) for name, make in variants.items()}

# %%
shown = steps[1:20]
plots.curves(
    shown,
    {
        "right, all seven": budget["right"][:, 0],
        "case by $\\sigma_y$, all seven": budget["case by $\\sigma_y$"][:, 0],
        "noise / √2, $s_i$ = 0.25": budget["noise / √2"][:, 2],
        "shortcut, $s_i$ = 1": budget["shortcut"][:, 0],
        "shortcut, $s_i$ = 0.05": budget["shortcut"][:, 4],
        "shortcut, unseen": budget["shortcut"][:, 6],
    },
    title="Handed the true image, a right step keeps the budget in every coordinate; two of the three slips do not",
    alt="Standard deviation of the state over sigma against time. The right method and the one with the wrong case lie at 1 throughout. "
    + " ".join(
        f"{label}: {row[0]:.2f} at t = 0.94, {row[9]:.2f} at 0.47, {row[-1]:.2f} at 0.001."
        for label, row in (
            ("noise over root two, s = 0.25", budget["noise / √2"][:, 2]),
            ("shortcut, s = 1", budget["shortcut"][:, 0]),
            ("shortcut, s = 0.05", budget["shortcut"][:, 4]),
            ("shortcut, unseen", budget["shortcut"][:, 6]),
        )
    ),
    xlabel="time $s$ (the walk goes from right to left)",
    ylabel="spread over $\\sigma_s$",
    ylim=(0, 3),
    height=360,
    caption="The shortcut's line for 0.05 goes on beyond the figure.",
)

# %% tags=["nbval-check-output"]
for name, ratio in budget.items():
    print(f"{name:18} spread over sigma_s between {ratio.min():.6f} and {ratio.max():.6f}")
ends = ", ".join(f"{s_i:g}: {end:.2f}" for s_i, end in zip(strengths.tolist(), budget["shortcut"][-1], strict=True))
print(f"the shortcut's last noisy state, by s_i: {ends}")


def hasty(noise):
    start = noise(torch.zeros(1, 2, dtype=double))
    return shortcut(knows, linear, first, one, 0.0, uniform_times(100), start, noise)[-1]


for name, run in (("DDNM, f = 0.85", walk(100, eta_total=0.85)), ("shortcut", hasty)):
    print(
        f"pair without noise, {name}: variance of the second number {affine_law(run, 2)[1][1, 1]:.3f} (posterior: 0.190)"
    )
single, bell = Dense(torch.eye(1, dtype=double)), lambda z, t: linear.alpha(t) * z  # E[z_0 | z_t] for N(0, 1)
for slip in ("", "noise / sqrt 2", "case by noise_std"):
    ends = [
        my_ddrm(
            bell, linear, single.svd(one), value * one, 1.0, uniform_times(20), 0 * one, torch.zeros_like, slip=slip
        )[-1]
        for value in (0.0, 1.0)
    ]
    print(f"{slip or 'right':18} x moves by 1, the mean answer by {(ends[1] - ends[0]).item():.2f} (posterior: 0.50)")

# %%
strict = my_ddrm(prior, cosine, camera.svd(face), x, 0.0, short, z.float(), standard_normal(7), slip="strict")[-1]
exact = my_ddrm(prior, cosine, camera.svd(face), x, 0.0, short, z.float(), standard_normal(7))[-1]
print(
    f"noiseless, last step with strict inequality: largest |A z - x| {(camera(strict) - x).abs().max():.3f}, with equality {(camera(exact) - x).abs().max():.5f}"
)

# %% [markdown]
# Read the three findings.
#
# - **The budget** sees noise / √2 at once. It sees the shortcut too: in unseen coordinates the noise shrinks by $\sqrt{1-\alpha_s^4}$, to nothing near the end, where the walk should still decide fine detail, and on the pair about a twentieth of the variance is left; and a measured coordinate ends with too much: 1.4 times $\sigma_s$ at $s_i = 1$, 28 times at $s_i = 0.05$, since the noise $\sigma_y/s_i$ is let in before the state is allowed it.
# - **The wrong case** keeps every variance. It does not use $x$ at all wherever $s_i \le \sigma_y$: in the response test above ($s_i = \sigma_y = 1$) everywhere. A second test finds it: move $x$, and see whether the answer moves. (That in turn misses noise / √2.) A variance test and a response test belong together.
# - **Strict inequality.** Without noise the last step has $\sigma_s = 0 = \alpha_s\sigma_y/s_i$. DDRM's paper states its cases with $<$ and $\ge$; its code uses $<$ and $>$, and equality falls between: the denoiser's bare answer comes out, and $Az = x$ fails by a little.
#
# <details><summary><b>Question.</b> Your DDRM passes the variance test and the response test for $s_i = 1$, $\sigma_y = 0.1$. What would you try next?</summary>
#
# Coordinates on the other side of every condition: $s_i < \sigma_y$, $s_i = \sigma_y$, $s_i = 0$; no noise at all; several channels; the last step. Branches hide where no test goes.
# </details>
#
# ## 7. Right in every step, wrong in the end
#
# The budget holds *if the denoiser is right about $z_0$*. It never is. What does DDRM sample, then? The smallest case: $z_0 \sim \mathcal N(0, 1)$, $x = z_0 + n$ with $\sigma_y = 1$. The posterior has mean $x/2$ and variance $1/2$. Two numbers say all: the gain (mean for $x = 1$) and the variance.


# %% tags=["nbval-check-output"]
def gain_and_variance(method, n, times=uniform_times, **options):
    """(gain, variance) of a method on N(0, 1) with noise_std = 1."""

    def run(noise):
        z = noise(torch.zeros(1, 1, dtype=double))
        return last(method(bell, linear, single, one, 1.0, times(n), z, noise=noise, **options))

    mean, variance = affine_law(run, 1)
    return mean.item(), variance.item()


even_snr = lambda n: log_snr_times(linear, n)  # noqa: E731
trails = {
    "DDRM": [gain_and_variance(ddrm, n) for n in (5, 10, 20, 80, 320, 640)],
    "DDNM+, $\\eta = 1$": [gain_and_variance(ddnm, n) for n in (5, 10, 20, 80, 320)],
    "ILVR, noisy": [gain_and_variance(ilvr, n) for n in (5, 10, 20, 80, 320)],
    "SNIPS, 5 a level": [gain_and_variance(snips, n, even_snr, step_size=0.5) for n in (16, 32, 64, 128)],
}
for name, row in trails.items():
    print(f"{name:18}", "  ".join(f"({gain:.2f}, {variance:.2f})" for gain, variance in row), "  right: (0.50, 0.50)")

# %%
plots.scatter(
    {"the posterior": ([0.5], [0.5])} | {name: tuple(zip(*row, strict=True)) for name, row in trails.items()},
    names={
        "the posterior": ["posterior"],
        "DDRM": ["", "", "20", "80", "320", "640 steps"],
        "DDNM+, $\\eta = 1$": ["5", "", "20", "80", "320"],
        "ILVR, noisy": ["5", "10", "20", "80", ""],
        "SNIPS, 5 a level": ["16", "32", "64", ""],
    },
    joined=tuple(trails),
    title="More steps lead DDRM and DDNM+ away from the posterior: towards repeating x; SNIPS and noisy ILVR approach it",
    alt="Variance of the answer against gain, one line for each method, markers for growing numbers of steps. The posterior is at gain 0.5, variance 0.5. "
    + " ".join(
        f"{name.replace('$', '').replace(chr(92), '')}: " + ", ".join(f"{g:.2f} and {v:.2f}" for g, v in row) + "."
        for name, row in trails.items()
    ),
    xlabel="gain: mean answer for $x = 1$",
    ylabel="variance of the answer",
    caption="Numbers: steps; for SNIPS levels, of which the last point has 128. DDRM begins with 5, 10.",
    height=420,
)

# %% [markdown]
# At 20 steps DDRM's gain is about right, and its variance less than a third of what it should be; with more the gain goes on towards 1 and the variance towards 0. The samples become copies of the noisy measurement, certain of themselves.
#
# Why? Walk down from the noise. In the third case the state is $\alpha_s\bar x$ plus a top-up that shrinks, until, at the boundary, it *is* the measurement: right mean, all its noise the measurement's. At this point the state holds everything $x$ has to say, and the denoiser's $\hat c_i$ is the posterior mean. From here a sampler should walk on as if there were no $x$. That is what chapter 13's noisy ILVR does, and for $A = I$ it arrives. DDRM goes on pulling towards $\bar x_i$ in every further step, and $\hat c_i$, which has learnt of $\bar x_i$ from the state, is pulled again. **One measurement is counted many times**, the more often the more steps there are.
#
# <details><summary><b>Question.</b> DDRM's authors recommend 20 steps. Is that a matter of speed only?</summary>
#
# No. On this law the gain is nearest to right at about 20 even steps. Few steps count the measurement few times. It is a setting that the method needs, not a shortcut.
# </details>
#
# ## 8. SNIPS: Langevin in the same coordinates
#
# **SNIPS** came first of the four. Take a fixed noise level $\ell = \sigma/\alpha$, and let $y_i$ be the coordinates of $y = z_t/\alpha_t$. The posterior's score is known coordinate by coordinate if the two noises are coupled. While the measurement is cleaner than the level, let its noise be a part of the state's: then $y_i$ given $\bar x_i$ is $\mathcal N(\bar x_i, \ell^2 - \sigma_y^2/s_i^2)$, and only $\bar x_i$ pulls. Below that level, let the state's noise be a part of the measurement's: then $\bar x_i$ and the denoiser's $\hat c_i$ both pull, weighted by their precisions. Langevin dynamics (chapter 05) with step size $a\,w_i$ becomes
#
# $$y_i \leftarrow y_i + \tfrac a2\big(r_i\bar x_i + (1-r_i)\hat c_i - y_i\big) + \sqrt{a\,w_i}\;\nu_i, \qquad r_i = \min\!\Big(1, \frac{\ell^2 s_i^2}{\sigma_y^2}\Big),$$
#
# with $w_i = \ell^2 - \sigma_y^2/s_i^2$ where $r_i = 1$, and $w_i = \ell^2(1-r_i)$ elsewhere ($r_i = 0$ in the null space). Compare $r_i$ with DDRM's second case: there the pull towards $\bar x_i$ depends on the step's own share $f$; here $r_i$ falls off as the level falls, and with enough steps at a level the law depends on the level only.
#
# Where only $\bar x_i$ pulls, a step multiplies $y_i - \bar x_i$ by $1 - a/2$, and the variance $\tau^2$ settles where $\tau^2 = (1-\tfrac a2)^2\tau^2 + a\,w$:
#
# $$\tau^2 = \frac{w}{1 - a/4}.$$
#
# Too wide by a known factor, 1.14 at $a = 0.5$. Where $\hat c_i$, which follows $y_i$, pulls as well, the factor is another (→ Exercise 14.8). Check the formula on one number, and the whole method against the library's on section 6's seven coordinates:

# %% tags=["nbval-check-output"]


def my_snips(denoiser, schedule, strengths, x, noise_std, times, z, noise, steps, a):
    """SNIPS for A = diag(strengths)."""
    y, heard = z / schedule.alpha(times[0]), strengths > 0
    known = torch.where(heard, x / torch.where(heard, strengths, 1), 0)
    for t in times[:-1]:
        alpha, level = schedule.alpha(t), (schedule.sigma(t) / schedule.alpha(t)) ** 2
        r = (level * strengths**2 / noise_std**2).clamp(max=1)
        w = torch.where(r == 1, level - noise_std**2 / torch.where(heard, strengths, 1) ** 2, level * (1 - r))
        for _ in range(steps):
            pull = r * known + (1 - r) * denoiser(alpha * y, t)
            y = y + a / 2 * (pull - y) + (a * w).sqrt() * noise(y)
    return denoiser(alpha * y, t)


width = 0.0
for _ in range(60):
    width = (1 - 0.25) ** 2 * width + 0.5
print(f"variance after 60 steps of a = 0.5, w = 1: {width:.6f}, and 1 / (1 - a/4) = {1 / (1 - 0.5 / 4):.6f}")
levels, z = even_snr(8), standard_normal(8)(torch.empty(2, 7, dtype=double))
arguments, bell_7 = (levels, z), lambda z, t: linear.alpha(t) * z
seven = bench(standard_normal(9)(z[:1]))
ours = my_snips(bell_7, linear, strengths, seven, 0.1, *arguments, standard_normal(10), 5, 0.5)
theirs = last(snips(bell_7, linear, bench, seven, 0.1, *arguments, steps=5, step_size=0.5, noise=standard_normal(10)))
assert_close(ours, theirs, rtol=1e-8, atol=1e-8)

# %% [markdown]
# SNIPS gets there, and pays: 128 levels of five steps are 640 calls. With 16 levels, 80 calls, its gain was still 0.76.
#
# Now all of them on one law of images, 1×8×8 and smooth, with the exact denoiser. `benchmarks/posterior.py` has measured this for every method of chapters 13 to 15; here are this chapter's rows.

# %%
record = json.loads(resources.files("tutorial_lib.data").joinpath("posterior.json").read_text())["rows"]
rows = {
    "exact": "exact denoiser of the posterior",
    "DDNM(+), $\\eta = 1$": "ddnm, eta 1",
    "DDNM, $f = 0.85$": "ddnm, eta_total 0.85",
    "DDRM": "ddrm",
    "SNIPS": "snips, 5 steps of 0.5 a level",
    "ILVR": "ilvr",
}


def panel(measurement, level):
    """W_2 per pixel against calls."""
    lines = {}
    for label, method in rows.items():
        wanted = {"method": method, "prior": "Gaussian", "measurement": measurement, "noise_std": level}
        found = [r for r in record if all(r[k] == v for k, v in wanted.items()) and not r["lost"]]
        found = [r for r in found if r["w2"] < 0.4]
        lines[label] = ([r["calls"] for r in found], [r["w2"] for r in found])
    return plots.curves(
        [],
        lines,
        title=f"{measurement}, noise {level}",
        alt=f"{measurement}, noise {level}: "
        + " ".join(
            f"{name.replace('$', '')} {w[0]:.3f} at {c[0]} calls, {w[-1]:.4f} at {c[-1]}."
            for name, (c, w) in lines.items()
        ),
        xlabel="network calls",
        ylabel="$W_2$ per pixel",
        logx=True,
        logy=True,
        ylim=(0.002, 0.4),
        width=450,
        height=340,
    )


# %%
panels = [panel(*where) for where in (("pool x4", 0.0), ("pool x4", 0.1), ("inpainting", 0.1), ("blur", 0.1))]
plots.strip(
    panels,
    columns=2,
    title="Distance to the exact posterior of images: without noise DDNM with $\\eta = 1$ is as good as exact; with noise only SNIPS comes near, and late",
    alt="Four panels, distance to the posterior against network calls. " + " ".join(p.alt for p in panels),
)

# %% [markdown]
# Without noise DDNM with $\eta = 1$ runs along the exact sampler's line. With noise DDRM and DDNM+ level off far above it (inpainting), or turn round: at about 100 calls for pooling, at about 30 for the blur. (With the same $f$ their markers coincide: section 5.) SNIPS needs a few hundred calls to be of any use, and then goes on towards the exact law. With 30 to 300 calls noisy ILVR is the nearest for pooling and blur, DDRM for the hole (until SNIPS passes it at 300), where ILVR keeps a large error of its own.
#
# ## 9. Learned: faces
#
# Now the same functions with a network whose prior is only nearly right. Four held-out faces, four samples each, 20 steps; "mean" is the PSNR of the mean of the four samples, and the residual is in units of `noise_std` (1 is right) or, without noise, in state units. The last column asks whether the samples know how uncertain they are. Were they drawn from the posterior, $m$ samples with standard deviation $S$ would promise that their mean errs by $S\sqrt{1 + 1/m}$: the ratio should be 1, and above 1 is overconfident.


# %%
def restore(a, told, method, count=4, steps=20, noise_std=0.0, seed=3, **options):
    """count samples for each of four faces, (4, count, 3, 32, 32), and the measurement."""
    truth, noise = 2 * group[:4] - 1, standard_normal(seed)
    measured = a(truth) + noise_std * noise(a(truth))
    many = measured.repeat_interleave(count, 0)
    z = noise(truth.repeat_interleave(count, 0))
    found = last(method(prior, cosine, a, many, told, uniform_times(steps), z, noise=noise, **options))
    return found.unflatten(0, (4, count)), measured


runs = {
    "pool 4: DDRM": (camera, 0.0, 0.0, ddrm, {}),
    "pool 4: DDNM": (camera, 0.0, 0.0, ddnm, {}),
    "hole: DDNM": (cameras["hole"], 0.0, 0.0, ddnm, {}),
    "pool 4, noisy: believed": (camera, 0.1, 0.0, ddnm, {}),
    "pool 4, noisy: DDNM+, eta 1": (camera, 0.1, 0.1, ddnm, {}),
    "pool 4, noisy: told half": (camera, 0.1, 0.05, ddnm, {}),
    "pool 4, noisy: DDRM": (camera, 0.1, 0.1, ddrm, {}),
    "pool 4, noisy: ILVR": (camera, 0.1, 0.1, ilvr, {}),
    "blur, noisy: DDRM": (cameras["blur"], 0.1, 0.1, ddrm, {}),
    "blur, noisy: DDRM, 60 steps": (cameras["blur"], 0.1, 0.1, ddrm, {"steps": 60}),
    "blur, noisy: ILVR": (cameras["blur"], 0.1, 0.1, ilvr, {}),
}
restored = {}
print(f"{'':28}   A+ x    one sample      mean of 4     residual  error over promise")
for name, (a, level, told, method, options) in runs.items():
    found, measured = restore(a, told, method, noise_std=level, **options)
    restored[name] = found
    truth, plain = group[:4], psnr(to_image(a.pinv(measured)), group[:4], channel="rgb").mean()
    single_db = torch.stack([psnr(to_image(found[:, k]), truth, channel="rgb") for k in range(4)]).mean(0)
    mean_db = psnr(to_image(found.mean(1)), truth, channel="rgb")
    residual = (a(found.flatten(0, 1)) - measured.repeat_interleave(4, 0)).square().mean().sqrt() / (level or 1)
    error = (found.mean(1) - (2 * truth - 1)).square().mean((1, 2, 3)).sqrt()
    promise = (found.var(1).mean((1, 2, 3)) * (1 + 1 / 4)).sqrt()
    doubt = [f"{v.mean():6.2f} +- {v.std() / 2:.2f}" for v in (single_db, mean_db, error / promise)]
    print(f"{name:28} {plain:6.2f} {doubt[0]:>15} {doubt[1]:>15} {residual:9.3f} {doubt[2]:>17}")

# %%
shown = ["pool 4: DDNM", "hole: DDNM", "pool 4, noisy: DDRM", "blur, noisy: DDRM"]
plots.image_grid(
    [
        torch.cat(list(group[:4]), 1),
        *(torch.cat(list(to_image(restored[name][:, k])), 1) for name in shown for k in (0, 1)),
    ],
    ["face", *(f"{name}, {k}" for name in shown for k in (1, 2))],
    title="Four faces by four cameras, two samples each: what the camera leaves open differs, what it fixes does not",
    alt="Four rows of nine pictures: the true face; two samples each for pooling without noise, a hole over the middle of the face, pooling with noise, and a blur with noise. Samples from pooling resemble the truth with slightly different eyes and mouths; behind the hole the eyes, noses, and in places glasses differ from the truth while the rest is identical; with noise faces are smoother and differ more; from the blur they are close to the truth.",
    zoom=3,
    columns=9,
)

# %% [markdown]
# The mean of several samples has the higher PSNR, as it must (chapter 09: samples pay twice the least error). The last column (± its standard error over the four faces) asks for more. Without noise the samples promise about the error they make. Noise adds little for pooling, within the scatter of four faces, and much for the blur: DDRM's ratio is 1.7 there and grows to 2.2 with three times the steps, while ILVR's stays at 1.15. That is section 7 again, with a network. (Noise *believed* is worse still: the samples agree on it. And told *half* the noise, the classic slip of units, the PSNR is the same within its error; only the residual, 0.9, hints at it.) The residual of the weighing methods is right all the same, near 1. So neither the residual nor the look of one sample tells you that a method is overconfident. PSNR does not either: for pooling DDRM's is the higher one here, at 20 steps.
#
# ## 10. Real photos
#
# The prior is now a small network trained on photos (any size; one sample of it alone looks painterly). Two pieces, ×4 by pooling and by MATLAB's bicubic resize, without noise and with 0.1 in state units (0.05 for images in $[0, 1]$). Sharpness is relative to the original, of the interpolation and of the sample:

# %%
photo_prior = NetworkDenoiser(load_pretrained("photo-unconditional"))
pieces = torch.cat([photo("chelsea")[..., 100:172, 150:222], photo("coffee")[..., 100:172, 254:326]])
photo_runs = {
    "pool, DDNM, eta 1": (AveragePool(4), 0.0, ddnm, {"count": 4}),
    "pool, DDNM, f 0.85": (AveragePool(4), 0.0, ddnm, {"count": 4, "eta_total": 0.85}),
    "bicubic, DDNM, f 0.85": (Bicubic(4), 0.0, ddnm, {"count": 1, "eta_total": 0.85}),
    "pool, noisy, DDRM": (AveragePool(4), 0.1, ddrm, {"count": 1}),
    "bicubic, noisy, DDRM": (Bicubic(4), 0.1, ddrm, {"count": 1}),
}
outputs = {}
print("Y-PSNR of cat | cup:     interpolation         A+ x        one sample       mean of 4     sharpness   residual")
for name, (a, level, method, options) in photo_runs.items():
    truth, noise, count = 2 * pieces - 1, standard_normal(4), options.pop("count")
    measured = a(truth) + level * noise(a(truth))
    many = measured.repeat_interleave(count, 0)
    found = last(method(photo_prior, cosine, a, many, level, uniform_times(20), noise=noise, **options))
    miss = (a(found) - many).square().mean().sqrt().item()
    found = to_image(found).unflatten(0, (2, count))
    outputs[name] = (resize(to_image(measured), 4).clamp(0, 1), to_image(a.pinv(measured)), found[:, 0], found.mean(1))
    words = [" | ".join(f"{v:.2f}" for v in psnr(image, pieces, crop=4)) for image in outputs[name]]
    sharp = [(sharpness(image) / sharpness(pieces)).mean() for image in (outputs[name][0], found[:, 0])]
    print(
        f"{name:21} {words[0]:>16} {words[1]:>16} {words[2]:>16} {words[3] if count > 1 else '-':>14} {sharp[0]:8.2f} {sharp[1]:.2f} {miss:10.5f}"
    )

# %%
labels = ("interpolated", "$A^+x$", "one sample", "mean of 4")
columns = dict(zip(labels, outputs["pool, DDNM, f 0.85"], strict=True))
columns |= {"noisy: DDRM": outputs["pool, noisy, DDRM"][2], "original": pieces}
plots.image_grid(
    [torch.cat(list(image), 1) for image in columns.values()],
    list(columns),
    title="Photos ×4: sharper than interpolation, faithful to the last digit where there is no noise, and painted where nothing was seen",
    alt="Six columns, a cat's eye above, the rim of a cup of coffee below: interpolated and soft; the pseudo-inverse in blocks of 4 by 4; one sample, with clear edges and invented strokes; the mean of four samples, a little softer; a sample from the noisy measurement, smoother with faint blotches; and the originals, with finer texture than any of them.",
    zoom=2,
    columns=6,
)

# %% [markdown]
# Read the table before the pictures. A sample's PSNR can lie below that of plain interpolation, and the mean's above it, while the sample is much the sharper of the two: the perception–distortion trade of chapter 02. The noiseless residual is at rounding. And at 20 steps the code's $f = 0.85$ is ahead of $\eta = 1$, the other way round than on the faces (where DDRM without noise is the same rule). Section 4's limit is one of many small steps; with few, measure, and remember that PSNR favours samples that vary less. This prior is small and knows textures, no objects: it sharpens edges and paints strokes. What larger evaluation sets say is in the project's README (`benchmarks/zero_shot.py`).
#
# ## 11. A gallery of failures
#
# All but the first of these pictures are wrong, each for one reason. One face, several cameras, five mistakes. Printed are the residual under the assumed camera, in units of the noise (in state units where there is none), and the sharpness relative to the true face.


# %%
lens = Blur(gaussian_kernel(9, 1.5))
wide_lens = Blur(gaussian_kernel(13, 2.2))
level = 0.05


class Enlarging(Bicubic):
    """Bicubic shrinking with bicubic enlarging in the role of its pseudo-inverse."""

    def pinv(self, x):
        return resize(x, 4)


def measured_by(a, noise_std, seed=11):
    return a(face) + noise_std * standard_normal(seed)(a(face))


def failing(a, x, told, method=ddnm, **options):
    noise = standard_normal(12)
    start = noise(face.repeat(len(x), 1, 1, 1))
    return last(method(prior, cosine, a, x, told, uniform_times(20), start, noise=noise, **options))


# %%
lens_x, pool_x, shrunk = measured_by(lens, level), measured_by(camera, 0.3), Bicubic(4)(face)
pool_svd, first_noise, times = camera.svd(face), standard_normal(12), uniform_times(20)
eight = standard_normal(13)(face.repeat(8, 1, 1, 1))
alike = shortcut(prior, cosine, camera, x, 0.0, times, eight, standard_normal(14))[-1]
gallery = {  # name: (picture, camera, measurement, noise)
    "right": (failing(lens, lens_x, level), lens, lens_x, level),
    "noise believed": (failing(lens, lens_x, 0.0), lens, lens_x, level),
    "wrong kernel": (failing(wide_lens, lens_x, level), wide_lens, lens_x, level),
    "bicubic for $A^+$": (failing(Enlarging(4), shrunk, 0.0), Bicubic(4), shrunk, 1.0),
    "x ignored": (
        my_ddrm(prior, cosine, pool_svd, pool_x, 0.3, times, first_noise(face), first_noise, slip="case by noise_std")[
            -1
        ],
        camera,
        pool_x,
        0.3,
    ),
    "shortcut": (
        alike[:1],
        camera,
        x,
        1.0,
    ),
}

# %%
symptoms = []
for name, (z, a, seen_x, unit) in gallery.items():
    residual = ((a(z) - seen_x).square().mean().sqrt() / unit).item()
    sharp = (sharpness(to_image(z)) / sharpness(group[:1])).item()
    symptoms.append(f"{name}: residual {residual:.3f}, sharpness {sharp:.2f}")
    print(symptoms[-1])
usual = failing(camera, x.expand(8, -1, -1, -1), 0.0)
print(
    f"spread of eight samples: shortcut {alike.std(0).square().mean().sqrt():.3f}, DDNM {usual.std(0).square().mean().sqrt():.3f}"
)

# %%
plots.image_grid(
    torch.cat([*(to_image(z) for z, *_ in gallery.values()), group[:1]]),
    [*gallery, "the face"],
    title="One right answer and five failures that you can learn to tell apart",
    alt="Seven pictures of a face. Right: soft but clean. Noise believed: saturated speckle, no face. Wrong kernel: outlines with bright and dark rims beside them. Bicubic for the pseudo-inverse: a good-looking face. x ignored: a clean face of another person. Shortcut: a good-looking face. Last the true face. "
    + "; ".join(symptoms),
    zoom=4,
    columns=7,
)

# %% [markdown]
# | picture | residual | cause | test |
# |---|---|---|---|
# | noise believed: saturated speckle | well below 1 (0.3) | $A^+$ has amplified noise that was believed | tell `noise_std`; print the largest $1/s_i$ |
# | wrong kernel: rims beside outlines (ringing) | 1.14; the right one has 1.02 | the assumed kernel is wider than the true one | narrow it and compare; only a well-known $\sigma_y$ makes 1.14 suspicious |
# | bicubic for $A^+$: a fine face | not at rounding though $x$ is noiseless | $A^+$ is none: $AA^+A \ne A$ | Penrose's four conditions against a dense matrix |
# | x ignored: a face, but someone else's | clearly above 1 | the measurement is ignored (wrong case, `[-0:]`) | move $x$; does the answer move? |
# | shortcut: a fine face, every time too alike (half the spread) | at rounding | noise missing in the null space | the variance budget; spread over several samples |
# | (not pictured) DDRM: a fine face | about 1 | $x$ counted many times | error over promise; the exact posterior |
#
# The last two rows look fine, one sample at a time. They are the most dangerous kind.
#
# ## 12. Which method when
#
# | | measurement | calls | draws from the posterior? | needs |
# |---|---|---|---|---|
# | **DDNM**, $\eta = 1$ | noiseless | 20 to 100 | yes for Gaussian priors, as steps shrink; else a blurred version | $A^+$, by conjugate gradients if need be |
# | **DDNM**, $f = 0.85$ (its code) | noiseless | about 20 | no; ahead of $\eta = 1$ on section 10's photos, behind on section 9's faces | $A^+$ |
# | **DDRM** = DDNM+ | noisy | 20 to 100; more repair nothing, and for a blur harm | no: overconfident | SVD |
# | **SNIPS** | noisy | several hundred | nearly, for Gaussian priors | SVD |
# | noisy **ILVR** (13) | noisy | 30 to 300 | for $A = I$; near for pooling and blur, not for masks | SVD |
# | a posterior's score (15) | noisy, or no SVD | 20 to 1000 | chapter 15 tells | mostly gradients |
#
# A call costs one pass of the network for all of these, and the SVD's maps next to nothing beside it: that is their advantage over chapter 15's methods, most of which need a backward pass as well.
#
# <details><summary><b>Question.</b> A photo, shrunk by bicubic and saved with 8 bits. Noiseless or noisy?</summary>
#
# Rounding to 8 bits is noise of $1/255/\sqrt{12}$ in $[0,1]$, about 0.0023 in state units. For pooling and bicubic $1/s_i$ is at most about 8: harmless, believe it. For a blur with $s_i = 10^{-3}$ it becomes 2.3, larger than the image: weigh it.
# </details>
#
# > **Common mistakes**
# >
# > - Testing an operator against itself. Adjoint, orthogonality and $AA^+A = A$ hold for the wrong one too.
# > - `repeat` for `repeat_interleave` where coordinates lie pixel by pixel; composing pseudo-inverses; bicubic enlarging for $A^+$.
# > - `noise_std` in units of $[0,1]$ for states in $[-1,1]$: half of what it should be.
# > - Choosing DDRM's case by $s_i$ against $\sigma_y$, by the level of $t$ in place of $s$, or with two strict inequalities.
# > - $\alpha$ for $\alpha^2$ ($\bar\alpha$ in the papers is $\alpha^2$).
# > - More steps for DDRM on a blur, to be on the safe side.
# > - `coordinates[-missing:] = score` with `missing = 0`: in Python `[-0:]` is *everything*, and SNIPS' code then ignores $x$ for a camera of full rank.
# > - Taking a small residual for a good answer.
#
# > **In the papers**
# >
# > - **SNIPS** (Kawar et al., arXiv:2105.14951, NeurIPS 2021): blur, super-resolution and compressive sensing with a network that knows noise levels; five Langevin steps a level in its code.
# > - **DDRM** (Kawar et al., arXiv:2201.11793, NeurIPS 2022): 20 network calls, $\eta = 0.85$, $\eta_b = 1$, five times faster than the nearest competitor then. Its `sr4` is pooling by 4, with $s_i = 1/4$.
# > - **DDNM** (Wang et al., arXiv:2212.00490, ICLR 2023): range–null space decomposition, time travel, and DDNM+ for noise; old photos as a composite camera.
# > - All three describe an SVD or a pseudo-inverse. Section 5 checks that DDNM+ and DDRM take one and the same step.
#
# > **Going further**
# >
# > - Let go at the boundary: change `my_ddrm` so that a coordinate walks on as unseen after its measurement has become noisier than the state. Where does the N(0, 1) test land now, with $f = 0.85$ and with DDIM's $\eta = 1$?
# > - A camera whose kernel is *unknown*: chapter 15's blind GDP estimates it along the way.
# > - Find the smallest $\sigma_y$ that you may believe for `Blur(gaussian_kernel(9, 1.0))`.
#
# [Exercises](../exercises/14_zero_shot_decomposition.ipynb) wait, from the null part of an image to the law that SNIPS settles to.

# %% [markdown]
# ## Recap
#
# 1. **Split:** range part $A^+Az$, null part $z - A^+Az$. Rows at right angles give a composite's singular values as row lengths; keeping every $k$-th pixel of a blur folds its spectrum.
# 2. **Catch:** compare with something independent. An operator can be nine tenths wrong, adjoint, orthogonal and consistent.
# 3. **Derive:** the nearest image that explains $x$ is $\hat z_0 + A^+(x - A\hat z_0)$. With DDPM's noise and small steps the walk goes where the denoiser itself expects $x$: the exact posterior for Gaussians; the four blobs it blurs into one another.
# 4. **Budget:** every coordinate has its measurement noise $\sigma_y/s_i$, which becomes part of the state's $\sigma_s$. DDRM and DDNM+ keep that budget and are one method.
# 5. **Predict:** where the measurement alone pulls, Langevin steps of size $a\,w$ settle at $w/(1 - a/4)$.
# 6. **Choose:** DDNM without noise; with noise SNIPS where calls do not matter; where they do, noisy ILVR for pooling and blur, DDRM for holes.
# 7. **Read:** speckle, rims, a stranger; and the failures that look fine, and show only in the spread of many samples.
#
# Next: [chapter 15](15_zero_shot_posterior.ipynb) estimates the posterior's score itself, for cameras without an SVD.
#
# ## References
#
# - Moser et al., *Diffusion Models, Image Super-Resolution And Everything: A Survey*, arXiv:2401.00736.
# - Kawar, Vaksman, Elad, *SNIPS: Solving Noisy Inverse Problems Stochastically*, arXiv:2105.14951.
# - Kawar, Elad, Ermon, Song, *Denoising Diffusion Restoration Models* (DDRM), arXiv:2201.11793.
# - Wang, Yu, Zhang, *Zero-Shot Image Restoration Using Denoising Diffusion Null-Space Model* (DDNM), arXiv:2212.00490.
# - Choi et al., *ILVR: Conditioning Method for Denoising Diffusion Probabilistic Models*, arXiv:2108.02938.
# - Song et al., *Denoising Diffusion Implicit Models* (DDIM), arXiv:2010.02502.
