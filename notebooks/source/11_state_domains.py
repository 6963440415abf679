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
# # 11 State domains: where should the noise go?
#
# So far the thing that diffused was the photo itself. It need not be. SRDiff diffuses what bicubic interpolation leaves out, DiWa diffuses wavelet bands, latent diffusion diffuses the code of an autoencoder; then the same samplers run, and a decoder brings the result back. Papers
# promise speed and quality from each. In this chapter you find out which of these promises are mathematics, which are bookkeeping, and which depend on the network, by starting where everything is known exactly: some of the reasons commonly given turn out to be wrong, and some good reasons are hardly ever given.
#
# ## What you will be able to do
#
# 1. **Rotate** a state and show that diffusion does not notice; say what a change of domain *can* change.
# 2. **Scale** a state, and predict what a wrong scale costs at a given number of steps.
# 3. **Diffuse** residuals, and recognise a flipped sign.
# 4. **Split** an image into Haar bands, choose bands, and avoid the range trap of the low band.
# 5. **Measure** an autoencoder's ceiling before you train anything on its code.
# 6. **Compare** domains at equal compute, with several seeds.
# 7. **Explain** LSGM, HI-Diff and Refusion in a few lines each.
#
# **Prerequisites**: [chapter 04](04_ddpm.ipynb) (samplers), [chapter 09](09_sr3.ipynb) (conditioning on the LR image). Wavelets are explained here.
#
# **Reading time**: 75 minutes. Running time: about 30 s on two cores.
# **Survey section**: state domains: latent, frequency and residual space (arXiv:2401.00736).
# **Exercises**: [exercises](../exercises/11_state_domains.ipynb), worked in [solutions](../solutions/11_state_domains.ipynb).

# %% [markdown]
# > **Notation**
# >
# > | here | code | meaning |
# > |---|---|---|
# > | $y$, $x$ | `hr`, `lr` | HR image and LR image, in [0, 1] |
# > | $z_0 = E(y, x)$, $\hat y = D(\hat z_0, x)$ | `domain.encode`, `domain.decode` | into the state and back |
# > | $z_t = \alpha_t z_0 + \sigma_t \epsilon$ | `z` | the noisy state |
# > | $\mu(x)$, $\varsigma(x)$ | `predictor`, `spread` | a guess of $y$, and how far off it is |
# > | $W$ | `Wavelet`, `Haar` | the orthonormal Haar transform: $W^\top W = I$ |
# > | LL, H, V, D | `"LL"`, `"H1"` ... | means; changes down the rows (horizontal edges), along the rows, both; the number is the level |
# > | $u$, $c$ | `latent` | an autoencoder's code; a compact code |
# >
# > Some letters do double duty, as in the papers: upright H, V, D are bands, $D$ is a decoder and $H(q)$ an entropy; $W$ is the transform, and $W_2$ (the sliced $W_1$ likewise) a distance between laws; in shapes, H and W are height and width.
# >
# > The survey writes $y_0$ or $z_0$ for the state and $\gamma_t$ for our $\alpha_t^2$. Papers that write LH and HL do not agree on which is which; PyWavelets' `cH`, `cV`, `cD` are our H, V, D.

# %%
import json
import math
from importlib import resources

import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from tutorial_lib import plots, widgets
from tutorial_lib.data import faces
from tutorial_lib.denoisers import NetworkDenoiser
from tutorial_lib.domains import Latent, Pixel, Residual, Wavelet, band_names, latent_moments, split_bands
from tutorial_lib.images import crop_to_multiple, photo, resize, to_uint8
from tutorial_lib.latents import lsgm_terms, mean_reverting, mean_reverting_domain, restore_with_prior
from tutorial_lib.metrics import lr_consistency, psnr, sharpness, sliced_wasserstein
from tutorial_lib.networks.regression import condition
from tutorial_lib.networks.unet import UNet
from tutorial_lib.noise import standard_normal
from tutorial_lib.operators import Haar
from tutorial_lib.oracles import Gaussian, GaussianMixture, affine_law, denoiser_for, gaussian_w2
from tutorial_lib.pretrained import LATENT_SCALE, load_pretrained
from tutorial_lib.samplers import ddim, ddpm, last, probability_flow, reverse_sde, trajectory
from tutorial_lib.schedules import log_snr_times, shifted_cosine, uniform_times, vp_cosine, vp_linear
from tutorial_lib.steps import forward_step
from tutorial_lib.super_resolution import STEPS, super_resolve

double = torch.float64

# %% [markdown]
# ## 1. One photo, four states
#
# A piece of a photo, 112×112 pixels, and its LR version of 28×28. Here is what would diffuse in each of the four domains:


# %%
def cut(name, top, left, size=112):
    """A square piece of a built-in photo and its LR version, rounded to 8 bits: (1, 3, size, size), (1, 3, size/4, size/4)."""
    hr = photo(name)[..., top : top + size, left : left + size]
    return hr, to_uint8(resize(hr, 1 / 4)).float() / 255


def enlarge(lr):
    return resize(lr, 4)


def band_picture(z, levels=2):
    """Mallat's layout for the eye: LL top left, brought back to [0, 1]; details around it, grey = 0."""
    layout = 0.5 + 1.2 * Haar(levels)(z)
    size = z.shape[-1] >> levels
    layout[..., :size, :size] = (Haar(levels)(z)[..., :size, :size] / 2**levels + 1) / 2
    return layout.clamp(0, 1)


def told(x):
    """The regression's mean and spread for this LR image, as functions, and the condition that its models are told."""
    with torch.inference_mode():
        mean, spread, cond = condition(load_pretrained("photo-regression-x4"), x)
    return (lambda _: mean), (lambda _: spread), (lambda _: cond)


hr, lr = cut("chelsea", 100, 140)
mean, spread, cond = told(lr)
latent = Latent(load_pretrained("photo-autoencoder-x4"), LATENT_SCALE, condition=cond, of=Residual(mean, spread))
u = latent.encode(hr, lr)
mosaic = u[0, :16].reshape(4, 4, 14, 14).permute(0, 2, 1, 3).reshape(1, 1, 56, 56)
plots.image_grid(
    [
        hr,
        (0.5 + 3 * Residual(enlarge).encode(hr, lr)).clamp(0, 1),
        band_picture(Pixel().encode(hr)),
        0.5 + F.interpolate(mosaic, scale_factor=2) / 6,
    ],
    ["pixels", "residual to bicubic, times 3", "Haar bands, two levels", "half of a latent's 32 channels"],
    title="Four things that can diffuse instead of each other",
    alt="Four squares. A cat's eye and the fur beside it; the same as grey with thin bright and dark strokes of fur and eyelid, the residual; a small copy in the top left corner with its edges in the other parts, the wavelet bands; sixteen small patches of coarse grey noise, the latent.",
    zoom=2,
)

# %% [markdown]
# And here is what models of these four states make of the LR image. All were trained on the same 400 photos. The latent looks like noise: it codes what a regression network left over, in units of its spread, channel by channel.
#
# Our `sr3` diffuses pixels, but with section 4's shifted schedule and a network that works on the difference to the enlarged LR image inside (chapter 09). It has most of a residual's advantages already; the comparison is with that, not with plain pixels.

# %%
answers = {name: super_resolve(lr, method=name) for name in ("sr3", "srdiff", "wavelet", "latent")}
plots.image_grid(
    [*answers.values(), hr],
    ["pixels (sr3)", "residual (srdiff)", "wavelet", "latent", "original"],
    title="The same eye out of four state domains",
    alt="Five pictures of a cat's eye and fur: four super-resolved ones and the original. Wavelet and latent have a crisp eye with little grain, pixels and residual a grainy one; where the original has ordered strokes of fur, pixels and residual have grain, the wavelet a faint texture, the latent short strokes.",
    zoom=2,
    columns=3,
)

# %%
print(f"{'':10} calls   PSNR   textures (0 is best)")
for name, sr in answers.items():
    print(
        f"{name:10} {STEPS[name]:4} {psnr(sr, hr, crop=4).item():8.2f} dB   {255 * sliced_wasserstein(sr, hr).item():.2f}"
    )

# %% [markdown]
# The pictures differ, though less than the names suggest, and their costs differ more (section 11). `calls` is how often the denoising network ran; *textures* is the sliced Wasserstein distance between patches, in grey levels. One piece proves nothing: the latent's lead in textures here shrinks to less than a third of this with the twelve pieces of section 11.
#
# ## 2. Four pixels, turned
#
# Take a block of four pixels, $a\ b$ above $c\ d$. One level of the **Haar transform** turns it into four other numbers: the sum of all, and three differences, each divided by 2.
#
# $$\begin{pmatrix}\mathrm{LL}\\ \mathrm H\\ \mathrm V\\ \mathrm D\end{pmatrix} = \frac12\begin{pmatrix}1&1&1&1\\1&1&-1&-1\\1&-1&1&-1\\1&-1&-1&1\end{pmatrix}\begin{pmatrix}a\\b\\c\\d\end{pmatrix}$$
#
# The rows of this matrix have length 1 and are perpendicular to each other: it is a rotation (up to a reflection). Lengths and angles survive it, and its inverse is its transpose. A photo consists of such blocks; a second level treats the LL band as a photo again (→ Exercise 11.1).

# %% tags=["nbval-check-output"]
quarter = torch.tensor([[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]], dtype=double) / 2


