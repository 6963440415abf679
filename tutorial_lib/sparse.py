"""Super-resolution before networks: patches copied from examples, and patches spelled with few atoms of a dictionary.

Both look at windows of LR pixels, guess what bicubic interpolation left out there, average the guesses where windows
overlap, and add them to the bicubic picture:

    sr = bicubic(lr) + (mean over windows of the guessed details),   then   sr + A^+ (lr - A sr),   A = Bicubic(scale)

The second step (back-projection) makes sr shrink to lr. Bicubic enlargement lies in the row space of A, so what comes out
is A^+ lr plus the part of the details that A does not see.

`example_based` takes the details of the most similar example (Freeman, Jones and Pasztor 2002, doi:10.1109/38.988747).
`sparse_super_resolve` writes the window's features as x = a_1 low_1 + ... + a_k low_k with few atoms and uses the same code
for the details, a_1 high_1 + ... + a_k high_k (Yang, Wright, Huang and Ma 2010, doi:10.1109/TIP.2010.2050625).

Features are those of Zeyde, Elad and Protter 2012 (doi:10.1007/978-3-642-27413-8_47): first and second differences of the
bicubic picture, `scale` pixels apart, reduced by principal components. They do not see a window's mean, which the bicubic
picture supplies. Colour: three channels are taken as RGB; their luma is coded and its details are added to all three, so
chroma gets none. With any other number every channel is coded by itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from .checks import check_images, check_positive, check_whole
from .images import resize
from .operators import Bicubic

REACH = 3  # LR pixels: two of bicubic's kernel and one of the differences
CHUNK = 8192  # windows coded at a time
LUMA = (65.481 / 219, 128.553 / 219, 24.966 / 219)  # BT.601, weights that sum to 1

Pairs = Sequence[
    tuple[Tensor, Tensor]
]  # (lr, hr) of one photo each: (1, C, h, w) and (1, C, scale h, scale w), in [0, 1]


class CoupledDictionary(nn.Module):
    """Atoms that come in pairs, and the features that they are made of.

    low (atoms, features) and high (atoms, (window * scale)^2), rows side by side: details of a window of `window` x `window`
    LR pixels; analysis (features, 4 (window * scale)^2): from differences to features. `nonzeros` atoms make a code.
    Parameters are zeros until `learn_dictionary` or `load_state_dict` fills them.
    """

    def __init__(self, scale: int = 4, window: int = 3, atoms: int = 1024, features: int = 32, nonzeros: int = 3):
        super().__init__()
        for value, name in ((scale, "scale"), (window, "window"), (atoms, "atoms"), (features, "features")):
            check_whole(value, name)
        pixels = (window * scale) ** 2
        _check_at_most(features, 4 * pixels, "features", f"{window} x {window} LR pixels at scale {scale}")
        _check_at_most(nonzeros, min(atoms, features), "nonzeros", f"{atoms} atoms of {features} features")
        self.scale, self.window, self.nonzeros = scale, window, nonzeros
        shapes = {"analysis": (features, 4 * pixels), "low": (atoms, features), "high": (atoms, pixels)}
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape), requires_grad=False))


def _check_at_most(value: int, most: int, argument: str, what: str) -> None:
    if check_whole(value, argument) > most:
        raise ValueError(f"{argument} must be at most {most} for {what}, but {value} came")


def coded_planes(images: Tensor) -> Tensor:
    """What is coded of images (B, C, H, W): the luma of RGB, (B, 1, H, W), or else every channel, (B C, 1, H, W)."""
    if images.shape[1] != 3:
        return images.reshape(-1, 1, *images.shape[-2:])
    return (images * images.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)


def differences(plane: Tensor, scale: int, window: int) -> Tensor:
    """(B, 1, h, w) -> (B, 4, scale (h + 2 window - 2), same for w): differences of the bicubic picture, borders repeated.

    d/dx, d/dy, half of d^2/dx^2 and of d^2/dy^2 over steps of `scale` pixels. The margin of window - 1 LR pixels on every
    side is room for all windows that touch the picture.
    """
    margin = window - 1 + REACH
    up = resize(F.pad(plane, [margin] * 4, mode="replicate"), scale)
    cut = (margin - window + 1 - 1) * scale
    up = up[..., cut : up.shape[-2] - cut, cut : up.shape[-1] - cut]  # one LR pixel more than asked for, for the steps
    inner = slice(scale, -scale)
    here = up[..., inner, inner]
    left, right = up[..., inner, : -2 * scale], up[..., inner, 2 * scale :]
    above, below = up[..., : -2 * scale, inner], up[..., 2 * scale :, inner]
    return torch.cat([right - here, below - here, (left + right) / 2 - here, (above + below) / 2 - here], 1)


def window_features(plane: Tensor, analysis: Tensor, scale: int, window: int) -> Tensor:
    """(B, 1, h, w) -> (B, features, h + window - 1, w + window - 1): features of every window that touches the picture.

    Entry [i, j] is the window whose first LR pixel is (i - window + 1, j - window + 1).
    """
    size = window * scale
    return F.conv2d(differences(plane, scale, window), analysis.view(-1, 4, size, size), stride=scale)


def sparse_code(x: Tensor, atoms: Tensor, nonzeros: int) -> tuple[Tensor, Tensor]:
    """Orthogonal matching pursuit: (N, D) vectors in at most `nonzeros` of the (K, D) atoms each.

    Again and again the atom with the largest |<residual, atom>| / |atom| joins, and all weights are solved for anew by
    least squares. Returns the chosen atoms' numbers and weights, both (N, nonzeros); a vector that needs fewer has weights 0
    at the end. Atoms may have any length but 0 (scikit-learn's orthogonal_mp assumes length 1).
    Raises ValueError for more nonzeros than atoms or features, or when x and atoms differ in D.
    """
    if x.ndim != 2 or atoms.ndim != 2 or x.shape[1] != atoms.shape[1]:
        raise ValueError(
            f"x and atoms must be (N, D) and (K, D) with one D, but they are {tuple(x.shape)} and {tuple(atoms.shape)}"
        )
    _check_at_most(nonzeros, min(atoms.shape), "nonzeros", "{} atoms of {} features".format(*atoms.shape))
    length = atoms.norm(dim=1)
    if not (length > 0).all():
        raise ValueError(f"atoms must not be zero, but atom {int((length == 0).nonzero()[0])} is")
    gram = atoms @ atoms.T
    parts = [_pursue(part, atoms, gram, length, nonzeros) for part in x.split(CHUNK)]
    chosen, weights = (torch.cat(p) for p in zip(*parts, strict=True))
    return chosen, weights


def _pursue(x: Tensor, atoms: Tensor, gram: Tensor, length: Tensor, nonzeros: int) -> tuple[Tensor, Tensor]:
    start = x @ atoms.T
    negligible = 16 * torch.finfo(x.dtype).eps * x.norm(dim=1, keepdim=True)  # of a residual: rounding
    chosen = torch.zeros(len(x), nonzeros, dtype=torch.long, device=x.device)
    useful = torch.zeros(len(x), nonzeros, dtype=torch.bool, device=x.device)
    weights = x.new_zeros(len(x), nonzeros)
    correlation = start
    for k in range(nonzeros):
        size = correlation.abs() / length
        size.scatter_(1, chosen[:, :k], -1.0)  # rounding must not choose an atom twice
        best, chosen[:, k : k + 1] = size.max(1, keepdim=True)
        useful[:, k : k + 1] = best > negligible
        picked, on = chosen[:, : k + 1], useful[:, : k + 1]
        between = gram[picked[:, :, None], picked[:, None, :]] * (on[:, :, None] & on[:, None, :])
        between = between + torch.diag_embed((~on).to(x))
        solved = torch.linalg.solve(between, (start.gather(1, picked) * on)[..., None])[..., 0]
        weights[:, : k + 1] = solved
        if k + 1 < nonzeros:
            correlation = start - (solved[:, None] @ gram[picked])[:, 0]
    return chosen, weights


def details_of(chosen: Tensor, weights: Tensor, high: Tensor) -> Tensor:
    """The same codes with the other dictionary: sum over k of weights[:, k] high[chosen[:, k]], (N, pixels)."""
    return (weights[:, None] @ high[chosen])[:, 0]


def overlap_mean(patches: Tensor, height: int, width: int, scale: int, window: int) -> Tensor:
    """Average the details of overlapping windows: (N, (window scale)^2) -> (1, 1, scale height, scale width).

    N = (height + window - 1) (width + window - 1), in rows; every HR pixel lies in window^2 of them.
    """
    rows, columns = (n + window - 1 for n in (height, width))
    size = tuple(scale * (n + window - 1) for n in (rows, columns))
    total = F.fold(patches.T[None], size, window * scale, stride=scale)
    margin = (window - 1) * scale
    return total[..., margin : size[0] - margin, margin : size[1] - margin] / window**2


def _super_resolve(lr: Tensor, analysis: Tensor, scale: int, window: int, guess: Callable[[Tensor], Tensor]) -> Tensor:
    """Add the overlap mean of guess(features (N, F)) -> (N, pixels) to bicubic; make it consistent with lr; clip.

    Image by image, so that no answer depends on its batch mates, and in bands of windows to save memory.
    """
    check_images(lr, "lr")
    batch, channels, height, width = lr.shape
    x = lr.to(analysis.dtype)
    details = []
    for plane in coded_planes(x).split(1):
        features = window_features(plane, analysis, scale, window)[0]
        band = max(1, CHUNK // features.shape[-1])
        patches = [guess(part.flatten(1).T.contiguous()) for part in features.split(band, 1)]
        details.append(overlap_mean(torch.cat(patches), height, width, scale, window))
    sr = resize(x, scale) + torch.cat(details).view(batch, -1, scale * height, scale * width)
    operator = Bicubic(scale)
    return (sr + operator.pinv(x - operator(sr))).clamp(0, 1).to(lr.dtype)


def sparse_super_resolve(lr: Tensor, dictionary: CoupledDictionary) -> Tensor:
    """Super-resolve (B, C, H, W) in [0, 1] with a learned dictionary -> (B, C, scale H, scale W) in [0, 1]; any H and W.

    Each window's features are coded by `sparse_code` with `dictionary.nonzeros` atoms of dictionary.low, and the codes give its
    details through dictionary.high. Scale and window are the dictionary's.
    """

    def guess(x: Tensor) -> Tensor:
        return details_of(*sparse_code(x, dictionary.low, dictionary.nonzeros), dictionary.high)

    with torch.no_grad():
        return _super_resolve(lr, dictionary.analysis, dictionary.scale, dictionary.window, guess)


def example_based(
    lr: Tensor,
    pairs: Pairs,
    scale: int = 4,
    window: int = 3,
    features: int = 32,
    patches: int = 1000,
    floor: float = 1.0,
    seed: int = 0,
) -> Tensor:
    """Super-resolve (B, C, H, W) by copying: each window takes the details of the most similar window of `pairs`.

    Features x are divided by their contrast |x| + floor before they are compared, and the copied details are scaled by the
    ratio of the contrasts, so faint edges can learn from strong ones; `floor` keeps nearly flat windows from being blown
    up. `patches` windows are drawn from each pair. Freeman, Jones and Pasztor 2002 (doi:10.1109/38.988747) also ask
    neighbours to agree where they overlap; here they are averaged.
    """
    CoupledDictionary(scale, window, 1, features, 1)  # checks the numbers
    check_positive(floor, "floor")
    analysis, x, details = _training_windows(pairs, scale, window, features, patches, seed)
    contrast = x.norm(dim=1, keepdim=True) + floor
    examples, details = x / contrast, details / contrast
    half = (examples**2).sum(1) / 2

    def guess(x: Tensor) -> Tensor:
        contrast = x.norm(dim=1, keepdim=True) + floor
        nearest = [(half - part @ examples.T).argmin(1) for part in (x / contrast).split(1024)]
        return contrast * details[torch.cat(nearest)]

    with torch.no_grad():
        return _super_resolve(lr, analysis, scale, window, guess)


def learn_dictionary(
    pairs: Pairs,
    scale: int = 4,
    window: int = 3,
    atoms: int = 256,
    features: int = 32,
    nonzeros: int = 3,
    patches: int = 1000,
    seed: int = 0,
) -> CoupledDictionary:
    """Learn coupled dictionaries from `patches` windows of each (lr, hr) pair; the same seed gives the same dictionary.

    In Zeyde's order: principal components of the differences; atoms for the features alone (`learn_atoms`); then the HR
    atoms as the least-squares answer to "which details belong to these codes?" (`couple`), with the codes by which
    `sparse_super_resolve` will ask. Yang et al. learn both at once, from features and details stacked into one vector, and
    so give up some of the match of the features, the only part that is seen later.
    """
    dictionary = CoupledDictionary(scale, window, atoms, features, nonzeros)
    analysis, x, details = _training_windows(pairs, scale, window, features, patches, seed)
    low = learn_atoms(x, atoms, seed)
    for parameter, value in (
        (dictionary.analysis, analysis),
        (dictionary.low, low),
        (dictionary.high, couple(x, details, low, nonzeros)),
    ):
        parameter.copy_(value)
    return dictionary.eval()


def learn_atoms(x: Tensor, atoms: int, seed: int = 0) -> Tensor:
    """Unit atoms (atoms, D) for the vectors x (N, D): scikit-learn's MiniBatchDictionaryLearning.

    It minimises |x - code @ atoms|^2 / 2 + 0.3 |code|_1 over codes and atoms in one pass, a batch of 512 at a time (Mairal,
    Bach, Ponce and Sapiro 2009), here for x of length 1, so that strong edges do not count more than weak ones; the weaker
    half of the windows, mostly the noise of rounding to 8 bits, is left out, and 40 windows for each atom are enough. It
    starts from windows drawn by `seed`. Raises ValueError when there are too few.
    """
    from sklearn.decomposition import MiniBatchDictionaryLearning
    from sklearn.exceptions import ConvergenceWarning

    length = x.norm(dim=1)
    strong = x[(length >= length.median()) & (length > 0)]
    if len(strong) < check_whole(atoms, "atoms"):
        raise ValueError(
            f"{atoms} atoms need at least {atoms} windows above the median contrast, but {len(strong)} came"
        )
    order = torch.randperm(len(strong), generator=Generator().manual_seed(seed))
    # float64: in float32 coordinate descent does not converge
    strong = F.normalize(strong[order[: 40 * atoms]].double(), dim=1).numpy()
    learner = MiniBatchDictionaryLearning(
        n_components=atoms,
        alpha=0.3,
        fit_algorithm="cd",
        batch_size=512,
        max_iter=1,
        dict_init=strong[:atoms],
        random_state=seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # codes on the way need not be exact
        learner.fit(strong)
    return F.normalize(torch.from_numpy(learner.components_).to(x), dim=1)


def couple(x: Tensor, details: Tensor, low: Tensor, nonzeros: int, ridge: float = 1e-3) -> Tensor:
    """The HR atoms: argmin over `high` of |details - codes @ high|^2 + a little |high|^2, codes from `sparse_code(x, low)`.

    x (N, D), details (N, P), low (K, D) -> (K, P). `ridge` is relative to the mean energy of an atom's weights and keeps
    atoms that are hardly ever chosen near zero.
    """
    count = len(low)
    matrix = x.new_zeros(count, count, dtype=torch.float64)
    right = x.new_zeros(count, details.shape[1], dtype=torch.float64)
    for part, wanted in zip(x.split(CHUNK), details.split(CHUNK), strict=True):
        chosen, weights = sparse_code(part, low, nonzeros)
        codes = x.new_zeros(len(part), count).scatter_add_(1, chosen, weights)
        matrix += codes.T @ codes
        right += codes.T @ wanted
    matrix.diagonal().add_(ridge * matrix.diagonal().mean())
    return torch.linalg.solve(matrix, right).to(x)


def _training_windows(
    pairs: Pairs, scale: int, window: int, features: int, patches: int, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """analysis (features, 4 pixels), features (N, features) and details (N, pixels) of windows drawn from every pair.

    Goes through the pairs twice, first for the principal components, then for the features, so that the long vectors of
    differences are never held for more than one photo.
    """
    check_whole(patches, "patches")
    if len(pairs) == 0:
        raise ValueError("pairs must hold at least one (lr, hr), but it is empty")
    size = 4 * (window * scale) ** 2
    covariance = torch.zeros(size, size, dtype=torch.float64)
    for long, _ in _drawn(pairs, scale, window, patches, seed):
        covariance += long.T @ long
    analysis = torch.linalg.eigh(covariance).eigenvectors[:, -features:].flip(1).T.float().contiguous()
    found = [(long @ analysis.T, details) for long, details in _drawn(pairs, scale, window, patches, seed)]
    x, details = (torch.cat(p) for p in zip(*found, strict=True))
    return analysis, x, details


def _drawn(pairs: Pairs, scale: int, window: int, patches: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """For every pair, differences (patches, 4 pixels) and details (patches, pixels) of windows inside the photo."""
    generator = Generator().manual_seed(seed)
    size = window * scale
    for lr, hr in pairs:
        check_images(lr, "lr")
        check_images(hr, "hr", channels=lr.shape[1])
        height, width = lr.shape[-2:]
        if hr.shape != (1, lr.shape[1], scale * height, scale * width) or min(height, width) < window:
            raise ValueError(
                f"pairs must hold (1, C, h, w) and (1, C, {scale}h, {scale}w) with h and w at least {window}, but"
                f" {tuple(lr.shape)} and {tuple(hr.shape)} came"
            )
        coarse, fine = (coded_planes(images).float() for images in (lr, hr))
        missing = (fine - resize(coarse, scale)).unfold(2, size, scale).unfold(3, size, scale)[:, 0]
        seen = differences(coarse, scale, window).unfold(2, size, scale).unfold(3, size, scale)
        b, i, j = (
            torch.randint(n, (patches,), generator=generator)
            for n in (len(coarse), height - window + 1, width - window + 1)
        )
        margin = window - 1
        yield seen[b, :, i + margin, j + margin].flatten(1), missing[b, i, j].flatten(1)
