"""Random fields: clouds that drift over the field, and maps over the focal plane."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SCREEN_PIXELS = 512
FIELDS_PER_SCREEN = 8


@dataclass(frozen=True)
class Screens:
    """Periodic cloud screens of zero mean and unit rms inside a field, one per length of smear along the wind.

    Attributes
    ----------
    values : float32 (n_screens, SCREEN_PIXELS, SCREEN_PIXELS)
        The wind blows along the last axis; SCREEN_PIXELS / FIELDS_PER_SCREEN pixels span a field.
    """

    values: NDArray[np.float32]

    @classmethod
    def draw(cls, rng: np.random.Generator, smears: tuple[float, ...] = (0.25, 0.6, 1.5)) -> Screens:
        """Draw the screens.

        The column density of cloud is that of passive turbulence in a thick layer, power ~ k^(-11/3) with an outer
        scale of four fields (Kolmogorov; Padmanabhan et al. 2008 and Burke et al. 2014 see structure functions of
        extinction near this). While the shutter is open the cloud moves by ``smears`` fields, which averages it
        along the wind.
        """
        k = np.fft.fftfreq(SCREEN_PIXELS, 1 / SCREEN_PIXELS)
        ky, kx = k[:, None], k[None, :]
        outer = FIELDS_PER_SCREEN / 4
        amplitude = (kx**2 + ky**2 + outer**2) ** (-11 / 12)
        amplitude[0, 0] = 0
        amplitude *= np.exp(-0.5 * (kx**2 + ky**2) / (SCREEN_PIXELS / 5) ** 2)
        screens = []
        for smear in smears:
            white = np.fft.fft2(rng.standard_normal((SCREEN_PIXELS, SCREEN_PIXELS)))
            field = np.fft.ifft2(white * amplitude * np.sinc(kx * smear / FIELDS_PER_SCREEN)).real
            side = SCREEN_PIXELS // FIELDS_PER_SCREEN
            patches = field.reshape(FIELDS_PER_SCREEN, side, FIELDS_PER_SCREEN, side)
            screens.append(field / np.sqrt(patches.var(axis=(1, 3)).mean()))
        return cls(np.asarray(screens, np.float32))

    def __call__(self, screen: NDArray[np.int64], x: Floats, y: Floats) -> Floats:
        """Interpolate bilinearly at x (along the wind), y in units of the field; shapes (n,)."""
        scale = SCREEN_PIXELS / FIELDS_PER_SCREEN
        x, y = x * scale, y * scale
        column, row = np.floor(x), np.floor(y)
        fx, fy = x - column, y - row
        mask = SCREEN_PIXELS - 1
        c0, r0 = column.astype(np.int64) & mask, row.astype(np.int64) & mask
        c1, r1 = (c0 + 1) & mask, (r0 + 1) & mask
        flat = self.values.ravel()
        base = screen * SCREEN_PIXELS**2
        r0, r1 = base + r0 * SCREEN_PIXELS, base + r1 * SCREEN_PIXELS
        low = flat[r0 + c0] * (1 - fx) + flat[r0 + c1] * fx
        high = flat[r1 + c0] * (1 - fx) + flat[r1 + c1] * fx
        result: Floats = low * (1 - fy) + high * fy
        return result


def smooth_map(rng: np.random.Generator, pixels: int, slope: float, scale: float) -> Floats:
    """Draw a non-periodic Gaussian map (pixels, pixels) of zero mean and unit rms.

    Parameters
    ----------
    slope : float
        Power falls as k**-slope.
    scale : float
        Outer scale in units of the map's side.
    """
    size = 2 * pixels
    k = np.fft.fftfreq(size, 1 / size)
    power = (k[:, None] ** 2 + k[None, :] ** 2 + (2 / scale) ** 2) ** (-slope / 2)
    power[0, 0] = 0
    field = np.fft.ifft2(np.fft.fft2(rng.standard_normal((size, size))) * np.sqrt(power)).real[:pixels, :pixels]
    field -= field.mean()
    return np.asarray(field / field.std())