def my_haar(z):
    """(B, C, H, W) -> (B, 4 C, H/2, W/2): every 2x2 block times the matrix; channels LL of all colours, then H, V, D."""
    blocks = F.pixel_unshuffle(z, 2).unflatten(1, (-1, 4))  # (B, C, 4, h, w), the four being a, b, c, d
    return torch.einsum("ij,bcjhw->bichw", quarter, blocks).flatten(1, 2)


z = Pixel().encode(hr).double()
assert_close(quarter @ quarter.T, torch.eye(4, dtype=double))
assert_close(my_haar(z), torch.cat(split_bands(z), 1))
assert_close(my_haar(z), Wavelet(1).encode(hr.double()))
assert_close(my_haar(z).square().sum(), z.square().sum())  # Parseval: lengths survive
print(
    "number of values:",
    z.numel(),
    "->",
    my_haar(z).numel(),
    " squared length:",
    f"{z.square().sum():.1f} -> {my_haar(z).square().sum():.1f}",
)

# %% [markdown]
# As many numbers come out as go in, and nothing is lost. Switch bands off and see what each was there for. Of the photo, a missing band is simply missing; of the *residual* (menu "of": what a regression network leaves), a missing band means "as the regression predicts".

# %%
residual = Residual(mean)


def draw_bands(LL=True, H2=True, V2=True, D2=True, H1=True, V1=True, D1=True, of="photo"):
    """The photo from the chosen bands only, beside the bands themselves."""
    given = {"LL": LL, "H2": H2, "V2": V2, "D2": D2, "H1": H1, "V1": V1, "D1": D1}
    kept = tuple(name for name, on in given.items() if on)
    if not kept:
        raise ValueError("switch on at least one band")
    domain = Wavelet(2, bands=kept, of=Pixel() if of == "photo" else residual)
    back = domain.decode(domain.encode(hr, lr), lr).clamp(0, 1)
    return plots.image_grid(
        [band_picture(Pixel().encode(back)), back],
        ["bands of the result", "the result"],
        title=f"{' '.join(kept)} of the {of}: {psnr(back, hr).item():.1f} dB",
        alt=f"The Haar bands of a picture of a cat and the picture itself, made from the bands {', '.join(kept)} of the {of}; its PSNR is {psnr(back, hr).item():.1f} dB.",
        zoom=2,
    )


widgets.explorer(draw_bands, LL=True, H2=True, V2=True, D2=True, H1=True, V1=True, D1=False, of=["photo", "residual"])

# %%
off = dict.fromkeys(band_names(2), False)
widgets.frames(
    draw_bands,
    [
        off | {"LL": True},
        off | {"LL": True, "H2": True, "H1": True},
        off | {"H1": True, "V1": True, "D1": True, "of": "residual"},
    ],
    title="Some bands of the photo, and the fine bands of the residual",
    alt="Three pairs of pictures: the bands that are left and the cat's eye made from them. LL alone: coarse squares of four by four pixels. LL with H2 and H1: strokes of fur that run across are sharp, upright edges are stairs. The three fine bands of the residual, the rest from the regression: nearly the whole photo, and no band of the result is empty.",
    columns=1,
)

# %% [markdown]
# <details><summary><b>Question.</b> In the second pair the fur, whose strokes run across the picture, is fine, but the eye's upright slit is made of stairs. Why?</summary>
#
# Strokes that run across change the picture *down* the rows, so they are in H. What changes *along* the rows is in V, which is switched off: there each row of a 4×4 block is constant.
# </details>
#
# ## 3. Diffusion does not notice
#
# Now diffuse in the new axes. White noise is the same in all directions, so the turned noise $W\epsilon$ is white noise again:
#
# $$W z_t = \alpha_t\, W z_0 + \sigma_t\, W\epsilon, \qquad W\epsilon \sim N(0, W W^\top) = N(0, I).$$
#
# So the turned chain *is* the chain of the turned data, and the best denoiser of the turned data is the turned denoiser, $\mathbb E[Wz_0 \mid Wz_t] = W\,\mathbb E[z_0\mid z_t]$. A sampler only adds, scales and asks the denoiser. Hence: **the same noise, turned, gives the same sample, turned**, in any number of steps, to the last digit. (In every sampler that treats all coordinates alike. Adaptive solvers that judge their error coordinate by coordinate do not.)
# Take three kinds of 2×2 blocks as data, with exact denoisers that know the law in pixels, or the law of the four Haar numbers:

# %% tags=["nbval-check-output"]
generator = standard_normal(5)
kinds = generator(torch.empty(3, 4, dtype=double))
roots = 0.2 * generator(torch.empty(3, 4, 4, dtype=double))
in_pixels = GaussianMixture(torch.tensor([0.5, 0.3, 0.2]), kinds, roots @ roots.mT + 0.01 * torch.eye(4, dtype=double))
in_bands = GaussianMixture(in_pixels.weights, kinds @ quarter.T, quarter @ in_pixels.covariances @ quarter.T)
schedule = vp_linear()
grid = log_snr_times(schedule, 10)
samplers = {
    "DDIM": lambda d, z, n: ddim(d, schedule, z, grid),
    "DDIM, eta 0.5": lambda d, z, n: ddim(d, schedule, z, grid, 0.5, n),
    "DDPM, beta": lambda d, z, n: ddpm(d, schedule, z, grid, "beta", n),
    "reverse SDE": lambda d, z, n: reverse_sde(d, schedule, z, grid, n),
    "Heun": lambda d, z, n: probability_flow(d, schedule, z, grid),
}
start = standard_normal(0)(torch.empty(6, 4, dtype=double))
for name, sampler in samplers.items():
    same, turned = standard_normal(1), standard_normal(1)
    here = last(sampler(denoiser_for(in_pixels, schedule), start, same))
    there = last(
        sampler(denoiser_for(in_bands, schedule), start @ quarter.T, lambda z, turned=turned: turned(z) @ quarter.T)
    )
    assert_close(here @ quarter.T, there, rtol=0, atol=1e-12)
    print(f"{name:14} the two samples agree to 12 digits; the first block: {[round(v, 3) for v in here[0].tolist()]}")

# %%
half_turn = torch.tensor([[1, 1], [1, -1]], dtype=double) / math.sqrt(2)
two = {"pixels": torch.eye(2, dtype=double), "bands": half_turn}
centres = torch.tensor([[1.2, 1.0], [-1.0, -0.6], [0.5, -0.9]], dtype=double)
axis = torch.linspace(-2.6, 2.6, 81, dtype=double)
plane = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).reshape(-1, 2)
drawn = []
for name, turn in two.items():
    law = GaussianMixture(torch.ones(3), centres @ turn.T, (0.04 * torch.eye(2, dtype=double)).expand(3, 2, 2))
    z = standard_normal(3)(torch.empty(6, 2, dtype=double)) @ turn.T
    walk = torch.stack(
        [s.z for s in trajectory(ddim(denoiser_for(law, schedule), schedule, z, log_snr_times(schedule, 40)))], 1
    )
    drawn.append(
        plots.density_2d(
            axis,
            axis,
            {name: law.log_prob(plane).exp().reshape(81, 81)},
            paths=walk,
            title=name,
            alt=f"Three round blobs and six curved paths that end in them, in the axes of the {name}.",
            xlabel="left pixel" if name == "pixels" else "sum / $\\sqrt{2}$",
            ylabel="right pixel" if name == "pixels" else "difference / $\\sqrt{2}$",
            width=400,
            height=360,
        )
    )
plots.strip(
    drawn,
    title="The same paths, seen in turned axes",
    alt="Two panels with three blobs and six paths from noise to the blobs. The right panel, in the axes sum and difference, is the left one turned by 45 degrees and mirrored, paths included.",
    columns=2,
)

# %% [markdown]
# A **shift** goes unnoticed in the same way. Subtract a prediction $\mu$ that the denoiser knows; then
#
# $$z_0' = z_0 - \mu \quad\Longrightarrow\quad z_t' = z_t - \alpha_t\,\mu ,$$
#
# and again the chain of the one is the chain of the other, relabelled; DDIM and DDPM steps, which are exact in $\hat z_0$, keep the relabelling to the last digit. So neither a lossless orthonormal transform nor a residual can improve an *exact* sampler by anything at all. If wavelet or residual diffusion is better than pixel diffusion, the reason must be one of three:
#
# 1. **Scale.** Dividing each coordinate by its own standard deviation is neither a turn nor a shift.
# 2. **The network**, which learns some functions faster than others.
# 3. **What is left out**, so that it need not be drawn.
#
# <details><summary><b>Question.</b> A U-Net whose first layer folds 4×4 blocks of pixels into 48 channels works on the coarse grid. What would happen to its cost if you fed it two levels of Haar bands, 48 channels on the coarse grid, instead?</summary>
#
# Nothing: the same convolutions run on the same grid. Section 7 counts them (→ Exercise 11.7). A smaller area is no advantage over a network that folds, only over one that does not.
# </details>
#
# ## 4. Scale, exactly
#
# What sizes do the coordinates of photos have? Collect the 4×4 blocks of four photos, as states in [−1, 1], and look at the covariance of their 16 numbers, in pixels and in Haar bands.


