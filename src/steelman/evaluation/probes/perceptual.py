"""The perceptual similarity of two images."""

import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch

from steelman.data.dataset import Dataset
from steelman.evaluation.probes.probe import Probe
from steelman.types import Images, Labels, Model, PerImage, Seeds

LUMINANCE = (0.299, 0.587, 0.114)
WINDOW = 11


@final
@dataclass(frozen=True)
class PASS(Probe):
    """The similarity of the attacked image to the unattacked one after alignment: SSIM(psi(x', x), x), at most 1.

    psi moves x' by the homography with the highest enhanced correlation coefficient (ECC) with x, which OpenCV searches
    from the identity, in at most 100 steps and until one gains less than 1e-6, without smoothing; bilinear, with the
    border continued. Where it finds none, a translation is searched in the same way. An alignment that correlates less
    with x than x' itself is discarded. A warning counts the images of a call for which there was no homography.

    SSIM is the mean, over all windows inside the image, of
    (2 m m' + C1) (2 s_xx' + C2) / ((m^2 + m'^2 + C1) (s^2 + s'^2 + C2)) with C1 = .01^2 and C2 = .03^2: the means, the
    variances and the covariance of 11 x 11 pixels, weighted by a Gaussian of deviation 1.5 (scikit-image).

    RGB images are compared by their luminance, .299 R + .587 G + .114 B. Deep Defense's table has grey digits alone.

    Cost: no pass; about 5 ms for an image of 28 x 28 on one core. Needs the extra `perceptual`.
    Reference: Andras Rozsa, Ethan M. Rudd and Terrance E. Boult, "Adversarial diversity and hard positive generation",
    CVPR Workshops 2016, whose "psychometric perceptual adversarial similarity score" it is.

    Raises:
        ImportError: the extra is not installed.
        ValueError: images that are not (batch, 1 or 3, height, width), smaller than a window, or outside [0, 1];
            attacked images that are not finite.
    """

    def setup(self, training_images: Callable[[], Dataset]) -> "PASS":
        _libraries()  # what is missing is reported before the first attack
        return self

    def __call__(self, model: Model, x: Images, y: Labels, x_adv: Images, seeds: Seeds) -> PerImage:
        cv2, ssim = _libraries()
        _check(x, x_adv)
        scores, tried = [], Counter[str]()
        for origin, attacked in zip(_grey(x), _grey(x_adv), strict=True):
            moved, motion = _aligned(cv2, attacked, origin)
            tried[motion] += 1
            weights = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
            scores.append(float(ssim(moved, origin, data_range=1.0, **weights)))
        if tried["homography"] < len(x):
            warnings.warn(
                f"PASS found no homography for {len(x) - tried['homography']} of {len(x)} images: "
                f"{tried['translation']} were aligned by a translation, {tried['nothing']} not at all",
                stacklevel=2,
            )
        return torch.tensor(scores, dtype=torch.float64, device=x.device)


def _libraries() -> tuple[Any, Callable[..., Any]]:
    try:
        import cv2
        from skimage.metrics import structural_similarity
    except ImportError as error:
        raise ImportError(f"PASS needs OpenCV and scikit-image ({error}): pip install steelman[perceptual]") from error
    return cv2, structural_similarity


def _check(x: Images, x_adv: Images) -> None:
    if x.ndim != 4 or x.shape[1] not in (1, 3) or min(x.shape[2:]) < WINDOW:
        raise ValueError(
            f"PASS compares grey or RGB images of at least {WINDOW} x {WINDOW} pixels, (batch, 1 or 3, height, width); "
            f"got {tuple(x.shape)}"
        )
    if not bool(((x >= 0) & (x <= 1)).all()):
        raise ValueError("PASS compares images in [0, 1]; run it in pixels, not on preprocessed images")
    if not bool(x_adv.isfinite().all()):
        raise ValueError("PASS was given images with NaN or infinite pixels")


def _grey(x: Images) -> np.ndarray:
    weights = torch.tensor(LUMINANCE if x.shape[1] == 3 else (1.0,), dtype=torch.float64, device=x.device)
    return torch.einsum("nchw, c -> nhw", x.detach().double(), weights).cpu().numpy()


def _aligned(cv2: Any, image: np.ndarray, onto: np.ndarray) -> tuple[np.ndarray, str]:
    """`image`, moved for the highest correlation with `onto`, and the kind of motion."""
    if np.array_equal(image, onto):
        return image, "homography"
    narrow = [each.astype(np.float32) for each in (onto, image)]  # OpenCV 4 takes no others
    ends = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 100, 1e-6)
    for motion, kind, rows, warp in (
        ("homography", cv2.MOTION_HOMOGRAPHY, 3, cv2.warpPerspective),
        ("translation", cv2.MOTION_TRANSLATION, 2, cv2.warpAffine),
    ):
        try:
            _, found = cv2.findTransformECC(*narrow, np.eye(rows, 3, dtype=np.float32), kind, ends, None, 1)
        except cv2.error:  # no convergence, as of flat images
            continue
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        moved = warp(image, found, onto.shape[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)
        return (moved if _correlation(moved, onto) > _correlation(image, onto) else image), motion
    return image, "nothing"


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Pearson's, which is the ECC; -1 where one is flat."""
    first, second = first - first.mean(), second - second.mean()
    scale = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float((first * second).sum()) / scale if scale > 0 else -1.0
