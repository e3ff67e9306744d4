"""Stars that vary: light curves of zero mean, periodic, so that a star's departures are correlated in time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

KINDS = ("constant", "rr_lyrae", "eclipsing", "long_period", "rotational")
"""Names by code; 0 is constant."""

KIND_SHARE = (0.12, 0.23, 0.30, 0.35)
"""Share of each kind among the variables (codes 1 to 4)."""

_SAMPLES = 2048


def _templates() -> Floats:
    """Return light curves (len(KINDS), _SAMPLES) of zero mean and unit peak-to-peak amplitude, positive is faint."""
    phase = (np.arange(_SAMPLES) + 0.5) / _SAMPLES
    rise = 0.15
    rr = np.where(phase < rise, 1 - phase / rise, (np.maximum(phase - rise, 0) / (1 - rise)) ** 0.6)
    primary = np.exp(-0.5 * ((phase - 0.25) / 0.03) ** 2)
    secondary = 0.4 * np.exp(-0.5 * ((phase - 0.75) / 0.03) ** 2)
    sine = np.sin(2 * np.pi * phase)
    rotation = sine + 0.4 * np.sin(4 * np.pi * phase + 0.7)
    curves = np.stack([np.zeros(_SAMPLES), rr, primary + secondary, sine, rotation])
    curves -= curves.mean(axis=1, keepdims=True)
    span = np.ptp(curves, axis=1, keepdims=True)
    return np.asarray(curves / np.where(span > 0, span, 1))


_TEMPLATES = _templates()
RMS = _TEMPLATES.std(axis=1)
"""Rms over peak-to-peak amplitude of each kind."""


def draw_amplitude(rng: np.random.Generator, kind: Ints) -> Floats:
    """Draw peak-to-peak amplitudes (mag) of variables of the given kinds (1 to 4)."""
    median = np.array([0, 0.6, 0.25, 0.12, 0.04])[kind]
    spread = np.array([0, 0.3, 0.7, 0.9, 0.6])[kind]
    return np.asarray(np.minimum(median * np.exp(spread * rng.standard_normal(len(kind))), 2.0))


def draw_period(rng: np.random.Generator, kind: Ints) -> Floats:
    """Draw periods (days) of variables of the given kinds (1 to 4), uniform in the logarithm."""
    low = np.array([1, 0.35, 0.3, 40.0, 0.2])[kind]
    high = np.array([1, 0.8, 6.0, 2000.0, 30.0])[kind]
    return np.asarray(low * (high / low) ** rng.random(len(kind)))


def departure(kind: Ints, amplitude: Floats, period: Floats, phase: Floats, mjd: Floats) -> Floats:
    """Return each star's magnitude at mjd minus its mean; all arguments (n,), period in days."""
    turn = np.mod(mjd / period + phase, 1.0)
    return np.asarray(amplitude * _TEMPLATES[kind, (turn * _SAMPLES).astype(np.int64) % _SAMPLES])


def rms(kind: Ints, amplitude: Floats) -> Floats:
    """Return the rms over time of each star's departure, mag."""
    return np.asarray(amplitude * RMS[kind])