# %%
def blocks(image):
    """All 4x4 blocks of a grey image (1, 1, H, W): (N, 16)."""
    return F.pixel_unshuffle(crop_to_multiple(image, 4), 4).flatten(2)[0].T.double()


def grey(name):
    return crop_to_multiple(photo(name).mean(1, keepdim=True), 4)


names = ("chelsea", "china", "astronaut", "coffee")
pixels = torch.cat([blocks(2 * grey(name) - 1) for name in names])
left = torch.cat([blocks(2 * (grey(name) - enlarge(resize(grey(name), 1 / 4)))) for name in names])
W = torch.stack([Wavelet(2).pack(u.view(1, 1, 4, 4)).flatten() for u in torch.eye(16, dtype=double)], 1)
order = ["LL", "H2", "V2", "D2", *(f"{k}1" for k in "HVD" for _ in range(4))]


def correlation(states):
    return torch.corrcoef(states.T)


size = {name: (correlation(s).abs().sum() - 16) / 240 for name, s in (("pixels", pixels), ("bands", pixels @ W.T))}
stds = {"photo": (pixels @ W.T).std(0), "residual to bicubic": (left @ W.T).std(0)}
by_band = {name: [s[order.index(band)].item() for band in band_names(2)] for name, s in stds.items()}

# %%
plots.strip(
    [
        plots.heatmap(
            {"pixels": correlation(pixels), "Haar bands": correlation(pixels @ W.T)},
            title="correlations of the 16 numbers",
            alt="Two 16 by 16 tables of correlations.",
            xlabel="coordinate",
            ylabel="coordinate",
            limits=(-1, 1),
            cmap="RdBu_r",
            width=500,
            height=300,
        ),
        plots.bars(
            list(band_names(2)),
            by_band,
            title="standard deviation of each band",
            alt="Bars of the standard deviation of seven bands.",
            ylabel="standard deviation",
            width=420,
            height=300,
        ),
    ],
    title="Haar bands of photos are nearly uncorrelated, but their sizes differ; a residual's sizes differ less",
    alt=f"Left, correlations: between pixels all are close to one, {size['pixels']:.2f} on average; between bands all but the diagonal are close to zero, {size['bands']:.2f} in absolute value on average. Right, standard deviations, coarse to fine. "
    + " ".join(
        f"{name}: " + ", ".join(f"{b} {v:.2f}" for b, v in zip(band_names(2), row, strict=True)) + "."
        for name, row in by_band.items()
    ),
    columns=2,
)

# %% [markdown]
# In pixels every coordinate has the same size, but the directions are very unequal: the blocks' mean varies about thirty times as much as the finest differences. In bands you can see this, and repair it: divide each band by its standard deviation. Then the cloud is nearly round, and a round Gaussian cloud is the easiest thing a
# sampler can be asked for.
#
# To put numbers on it, take the Gaussian law with the residual's covariance $R$ around a prediction $\mu(x)$: this is $p(y\mid x)$ of one block as far as second moments go. The denoiser is exact and *knows* $x$ in all domains, so whatever is missing is the sampler's fault, and `affine_law` computes it without drawing. The last line of `changes`
# stays in pixels and shifts the *schedule* instead, as our SR3 did in chapter 09: its log-SNR is that of the cosine schedule minus $2\log(\text{spread})$.

# %%
R = torch.cov(left.T)
prediction = torch.full((16,), 0.6, dtype=double)  # a bright block: mu(x), in state units
one, band_stds, spread = torch.eye(16, dtype=double), (left @ W.T).std(0), left.std()
cosine = vp_cosine()
print(f"standard deviation of a pixel's state: {pixels.std():.2f}; of what bicubic leaves: {spread:.2f}")
changes = {  # z_0 = A (y - shift), and the schedule
    "pixels": (one, 0 * prediction, cosine),
    "Haar bands": (W, 0 * prediction, cosine),
    "residual": (one, prediction, cosine),
    "residual / its std": (one / spread, prediction, cosine),
    "Haar bands of it / theirs": (W / band_stds[:, None], prediction, cosine),
    "pixels, schedule shifted": (one, 0 * prediction, shifted_cosine(spread.item())),
}


def missed(A, shift, schedule, n, R=R):
    """Error of the sampled law, in grey levels per pixel: W_2 to N(mu, R) of what n steps of DDIM put out."""
    denoiser = denoiser_for(Gaussian(A @ (prediction - shift), A @ R @ A.T), schedule)

    def run(noise):
        return last(ddim(denoiser, schedule, noise(torch.empty(1, 16, dtype=double)), uniform_times(n)))

    centre, covariance = affine_law(run, 16)
    back = torch.linalg.inv(A)
    return gaussian_w2(back @ centre + shift, back @ covariance @ back.T, prediction, R) / 4 * 127.5


# %%
counts = (4, 6, 10, 16, 30)
errors = {name: [missed(*change, n) for n in counts] for name, change in changes.items()}
same = [("pixels", "Haar bands"), ("pixels", "residual"), ("residual / its std", "pixels, schedule shifted")]
for first, second in same:
    assert_close(torch.tensor(errors[first]), torch.tensor(errors[second]), rtol=1e-6, atol=0)
plots.curves(
    counts,
    errors,
    title="Turning and shifting buy an exact sampler nothing; the right scale cuts its steps to a third",
    alt="Error of the sampled law in grey levels per pixel against the number of steps, 4 to 30, both axes logarithmic. "
    + " ".join(
        f"{name}: {row[0]:.1f} with 4 steps, {row[2]:.1f} with 10, {row[-1]:.1f} with 30."
        for name, row in errors.items()
    ),
    xlabel="steps of DDIM",
    ylabel="grey levels",
    logx=True,
    logy=True,
    height=360,
)

# %% [markdown]
# Three curves lie on one another: *pixels*, *Haar bands* and *residual*, as section 3 demands. Dividing the residual by its standard deviation, **one number**, is what helps. The bands' own scales add only a few per cent on top, because the residual's bands are already of similar size (last figure). And the shifted schedule in pixels lies exactly on the
# curve of the scaled residual: for an exact sampler, scaling the state by $1/\varsigma$ and shifting log-SNR by $-2\log\varsigma$ (upwards, since $\varsigma < 1$) are the same thing. Why then subtract at all? Because only what is left after subtracting *is* small. And the scale has to be told to somebody: to the state, where a network finds unit variance without further ado, or to the schedule.
#
# <details><summary><b>Question.</b> Would the bands' own scales matter more for the whole photo than for the residual?</summary>
#
# Yes: the photo's bands differ thirtyfold, the residual's less than threefold, and at ten steps their own scales halve the error (next cell). A *single* number does harm here: it brings a pixel to standard deviation 1, but LL, which holds nearly all the energy, away from it. What counts is the size along the directions that matter, not that of a single pixel. DiWa diffuses bands of a *residual*.
# </details>

# %% tags=["nbval-check-output"]
whole, photo_stds, one_std = torch.cov(pixels.T), (pixels @ W.T).std(0), pixels.std()
for name, A in {
    "pixels": one,
    "pixels / their std": one / one_std,
    "Haar bands / theirs": W / photo_stds[:, None],
}.items():
    print(f"the whole photo, {name:20} {missed(A, prediction, cosine, 10, whole):5.1f} grey levels at ten steps")
print(
    f"one number for all: a pixel's size goes from {one_std:.2f} to 1, LL's from {photo_stds[0]:.1f} to {photo_stds[0] / one_std:.1f}"
)

# %% [markdown]
# ## 5. Learned: the same small network in five domains
#
# A network is not exact, so it may care about axes after all. We train one small network (three hidden layers, 64 wide) on 4×4 blocks of photos, told the 3×3 LR pixels around and the bicubic enlargement. Five runs differ only in what diffuses; the fifth keeps 6 of 16 numbers, the residual's principal components: a *linear autoencoder*.


# %%
def examples(name):
    """Blocks (N, 16) of a grey photo, what the network is told (N, 25), and the bicubic prediction (N, 16), all in [0, 1]."""
    hr = grey(name)
    lr = resize(hr, 1 / 4)
    around = F.unfold(F.pad(lr, (1, 1, 1, 1), mode="replicate"), 3)[0].T
    base = blocks(enlarge(lr)).float()
    return blocks(hr).float(), torch.cat([around, base], 1), base


train = [torch.cat(part) for part in zip(*(examples(name) for name in names), strict=True)]
test = [part[::11] for part in examples("flower")]
gap = train[0] - train[2]
T, scale, band_scale = W.float(), gap.std(), (gap @ W.float().T).std(0)
P = torch.linalg.eigh(torch.cov(gap.T)).eigenvectors[:, -6:].T
code_scale = (gap @ P.T).std(0)
small_domains = {  # (y, base) -> z_0 and (z_0, base) -> y
    "pixels": (lambda y, b: 2 * y - 1, lambda z, b: (z + 1) / 2),
    "residual": (lambda y, b: 2 * (y - b), lambda z, b: b + z / 2),
    "residual / std": (lambda y, b: (y - b) / scale, lambda z, b: b + z * scale),
    "Haar / stds": (lambda y, b: (y - b) @ T.T / band_scale, lambda z, b: b + (z * band_scale) @ T),
    "6 of 16 numbers": (lambda y, b: (y - b) @ P.T / code_scale, lambda z, b: b + (z * code_scale) @ P),
}
directions = F.normalize(standard_normal(0)(torch.empty(16, 64)), dim=0)


def distance(blocks, truth=test[0], base=test[2]):
    """Sliced Wasserstein distance between what blocks and true blocks add to bicubic, in grey levels."""
    ours, theirs = (((b - base) @ directions).sort(0).values for b in (blocks, truth))
    return 255 * (ours - theirs).abs().mean().item()


# %%
class Told(nn.Module):
    """A small denoising network: state, noise level and condition in, v out."""

    def __init__(self, size, told, width=64):
        super().__init__()
        widths = (size + told + 1, width, width, width)
        layers = [part for a, b in zip(widths, widths[1:], strict=False) for part in (nn.Linear(a, b), nn.SiLU())]
        self.layers = nn.Sequential(*layers, nn.Linear(width, size))

    def forward(self, u, level, cond):
        return self.layers(torch.cat([u, level[:, None], cond], 1))


def learn(encode, decode, seed, checkpoints=(40, 80, 160, 320), shown=(2 * train[1] - 1, 2 * test[1] - 1)):
    """Distances of ten-step samples at the checkpoints of one training run; `shown` is the condition, train and test."""
    torch.manual_seed(seed)
    generator, found = torch.Generator().manual_seed(seed), []
    states = encode(train[0], train[2])
    network = Told(states.shape[1], shown[0].shape[1])
    denoiser, optimizer = NetworkDenoiser(network, "v", cosine), torch.optim.Adam(network.parameters(), 3e-3)
    for step in range(1, checkpoints[-1] + 1):
        index = torch.randint(len(states), (256,), generator=generator)
        z_0, cond, t = states[index], shown[0][index], torch.rand(256, generator=generator, dtype=double)
        eps = torch.randn(z_0.shape, generator=generator)
        z = cosine.alpha(t)[:, None].float() * z_0 + cosine.sigma(t)[:, None].float() * eps
        loss = (network(*denoiser.inputs(z, t), cond) - denoiser.target(z_0, eps, t)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step in checkpoints:
            noise = standard_normal(1)
            begin = noise(torch.empty(len(test[0]), states.shape[1]))
            states_seen = ddim(lambda z, t: denoiser(z, t, shown[1]), cosine, begin, uniform_times(10), 1.0, noise)
            found.append(distance(decode(last(states_seen), test[2])))
    return found


checkpoints = (40, 80, 160, 320)
learned = {name: torch.tensor([learn(*maps, seed) for seed in (0, 1)]) for name, maps in small_domains.items()}

# %%
encode, decode = small_domains["6 of 16 numbers"]
ceiling = distance(decode(encode(test[0], test[2]), test[2]))
plots.curves(
    checkpoints,
    {name: runs.mean(0) for name, runs in learned.items()},
    bands={name: (runs.min(0).values, runs.max(0).values) for name, runs in learned.items()},
    horizontal={"the 6 numbers' own loss": ceiling},
    title="After equal steps: shift and scale help a lot, the axes hardly",
    alt="Distance of samples to the truth in grey levels against training steps, 40 to 320, both axes logarithmic, two runs each. "
    + " ".join(
        f"{name}: {runs.mean(0)[0]:.1f} after 40 steps, {runs.mean(0)[-1]:.1f} after 320."
        for name, runs in learned.items()
    )
    + f" A line at {ceiling:.1f} marks what the code of six numbers loses by itself.",
    xlabel="training steps of 256 blocks",
    ylabel="grey levels",
    logx=True,
    logy=True,
)

# %% [markdown]
# Two effects can be told apart. The bare residual beats pixels, though for an exact denoiser they are the same: in pixels the network must copy the LR image through its layers before it can add anything. That is the *network*. Dividing by the scale helps far more; that is the sampler of section 4 and the network together. The turned coordinates are
# learned as fast as the unturned ones. And the code of six numbers comes first, perhaps because fewer numbers are to be learned (a guess: nothing here tests it), and cannot come below the line: what its decoder does not know, no training brings back.
#
# ## 6. Residuals: SRDiff, predict-and-refine, ResDiff
#
# On photos, the residual domain reads
#
# $$z_0 = \frac{y - \mu(x)}{\varsigma(x)}, \qquad \hat y = \mu(x) + \varsigma(x)\,\hat z_0 ,$$
#
# where $\mu$ is bicubic interpolation (**SRDiff**, arXiv:2104.14951) or a network's prediction (**predict-and-refine**, Whang et al., arXiv:2112.02475; **ResDiff**, arXiv:2303.08714). Published code usually has no $\varsigma$; SRDiff's multiplies the residual by 2 and clips it to $[-1, 1]$. We divide by a *local* spread, so that a wall and a meadow get the same unit variance (→ Exercise 11.3). The regression network has a second output, trained to estimate the standard deviation of its own error at each pixel: that is $\varsigma(x)$. Our method `residual-diffusion` (section 11) diffuses with this $\mu$ and this $\varsigma$. How much is there left to diffuse?

# %%
hrs, lrs = (
    torch.cat(part)
    for part in zip(*(cut("chelsea", 100, 140), cut("flower", 150, 200), cut("china", 40, 190)), strict=True)
)
means, spreads, conds = told(lrs)
leftovers = {
    "pixels": Pixel(),
    "residual to bicubic": Residual(enlarge),
    "residual to the regression": Residual(means),
    "that / its spread": Residual(means, spreads),
}
print(f"{'':28} share of energy " + "".join(f"{band:>7}" for band in band_names(2)) + "   (rms of each band)")
total = (hrs - 0.5).square().mean()
for name, domain in leftovers.items():
    state = domain.encode(hrs, lrs) / (2 if name == "pixels" else 1)  # image units throughout
    row = [band.square().mean().sqrt().item() for band in Wavelet(2).split(state).values()]
    share = f"{state.square().mean() / total:10.1%}" if "spread" not in name else f"{'-':>10}"
    print(f"{name:28} {share}      " + "".join(f"{v:7.3f}" for v in row))

# %% [markdown]
# Less than a tenth of the pixels' energy is left. A regression instead of bicubic halves what was left in LL, and takes little from the rest: fine detail is what cannot be predicted. That is the division of labour in predict-and-refine: the prediction carries the distortion, the diffusion carries the texture. (The last line is in units of the spread. It
# should be near 1, and is larger here in every band but LL, for these pieces were chosen for textures that no regression foresees.)
#
# ResDiff adds a second idea, a **high-frequency branch** that guides the denoiser by detail split off in Fourier and wavelet domains. In small: show it the prediction's own detail bands beside the prediction. That is no new information, but scaled so that it can be seen. An ablation on section 5's blocks, `shown` extended by the 15 detail bands of the bicubic block in unit variance:

# %%
details = [(part[2] @ T.T)[:, 1:] for part in (train, test)]
with_details = [
    torch.cat([2 * part[1] - 1, d / details[0].std(0)], 1) for part, d in zip((train, test), details, strict=True)
]
branch = torch.tensor([learn(*small_domains["Haar / stds"], seed, shown=with_details) for seed in (0, 1)])
for name, runs in {"without the branch": learned["Haar / stds"], "with it": branch}.items():
    print(f"{name:20} after 160 steps {runs[:, 2].mean():.2f}, after 320 {runs[:, 3].mean():.2f}", end="")
    print(f" ({runs[:, 3].min():.2f} to {runs[:, 3].max():.2f}) grey levels")

# %% [markdown]
# Here the branch buys nothing within the spread of two seeds: three layers on 16 numbers find these details themselves. Section 9 repeats the ablation on faces, with the bands of a *network's* prediction, which the denoiser is not told otherwise; there it pays.
#
# **Break it.** Some code writes $x\!\uparrow - y$ (ResShift) and some $y - x\!\uparrow$ (SRDiff). Mix them, and the sampler draws a perfect residual that is then subtracted instead of added:

# %% tags=["nbval-check-output"]
right = Residual(enlarge)
flipped = right.decode(-right.encode(hrs, lrs), lrs)
loss_in_db = psnr(enlarge(lrs), hrs, channel="rgb") - psnr(flipped, hrs, channel="rgb")
assert_close(loss_in_db, torch.full_like(loss_in_db, 20 * math.log10(2)), atol=1e-3, rtol=0)
print(f"a perfect residual with the wrong sign: {loss_in_db.mean():.2f} dB worse than no residual at all")
print(
    "sharpness relative to the original:",
    [round(v, 2) for v in (sharpness(flipped.clamp(0, 1)) / sharpness(hrs)).tolist()],
)

# %%
plots.image_grid(
    [hrs[:1], enlarge(lrs[:1]), flipped[:1].clamp(0, 1)],
    ["right sign: the original", "no residual: bicubic", "wrong sign"],
    title="The sign of the residual: added, left out, subtracted",
    alt="Three pictures of a cat's eye and fur: the original; a soft one; and one that looks crisp, in which dark strokes of fur have become light ones and outlines of the eye are doubled.",
    zoom=2,
)

# %% [markdown]
# The picture on the right looks crisp: every stroke of fur is there, light where it should be dark, and its sharpness (0.76 to 0.84; 1 is the original) is about that of `sr3` in section 11. But the error is exactly doubled, $y - (\mu - r) = 2r$, so PSNR falls by $20\log_{10}2 = 6.02$ dB below the *predictor's own*. That is how to recognise it: a diffusion model that makes its own prediction several dB worse. Test the
# round trip, `decode(encode(y)) == y`, before training; it takes a second. (One relative survives even that test: another upsampling in training than at inference, both consistent within themselves.)
#
# ## 7. Wavelets: what they buy, and what they do not
#
# **DiWa** (arXiv:2304.01994) diffuses the Haar bands of a residual; WaveDiff (arXiv:2211.16152) those of the image. The usual argument is area: one level halves height and width, so a network runs on a quarter of the pixels. Our pixel networks fold blocks into channels before the first convolution. Count what is then left of the argument:


# %% tags=["nbval-check-output"]
def multiply_adds(run):
    """(what `run()` returns, the multiplications in all convolutions it ran, for one image of its batch)."""
    counted = []

    def count(layer, _, out):
        if isinstance(layer, nn.Conv2d):
            counted.append(out[0, 0].numel() * layer.weight.numel())

    hook = nn.modules.module.register_module_forward_hook(count)
    with torch.inference_mode():
        answer = run()
    hook.remove()
    return answer, sum(counted)


level, channels = torch.zeros(1), (64, 128)
calls = {
    "pixels, not folded": (UNet(3, 3, channels=channels), torch.zeros(1, 3, 112, 112)),
    "pixels, folded by 4": (UNet(3, 3, channels=channels, fold=4), torch.zeros(1, 3, 112, 112)),
    "Haar, two levels": (UNet(48, 48, channels=channels), torch.zeros(1, 48, 28, 28)),
}
for name, (network, state) in calls.items():
    cost = multiply_adds(lambda network=network, state=state: network(state, level))[1]
    print(f"{name:20} {cost / 1e6:8.1f} million multiply-adds a call on 112 x 112 pixels")

# %% [markdown]
# The area argument holds against a network that does not fold, and it is a fair argument: many U-Nets do not. Against one that folds, it buys nothing. What wavelets do buy is what you saw: bands that can be scaled one by one (section 4), bands that are nearly uncorrelated, and **bands that can be left out**. If the regression already knows the low band, do not diffuse
# it. How much can be left out is a question about ceilings, `decode(encode(y))`:

# %%
choices = {
    "all": band_names(2),
    "all but LL": band_names(2)[1:],
    "the fine level": ("H1", "V1", "D1"),
    "the coarse level": ("LL", "H2", "V2", "D2"),
    "LL": ("LL",),
}
print(f"{'bands diffused':18} numbers per LR pixel   ceiling: PSNR   textures")
for name, kept in choices.items():
    domain = Wavelet(2, bands=kept, of=Residual(means))
    state = domain.encode(hrs, lrs)
    best = domain.decode(state, lrs)
    quality = psnr(best, hrs, crop=4).mean().clamp(max=99)
    quality = "exact" if quality > 98 else f"{quality:.1f} dB"
    print(f"{name:18} {state.shape[1]:8} of 48 {quality:>23} {255 * sliced_wasserstein(best, hrs).mean():9.2f}")
predicted = means(lrs)
print(
    f"{'none (regression)':18} {0:8} of 48 {psnr(predicted, hrs, crop=4).mean():20.1f} dB {255 * sliced_wasserstein(predicted, hrs).mean():9.2f}"
)

# %% [markdown]
# Leaving LL to the regression costs little; leaving a whole level costs a lot. Read the second column as well: 45 numbers of 48 remain, so the saving is small, and a ceiling says nothing about how well the remaining bands are drawn.
#
# **Break it: the range trap.** Samplers for images often clip $\hat z_0$ to $[-1, 1]$. The low band does not live there. A constant image $l$ (in state units) has
#
# $$\mathrm{LL} = 2^{L}\, l \quad\text{after } L \text{ levels},$$
#
# since each level divides a sum of four by 2. White is $2^L$; clipping turns it into 1, which decodes to $2^{-L}$:

# %% tags=["nbval-check-output"]
for L in (1, 2, 3):
    white = torch.ones(1, 3, 8, 8)
    clipped = Wavelet(L).decode(Wavelet(L).encode(white).clamp(-1, 1))
    assert_close(clipped, torch.full_like(white, (1 + 0.5**L) / 2))
    print(f"{L} levels: white (1.0) comes back as {clipped.mean():.4f}, black (0.0) as {1 - clipped.mean():.4f}")

# %%
scene = crop_to_multiple(photo("china")[..., 40:200, 150:350], 8)
clipped = {L: Wavelet(L).decode(Wavelet(L).encode(scene).clamp(-1, 1)) for L in (1, 2)}
plots.image_grid(
    [scene, *clipped.values()],
    ["original", "clipped after one level", "after two levels"],
    title="Clip the low band, and light and dark are gone while every edge remains",
    alt="Three pictures of a temple: the original under a blue sky; the same with a flat grey sky and less contrast; and one in which large surfaces are grey and colours faint, while every tile's edge is as sharp as before.",
    zoom=1,
    columns=3,
)

# %% [markdown]
# How to recognise it: the picture's *mean* and contrast collapse towards grey, but fine detail is intact. No error message, and a training loss as low as ever, for the clipping sits in the sampler. Residuals and latents have no such range either. Clip images, at the very end, and nothing else (→ Exercise 11.2).
#
# ## 8. Latents: the ceiling comes first
#
# **Latent diffusion** (Rombach et al., arXiv:2112.10752) trains an autoencoder first, freezes it, and diffuses its code. The code has fewer numbers, so the network is smaller and runs on a coarser grid; this saving is real, because something is thrown away. Two ways to keep a code well-behaved: a **KL** autoencoder adds noise, whose size the encoder chooses, to the
# code and pays for every nat above $N(0, I)$,
#
# $$\mathcal L_{\mathrm{KL}} = \frac{\|y - D(u)\|^2}{2 s^2} + \mathrm{KL}\big(q(u\mid y)\,\|\,N(0, I)\big), \qquad u \sim q(u\mid y),$$
#
# and a **vector-quantised** (VQ) one replaces each vector of the code by the nearest of a small book, with the gradient handed straight through (→ Exercise 11.6). Before any diffusion, ask what the decoder can do at all:

# %%
portraits = faces(300, seed=77).images  # seed 77: not among the faces that the autoencoders were trained on
ceilings = {}
for name in ("faces-kl-32", "faces-vq-32"):
    domain = Latent(load_pretrained(name))
    with torch.inference_mode():
        ceilings[name] = domain.decode(domain.encode(portraits)).clamp(0, 1)
pieces = F.pixel_unshuffle(portraits, 4).permute(0, 2, 3, 1).reshape(-1, 48).double()  # 4x4 pixels, 3 colours
middle = pieces.mean(0)
axes = torch.linalg.eigh(torch.cov((pieces - middle).T)).eigenvectors.flip(1)
sizes = (1, 2, 4, 8, 12, 16, 24)


def linear_ceiling(k):
    """PSNR (RGB) of the best linear code of k numbers per 4x4 block."""
    kept = axes[:, :k]
    error = (pieces - middle) - (pieces - middle) @ kept @ kept.T
    return -10 * error.square().mean().clamp(min=1e-10).log10().item()


reached = {name: -10 * (sr - portraits).square().mean().log10().item() for name, sr in ceilings.items()}

# %%
plots.strip(
    [
        plots.scatter(
            {
                "best linear code": (sizes, [linear_ceiling(k) for k in sizes]),
                "KL autoencoder": ([4], [reached["faces-kl-32"]]),
                "VQ, 8 bits a place": ([4], [reached["faces-vq-32"]]),
            },
            joined=("best linear code",),
            title="ceilings",
            alt="PSNR of decoded codes against their size.",
            xlabel="numbers per 4x4 block (of 48)",
            ylabel="PSNR of decode(encode(y)), dB",
            width=420,
            height=330,
        ),
        plots.image_grid(
            torch.cat([portraits[:5], *(sr[:5] for sr in ceilings.values())]),
            [name if i == 0 else "" for name in ("original", "KL", "VQ") for i in range(5)],
            title="what the codes can say",
            alt="Three rows of faces: originals, KL, VQ.",
            zoom=3,
            columns=5,
        ),
    ],
    title="The smaller the code, the lower the ceiling; a trained code beats a linear one of its size",
    alt="Left: PSNR of decoded codes of faces against numbers kept per block of 48. Linear code: "
    + ", ".join(f"{linear_ceiling(k):.1f} dB with {k}" for k in sizes)
    + f". With four numbers the KL autoencoder reaches {reached['faces-kl-32']:.1f} dB, the VQ autoencoder {reached['faces-vq-32']:.1f} dB. Right: three rows of five drawn faces, originals, decoded by KL, decoded by VQ. Hair, skin and background are right in all; eyes, mouths and thin lines are blurred in the decoded ones, more so by VQ.",
    columns=2,
)

# %% [markdown]
# These are *ceilings*: a perfect diffusion model of the code would return the second or third row for these faces, no better. In practice a latent model's PSNR and textures are bounded by its autoencoder's, so publish those numbers beside it (→ Exercise 11.5).
#
# **Scale.** The other thing to settle before training is the code's size. Whoever wrote the schedule assumed data of variance 1. How wrong may it be (→ Exercise 11.4)? For latents $N(0, s_u^2)$ the exact sampler answers:


# %%
def kept_contrast(s_u, n, times):
    """Standard deviation of what n steps of DDIM put out, relative to the right one, for latents N(0, s_u^2)."""
    law = Gaussian(torch.zeros(1, dtype=double), s_u**2 * torch.eye(1, dtype=double))
    run = lambda noise: last(ddim(denoiser_for(law, cosine), cosine, noise(torch.empty(1, 1, dtype=double)), times))  # noqa: E731
    return affine_law(run, 1)[1].sqrt().item() / s_u


scales = torch.logspace(-1.3, 1.3, 17, dtype=double)
contrast = {f"{n} steps, even in $t$": [kept_contrast(s_u, n, uniform_times(n)) for s_u in scales] for n in (10, 20)}
contrast["10 steps, even in log-SNR"] = [kept_contrast(s_u, 10, log_snr_times(cosine, 10)) for s_u in scales]
plots.curves(
    scales,
    contrast,
    vertical={"1 / 0.18215": 1 / 0.18215},
    title="Latents should have standard deviation 1, give or take a factor of two",
    alt="Contrast of samples relative to the truth against the standard deviation of the latents, 0.05 to 20, on a logarithmic axis. On the even grid two hills with their tops at 1: "
    + "; ".join(
        f"{label.replace('$', '')} {max(row):.2f} at best, {row[0]:.2f} at the left end"
        for label, row in contrast.items()
    )
    + ". A vertical line at 5.5 marks the unscaled latents of Stable Diffusion.",
    xlabel="standard deviation of the latents",
    ylabel="contrast kept",
    logx=True,
    ylim=(0.2, 1.2),
    height=360,
)

# %% [markdown]
# Too large or too small costs contrast, nearly symmetrically, and more steps repair it only slowly. Stable Diffusion's code has a standard deviation near 5.5 (the vertical line), so it is multiplied by 0.18215, a number that surprises everybody who finds it in the source. (The flat curve: a grid even in log-SNR does not care about the data's scale, since scaling only shifts
# log-SNR. It is worse at $s_u = 1$; but where you cannot measure a scale, it is the safe choice.)

# %% tags=["nbval-check-output"]
for s_u in (0.2, 1.0, 5.0):
    print(
        f"latents of standard deviation {s_u}: ten steps keep {kept_contrast(s_u, 10, uniform_times(10)):.0%} of their contrast"
    )

# %% [markdown]
# A *network* cares in one more way: it was trained on one scale.
#
# **Break it.** Divide by the scale on the way in, forget to multiply on the way out, or the reverse:

# %%
plain = Latent(load_pretrained("faces-vq-32"))
with torch.inference_mode():
    codes = plain.encode(portraits)
    shift, size = latent_moments(codes)
    unit = Latent(plain.autoencoder, size, shift)
    state = unit.encode(portraits[:6])
    wrong = {
        "right": unit.decode(state),
        "divided, never multiplied": plain.decode(state),
        "multiplied, never divided": unit.decode(codes[:6]),
    }
print("standard deviation of the code's channels:", [round(v, 2) for v in size.flatten().tolist()])
plots.image_grid(
    torch.cat([v[:5].clamp(0, 1) for v in wrong.values()]),
    [name if i == 0 else "" for name in wrong for i in range(5)],
    title="The scale of the code: used twice, on the way in only, on the way out only",
    alt="Three rows of five faces. Upper row: as they should be. Middle row: pale, with little contrast. Lower row: glaring colours and hard outlines.",
    zoom=3,
    columns=5,
)

# %% [markdown]
# Grey on one side, burnt on the other. The round trip catches this one too, as long as it goes through the same two lines of code as the sampler.
#
# > **Common mistakes**
# >
# > - Clipping residuals, bands or latents to $[-1, 1]$.
# > - The sign of the residual; another upsampling in training than at inference; forgetting to add the prediction before computing a metric.
# > - Half-normalised Haar transforms (means instead of sums over 2): noise is no longer white, and every variance is wrong.
# > - LH and HL swapped between two libraries: a round trip cannot see it, weights can.
# > - Latents scaled on one side; scaled per image, which no sampler can undo; scaled by the variance.
# > - A latent method blamed, or praised, for what its autoencoder does.
#
# ## 9. Faces: the domains at equal compute
#
# Now the experiment that papers promise and seldom show: the *same* U-Net in every domain, on the same 8×8 grid with the same multiply-adds (but for the first and last convolution), trained for the same number of processor seconds, three seeds each, on faces from 8×8 to 32×32. All states have unit variance, band by band in the wavelet rows; only *pixel* is left as it is. It takes too long for a notebook, so we read the numbers that `benchmarks/domains.py` has recorded.

# %%
record = json.loads(resources.files("tutorial_lib.data").joinpath("domains.json").read_text())
seconds = record["seconds"]


def recorded(quantity):
    """Name -> (seeds, checkpoints)."""
    return {
        name: torch.tensor([[point[quantity] for point in run] for run in runs])
        for name, runs in record["curves"].items()
    }


textures = recorded("sliced W1")
plots.curves(
    seconds,
    {name: runs.mean(0) for name, runs in textures.items()},
    bands={name: (runs.min(0).values, runs.max(0).values) for name, runs in textures.items()},
    title="Textures against seconds of training, the same network in every domain",
    alt="Sliced Wasserstein distance between samples and true faces against seconds of training, logarithmic axes, bands over three seeds. "
    + " ".join(
        f"{name}: {runs.mean(0)[0]:.1f} at first, {runs.mean(0)[-1]:.1f} at the end." for name, runs in textures.items()
    ),
    xlabel="processor seconds of training",
    ylabel="grey levels",
    logx=True,
    logy=True,
    ylim=(0.5, 200),
    height=420,
)

# %%
quality = recorded("Y-PSNR")
print(f"{'':38} textures after {seconds[0]} s, after {seconds[-1]} s (range of seeds)    PSNR (range)")
for name in textures:
    first, w, p = textures[name][:, 0], textures[name][:, -1], quality[name][:, -1]
    print(f"{name:38} {first.mean():14.2f} {w.mean():14.2f} ({w.min():.2f} to {w.max():.2f})", end="")
    print(f" {p.mean():13.2f} ({p.min():.2f} to {p.max():.2f}) dB")
level_with = next(
    s
    for s, w in zip(seconds, textures["pixel"].mean(0), strict=True)
    if w <= textures["residual to bicubic"].mean(0)[0]
)
print(f"pixels reach the first value of the residual to bicubic after {level_with} s")

# %%
held = to_uint8(faces(128, 32, seed=2024).images).float() / 255  # the faces that the benchmark samples
held_lr = to_uint8(resize(held, 1 / 4)).float() / 255
coded = Latent(load_pretrained("faces-kl-32"))
with torch.inference_mode():
    yardsticks = {
        "bicubic": enlarge(held_lr),
        "the network alone": load_pretrained("faces-regression-x4")(held_lr),
        "the latent's ceiling": coded.decode(coded.encode(held)),
    }
for name, sr in yardsticks.items():
    apart = sliced_wasserstein(list(sr.clamp(0, 1).split(1)), list(held.split(1)))
    print(f"{name:21} textures {255 * apart.item():.2f}   PSNR {psnr(sr.clamp(0, 1), held).mean():.2f} dB")

# %% [markdown]
# Read the tables against the exact sections.
#
# - **Pixels** must learn the faces' colours before anything else. The residual to **bicubic** is given them: its first checkpoint is where pixels come to eight times later (last line).
# - **Wavelet** bands of the whole face, each with its own scale, lead pixels from the first checkpoint by far more than the seeds' spread: here the bands differ widely in size. Bands of the **residual** are even a little worse than the residual, beyond the seeds; exact theory predicts no harm, so this is the network's doing.
# - After 48 s the bands of the whole face have passed the residual to bicubic in textures, and pixels have nearly caught up: residuals buy a start here, not the end. Both curves still fall. (In PSNR the residual keeps a lead of about a decibel.)
# - The **latent** has the worst textures and the best PSNR of the diffusion models: a code that cannot say fine detail cannot say it wrongly. Its textures (1.93) are near its ceiling (last line), so little is left to gain there; its PSNR is 3 dB below the ceiling.
# - The residual to a **network** starts where others end, because that network was trained before the clock started. So was the latent's autoencoder. Equal compute is equal only from here on. The **network alone** beats every row in PSNR, as a regression must; diffusion halves its distance in textures within the first 4 s.
# - **ResDiff's branch** pays here: told the detail bands of the network's answer, which it is not told otherwise, the denoiser gets better by more than the spread of the seeds.
#
# ## 10. Three more ideas, in small
#
# **LSGM** (Vahdat et al., arXiv:2106.05931) trains the autoencoder and the diffusion model *together*, as a variational autoencoder whose prior is the diffusion model. Its loss has three terms, all in nats:
#
# $$-\log p(y) \;\le\; \underbrace{\mathbb E_q[-\log p(y\mid u)]}_{\text{reconstruction}} \;\underbrace{-\,H\big(q(u\mid y)\big)}_{\text{negative entropy}} \;+\; \underbrace{\mathbb E_t\Big[\tfrac{g^2(t)}{2\sigma_t^2}\,\mathbb E\|\epsilon-\hat\epsilon\|^2\Big] + \text{const}}_{\text{cross-entropy of } q \text{ with the prior}}$$
#
# The third is the denoising loss you know, with the likelihood's weight (chapter 08). What does joint training buy over two stages? Take 2×2 blocks with a wide LL and a narrower V, seen through noise, and everything has a closed form:

# %%
variances, s = torch.tensor([4.0, 0.25], dtype=double), 0.7  # of LL and V; the decoder's noise
decoder_axes = quarter[[0, 2]].T


class LinearVAE:
    """p(y | u) = N(axes u, s^2), q(u | y) = the posterior if the prior were N(0, diag(belief))."""

    def __init__(self, belief):
        self.std, self.variance = s, 1 / (1 / belief + 1 / s**2)
        self.gain = (self.variance / s**2)[:, None] * decoder_axes.T

    def moments(self, y, cond=None):
        mean = (y.flatten(1) @ self.gain.T)[..., None, None]
        return mean, (self.variance.log() / 2).view(1, 2, 1, 1).expand_as(mean)

    def decode(self, u, cond=None):
        return (u.flatten(1) @ decoder_axes.T).view(-1, 1, 2, 2)


world = Gaussian(
    torch.zeros(4, dtype=double),
    decoder_axes @ torch.diag(variances) @ decoder_axes.T + s**2 * torch.eye(4, dtype=double),
)
y = world.sample(200_000, standard_normal(1)).view(-1, 1, 2, 2)
simple, joint = LinearVAE(torch.ones(2, dtype=double)), LinearVAE(variances)
aggregate = (simple.gain @ world.covariance @ simple.gain.T).diagonal() + simple.variance
plans = {
    "VAE: prior N(0, I)": (simple, torch.ones(2, dtype=double)),
    "two stages: then diffuse": (simple, aggregate),
    "together (LSGM)": (joint, variances),
}
truth = -world.log_prob(y.flatten(1)).mean()
print(
    f"{'nats per block':26} reconstruction  -entropy  cross-entropy    total, with its standard error (at best {truth:.2f})"
)
for name, (vae, prior) in plans.items():
    law = Gaussian(torch.zeros(2, dtype=double), torch.diag(prior), (2, 1, 1))
    places = (torch.arange(len(y), dtype=double) + 0.5) / len(y)
    terms = lsgm_terms(vae, denoiser_for(law, schedule), schedule, y, places, standard_normal(2))
    print(
        f"{name:26} {terms[0].mean():14.2f} {terms[1].mean():9.2f} {terms[2].mean():14.2f} {terms.total.mean():8.2f} +- {terms.total.std() / len(y) ** 0.5:.2f}"
    )

# %% [markdown]
# A better prior for a frozen code (the law of all encoded blocks) removes about half of the gap, and training both together removes the rest: the encoder no longer squeezes LL towards $N(0, I)$. LSGM reported FID 2.10 on CIFAR-10 and sampling two orders of magnitude faster than pixel-space models on CelebA-HQ-256.
#
# **HI-Diff** (arXiv:2305.12966; its sibling DiffIR, arXiv:2303.09472) diffuses a code so compact that it is no image at all, and hands it to a regression network as a hint: `restorer(lr, c)`. The denoiser works on a few numbers, so diffusion costs next to nothing at any image size. What do a few numbers buy? On one block with covariance $R$, the best code of $k$ numbers holds its $k$ widest directions:

# %%
widths, frame = torch.linalg.eigh(R)
lr_block = torch.zeros(1, 1, 1, 1, dtype=double)


def hinted(k, n=40):
    """W_2 in grey levels per pixel between N(mu, R) and what restorer(lr, c) gives with k numbers drawn by diffusion."""
    kept = frame[:, -k:]
    law = Gaussian(torch.zeros(k, dtype=double), torch.diag(widths[-k:] / widths[-1]))
    denoiser = denoiser_for(law, cosine)
    restorer = lambda lr, c: prediction + widths[-1].sqrt() * c @ kept.T  # noqa: E731
    centre, covariance = affine_law(
        lambda noise: restore_with_prior(restorer, denoiser, cosine, lr_block, k, uniform_times(n), noise, eta=0.0), 16
    )
    return gaussian_w2(centre, covariance, prediction, R) / 4 * 127.5


without = widths.sum().sqrt().item() / 4 * 127.5
print(f"distance to the true law, grey levels per pixel: without a code {without:.1f}; ", end="")
print("; ".join(f"{k} number{'s' * (k > 1)} {hinted(k):.1f}" for k in (1, 2, 4, 8, 16)), end="")
print(f"; 16 numbers with 400 steps {hinted(16, 400):.2f}")

# %% [markdown]
# For one block every number helps a little; a quarter of them leave two thirds of the distance. All 16 do not reach 0, because 40 steps are not exact (last number printed). A whole photo has thousands of blocks and HI-Diff's code stays a handful of vectors, so it can only settle what blocks have in common. That is what it is for. HI-Diff aims at PSNR; DiffIR's super-resolution adds perceptual and adversarial losses: textures are the restorer's business in both.
#
# **Refusion** (arXiv:2304.08291) walks in the latent space of a U-Net autoencoder, and not from the image to pure noise but from the image *to the LR image*, plus a little noise, along IR-SDE's path (arXiv:2301.11699):
#
# $$dv_t = \theta_t(\mu - v_t)\,dt + \lambda\sqrt{2\theta_t}\,dw_t, \qquad v_t \sim N\big(\mu + (v_0-\mu)e^{-\bar\theta_t},\; \lambda^2(1 - e^{-2\bar\theta_t})\big).$$
#
# Here $v_t$ is the image on its way, $\theta_t$ the speed of the pull towards the enlarged LR image $\mu$, $\bar\theta_t = \int_0^t\theta_\tau\,d\tau$, and $dw_t$ the white noise of a short time $dt$ (chapter 06). It looks like another theory. Put $z_t = (v_t - \mu)/\lambda$ and look again: $z_t \sim N(z_0 e^{-\bar\theta_t}, 1 - e^{-2\bar\theta_t})$ is the variance-preserving chain of chapter 04, on the **residual** to $\mu$ with spread $\lambda$. So `Residual` and any sampler do it, in pixels or in latents:

# %% tags=["nbval-check-output"]
lam, reverting = 0.15, mean_reverting()  # lambda in state units; theta_bar(1) = log 100
walk_domain = mean_reverting_domain(Pixel(), enlarge, lam)
z_0, mu = walk_domain.encode(hr, lr), Pixel().encode(enlarge(lr))
stops = (0.0, 0.4, 1.0)
seen = []
for t in stops:
    z = forward_step(z_0, reverting, 0.0, t, standard_normal(1)) if t else z_0
    kept = reverting.alpha(t).float()  # e^(-theta_bar)
    closed_form = (
        mu + (Pixel().encode(hr) - mu) * kept + lam * (1 - kept**2).sqrt() * (standard_normal(1)(mu) if t else 0)
    )
    assert_close(Pixel().encode(walk_domain.decode(z, lr)), closed_form, atol=1e-5, rtol=0)
    seen.append(walk_domain.decode(z, lr))
print(f"share of the residual left at the end: {reverting.alpha(1.0):.3f}")

# %%
plots.image_grid(
    torch.cat(seen).clamp(0, 1),
    [f"t = {t}" for t in stops],
    title="The walk ends at the LR image plus a little noise, not in pure noise",
    alt="Three pictures of a cat's eye: sharp at t = 0, grainy at 0.4, and at t = 1 a blurred eye under grain. It can be recognised throughout.",
    zoom=2,
    columns=3,
)

# %% [markdown]
# <details><summary><b>Question.</b> What would happen if you chose $\lambda$ ten times smaller than the residual's standard deviation?</summary>
#
# The state $(v-\mu)/\lambda$ would have a standard deviation of 10 instead of 1. Section 8's figure says what that costs at a given number of steps. $\lambda$ is a scale like any other.
# </details>
#
# ## 11. Photos: quality and cost
#
# Back to photos: twelve pieces of 64×64 pixels, six methods with their default numbers of steps. Costs are the multiplications of all convolutions that run, counted while they run. Textures come with the standard error of their *paired* difference to `sr3`: pieces differ far more than methods do.


# %%
photos = ("chelsea", "flower", "china", "astronaut", "coffee", "rocket")
places = [(name, top, left) for name in photos for top, left in ((60, 200), (180, 160))]
many_hr, many_lr = (torch.cat(part) for part in zip(*(cut(*place, size=64) for place in places), strict=True))


def measured(method, steps=None):
    """(the images, what they cost and how good they are) of one method."""
    sr, cost = multiply_adds(lambda: super_resolve(many_lr, method=method, steps=steps))
    return sr, {
        "cost": cost / 1e9,
        "PSNR": psnr(sr, many_hr, crop=4).mean().item(),
        "textures": 255 * sliced_wasserstein(sr, many_hr),
        "LR-PSNR": lr_consistency(sr, many_lr, 4).mean().item(),
        "sharp": (sharpness(sr) / sharpness(many_hr)).mean().item(),
    }


pictures, results = {}, {}
for name in ("regression", "sr3", "srdiff", "residual-diffusion", "wavelet", "latent"):
    pictures[name], results[name] = measured(name)
print(f"{'':20} calls  billion multiply-adds      PSNR  textures (against sr3)     LR-PSNR  sharpness")
for name, row in results.items():
    apart = row["textures"] - results["sr3"]["textures"]
    print(
        f"{name:20} {STEPS.get(name, 1):4} {row['cost']:19.1f} {row['PSNR']:13.2f} dB {row['textures'].mean():7.2f}",
        end="",
    )
    print(f" ({apart.mean():+.2f} +- {apart.std() / 12**0.5:.2f})", end="")
    print(f" {row['LR-PSNR']:10.1f} dB {row['sharp']:8.2f}")

# %%
means, spreads, conds = told(many_lr)
code = Latent(latent.autoencoder, LATENT_SCALE, condition=conds, of=Residual(means, spreads))
with torch.inference_mode():
    best = code.decode(code.encode(many_hr, many_lr), many_lr).clamp(0, 1)
print(f"the latent's ceiling: PSNR {psnr(best, many_hr, crop=4).mean():.2f} dB", end="")
print(f", textures {255 * sliced_wasserstein(best, many_hr).mean():.2f}")
more = {
    "sr3": (5, 10),
    "residual-diffusion": (3, 8),
    "wavelet": (2, 4, 16),
    "latent": (4, 8),
    "srdiff": (),
    "regression": (),
}
budget = {}
for name, counts in more.items():
    rows = sorted([results[name], *(measured(name, n)[1] for n in counts)], key=lambda row: row["cost"])
    budget[name] = ([row["cost"] for row in rows], [row["textures"].mean().item() for row in rows])
for name in ("residual-diffusion", "wavelet", "latent"):
    enough = [cost for cost, w in zip(*budget[name], strict=True) if w <= results["sr3"]["textures"].mean()]
    ratio = f"1/{results['sr3']['cost'] / min(enough):.1f} of its" if enough else "more than any of these"
    print(f"textures as good as those of sr3 with 20 steps: {name:18} with {ratio} multiplications")

# %%
plots.scatter(
    budget,
    joined=("sr3", "residual-diffusion", "wavelet", "latent"),
    title="Textures against cost: six methods as they are, twelve pieces",
    alt="Sliced Wasserstein distance of twelve photo pieces against multiply-adds. "
    + " ".join(
        f"{name}: {', '.join(f'{w:.2f} for {c:.1f} billion' for c, w in zip(*row, strict=True))}."
        for name, row in budget.items()
    ),
    xlabel="billion multiply-adds for 64 x 64 pixels",
    ylabel="textures: sliced W1, grey levels",
)

# %%
plots.compare(
    {**{name: p[4:5] for name, p in pictures.items()}, "original": many_hr[4:5]},
    [(2, 4, 40, 40), (24, 20, 40, 40)],
    title="A temple roof: what the LR image does not hold, no domain finds",
    alt="Two magnified pieces of a temple roof by regression, sr3, srdiff, residual diffusion, wavelet and latent diffusion, and the original. Regression is smooth; sr3 and srdiff have grain and spots along the edges, the three on top of the regression fewer. The fine rows of tiles of the original are in none of them.",
    zoom=3,
)

# %% [markdown]
# **Cost.** The wavelet and the latent model reach SR3's textures for a fraction of its multiplications (lines above the figure). Three savings multiply: fewer steps; a narrower network; and, for the latent, half of the LR grid. Unit variance is no part of it: our `sr3` has a shifted schedule and works on the difference inside (section 1). Nor is a smaller area a saving of the wavelet: SR3's network folds down to the same grid. By the same yardstick even the regression is within about one standard error of `sr3`; this measure alone cannot tell.
#
# **Textures.** Compare the differences in brackets with their standard errors before you rank anybody: twelve pieces separate some of these methods from SR3, and hardly one from another. Whole test sets do better: `python benchmarks/quality.py` measures the same distance on Set14 and BSD100, and the project's README lists it. *Sharpness* (1 is the original's) tells another part: on these pieces `sr3` is no sharper than the regression, and the other four come within a tenth of the original. It cannot tell right edges from wrong ones (section 6).
#
# **PSNR and LR-PSNR.** The last three stand on the regression and are made consistent with the LR image at the end. Their better numbers there are the predictor's merit and the projection's, not the domain's. `sr3` and `srdiff` have neither.
#
# **Ceiling.** The autoencoder's is far above what the latent model reaches; here the diffusion is the weaker link.
#
# And this is no controlled experiment: networks differ in size and in training (`benchmarks/quality.py` measures the same methods on whole test sets). What a domain buys, from what this chapter has measured:
#
# | domain | buys | costs | seen in section |
# |---|---|---|---|
# | pixels | no decoder, no predictor, no range trap; with a shifted schedule, an exact sampler as good as that of a scaled residual | the network must copy what is known | 4, 5 |
# | residual | a small, known scale; nothing to copy | a predictor, its sign and its bookkeeping | 4, 5, 6 |
# | wavelet | a scale for each band; bands that can be left out | even sizes; the range trap | 4, 7 |
# | latent | fewer numbers on a coarser grid | a second training; a ceiling | 5, 8, 11 |
# | compact code | diffusion that costs next to nothing | a few directions only | 10 |
#
# > **In the papers**
# >
# > - **SRDiff** (arXiv:2104.14951), by its abstract the first diffusion model for single-image super-resolution, predicts the residual to bicubic "to speed up convergence", told features of an encoder trained beforehand.
# > - **Whang et al.** (arXiv:2112.02475) train a deterministic predictor and a diffusion refiner of its residual together; sampling gets much cheaper, and one can move along the perception–distortion curve.
# > - **ResDiff** (arXiv:2303.08714) subtracts a CNN's prediction, trained with Fourier and wavelet losses, and guides the denoiser by high-frequency information; it reports shorter convergence times than earlier diffusion methods.
# > - **DiWa** (arXiv:2304.01994): 92 million parameters against 550 million (SR3), 9.3 against 12 million (SRDiff), with better PSNR, SSIM and LPIPS; one Haar level, the residual of a predictor.
# > - **LDM** (arXiv:2112.10752) freezes the autoencoder; **LSGM** (arXiv:2106.05931) trains it along, and lets the network learn only the mismatch between the codes and a normal law.
# > - **HI-Diff** (arXiv:2305.12966) and **DiffIR** (arXiv:2303.09472): a compact prior for a transformer. **Refusion** (arXiv:2304.08291): latents of a U-Net whose skips carry fine detail past the diffusion to the decoder, for images up to 6000×4000 pixels.
#
# > **Going further**
# >
# > - Domains compose: `Latent(autoencoder, of=Wavelet(1, of=Residual(mean)))` is one line. Which compositions still have unit variance?
# > - Corrupt by something other than noise (chapter 12). Put other networks in the U-Net's place (chapter 17).
#
# Eight [exercises](../exercises/11_state_domains.ipynb) wait.

# %% [markdown]
# ## Recap
#
# 1. **Rotate:** an orthonormal transform with turned noise gives the same sample, to rounding, in every sampler; so does a shift. They buy nothing by themselves.
# 2. **Scale:** states of unit variance, along the directions that matter, need fewer steps; a factor of five too much or too little leaves 69 % of the contrast in ten steps, the right scale 87 %.
# 3. **Diffuse residuals:** less than a tenth of the energy is left; a wrong sign costs 6.02 dB below the predictor, and looks crisp.
# 4. **Split:** bands are nearly uncorrelated, can be scaled and left out; LL reaches $2^L$ and must not be clipped. A smaller area helps only against a network that does not fold.
# 5. **Measure:** `decode(encode(y))` first. It is the ceiling.
# 6. **Compare:** the same network, the same seconds, several seeds.
# 7. **Explain:** LSGM learns code and prior together; HI-Diff draws a hint; Refusion is residual diffusion in latents.
#
# Next: diffusion without Gaussian noise.
#
# ## References
#
# - Moser et al., *Diffusion Models, Image Super-Resolution And Everything: A Survey*, arXiv:2401.00736.
# - Li et al., *SRDiff: Single Image Super-Resolution with Diffusion Probabilistic Models*, arXiv:2104.14951.
# - Whang et al., *Deblurring via Stochastic Refinement*, arXiv:2112.02475.
# - Shang et al., *ResDiff: Combining CNN and Diffusion Model for Image Super-Resolution*, arXiv:2303.08714.
# - Moser et al., *Waving Goodbye to Low-Res: A Diffusion-Wavelet Approach for Image Super-Resolution* (DiWa), arXiv:2304.01994.
# - Phung, Dao, Tran, *Wavelet Diffusion Models are Fast and Scalable Image Generators*, arXiv:2211.16152.
# - Rombach et al., *High-Resolution Image Synthesis with Latent Diffusion Models*, arXiv:2112.10752.
# - Vahdat, Kreis, Kautz, *Score-based Generative Modeling in Latent Space* (LSGM), arXiv:2106.05931.
# - Chen et al., *Hierarchical Integration Diffusion Model for Realistic Image Deblurring* (HI-Diff), arXiv:2305.12966.
# - Xia et al., *DiffIR: Efficient Diffusion Model for Image Restoration*, arXiv:2303.09472.
# - Luo et al., *Image Restoration with Mean-Reverting Stochastic Differential Equations* (IR-SDE), arXiv:2301.11699.
# - Luo et al., *Refusion: Enabling Large-Size Realistic Image Restoration with Latent-Space Diffusion Models*, arXiv:2304.08291.
# - van den Oord et al., *Neural Discrete Representation Learning*, arXiv:1711.00937; Kingma, Welling, *Auto-Encoding Variational Bayes*, arXiv:1312.6114.
