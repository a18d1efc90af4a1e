r"""Model spectra of quasars in the observed frame: power law, iron, Balmer continuum, broad and narrow lines, forest.

Legend: ``B`` quasars, ``N`` pixels of the observed grid.
"""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from spectra.galaxies import smooth
from spectra.lines import BROAD, IRON, NARROW
from spectra.stars import LIGHT, SIGMA

Array = np.ndarray

LYMAN_ALPHA, LYMAN_BETA, LYMAN_LIMIT = 1215.67, 1025.72, 911.76  # angstrom
# of H beta, for the narrow-line region (Stern & Laor 2013); its [O III] varies by 0.4 dex and more
NARROW_SHARES = {
    "[O II] 3727": 0.06, "[O II] 3729": 0.07, "[Ne III] 3869": 0.09, "H gamma": 0.05, "H beta": 0.1,
    "[O III] 4959": 0.33, "[O III] 5007": 1.0, "H alpha": 0.3, "[N II] 6583": 0.25, "[S II] 6716": 0.07,
    "[S II] 6731": 0.07,
}  # fmt: skip


@dataclass(frozen=True)
class Axis:
    """A log-linear observed axis: (N,) vacuum angstrom, its step in log10."""

    wavelength: Array
    step: float


def lyman_depth(redshift: Array) -> Array:
    """Effective optical depth of the Lyman alpha forest (Faucher-Giguere et al. 2008): 0.0018 (1 + z)^3.92."""
    return np.asarray(0.0018 * (1 + redshift) ** 3.92)


def quasars(rng: Generator, axis: Axis, redshift: Array, host: Array | None = None) -> Array:
    """Observed spectra (B, N) float32 of quasars at these redshifts, of no unit.

    Args:
        rng: what is random about each.
        axis: the observed grid.
        redshift: (B,).
        host: (B, N) their galaxies, normalised to a median of 1, as observed; mixed in at low redshift.
    """
    count = len(redshift)
    rest = (axis.wavelength[None] / (1 + redshift[:, None])).astype(np.float32)  # (B, N)
    log = np.log(rest / 3000)
    slope = rng.normal(-1.55, 0.3, count).astype(np.float32)[:, None]  # of f_lambda: alpha_nu = -0.45
    red = rng.normal(0.9, 0.3, count).astype(np.float32)[:, None]  # the break at 4,700 angstrom
    power = np.exp(slope * log + np.maximum(red, 0) * np.maximum(np.log(rest / 4700), 0))
    flux = power * (1 + _iron(rng, rest) + _balmer_continuum(rng, rest))
    activity = 10 ** rng.normal(0, 0.18, count)  # lines are strong together: of faint quasars (Baldwin 1977)
    _add_broad(flux, rng, rest, power, activity)
    _add_narrow(flux, rng, rest, power)
    dust = np.where(rng.random(count) < 0.25, rng.exponential(0.12, count), rng.exponential(0.02, count)).clip(0, 0.6)
    flux *= np.exp(-0.921 * dust[:, None] * 1.39 * (rest / 1e4) ** -1.2).astype(
        np.float32
    )  # SMC (Richards et al. 2003)
    _broad_absorption(flux, rng, rest)
    _narrow_absorption(flux, rng, rest)
    if host is not None:
        share = np.where(redshift < 0.9, rng.uniform(0, 0.6, count) * np.interp(redshift, [0.3, 0.9], [1, 0.2]), 0)
        level = np.median(flux, axis=1, keepdims=True)
        flux = (1 - share[:, None]).astype(np.float32) * flux + (share[:, None] * level).astype(np.float32) * host
    _forest(flux, rng, axis, redshift)
    return flux.astype(np.float32)


def _iron(rng: Generator, rest: Array) -> Array:
    total = np.zeros_like(rest)
    count = len(rest)
    ultraviolet, optical = 10 ** rng.normal(0, 0.2, count), 10 ** rng.normal(0, 0.3, count)
    for centre, sigma, height in IRON:
        strength = height * (ultraviolet if centre < 3500 else optical) * 10 ** rng.normal(0, 0.08, count)
        total += strength[:, None].astype(np.float32) * np.exp(-0.5 * ((rest - centre) / sigma) ** 2)
    return total


def _balmer_continuum(rng: Generator, rest: Array) -> Array:
    r"""Of 15,000 K, optically thin at the edge (Grandi 1982): :math:`B_\lambda (1 - e^{-\tau (\lambda/3646)^3})`."""
    shape = (rest / 3646) ** -5 / np.expm1(1.43878e8 / (np.maximum(rest, 500) * 15_000))
    shape *= 1 - np.exp(-1.0 * (rest / 3646) ** 3)
    peak = 0.63 / np.expm1(1.43878e8 / (3646 * 15_000))
    edge = 1 / (1 + np.exp(np.clip((rest - 3720) / 40, -30, 30)))  # high lines of the series fill the edge
    strength = np.clip(rng.normal(0.25, 0.1, len(rest)), 0, None).astype(np.float32)
    return np.asarray(strength[:, None] * shape / peak * edge)


def _profile(rest: Array, centre: Array, sigma: Array) -> Array:
    """(B, N) Gaussians of unit area in angstrom; centre and sigma (B,) in angstrom."""
    distance = (rest - centre[:, None].astype(np.float32)) / sigma[:, None].astype(np.float32)
    return np.exp(-0.5 * distance * distance) / (sigma[:, None] * np.sqrt(2 * np.pi)).astype(np.float32)


def _add_broad(flux: Array, rng: Generator, rest: Array, power: Array, activity: Array) -> None:
    """Each line a broad base and a narrower core, high ionisation shifted to the blue (Richards et al. 2011)."""
    count = len(flux)
    wind, breadth = rng.gamma(1.5, 400, count), 10 ** rng.normal(0, 0.13, count)
    high = {"C IV 1549", "Si IV 1398", "He II 1640", "N V 1240", "O VI 1034"}
    for name, (centre, width, fwhm) in BROAD.items():
        in_view = (rest[:, 0] < centre * 1.06) & (rest[:, -1] > centre * 0.94)
        rows = np.flatnonzero(in_view)
        if len(rows) == 0:
            continue
        area = width * activity[rows] * 10 ** rng.normal(0, 0.12, len(rows))
        speed = fwhm / 2.3548 * breadth[rows] * 10 ** rng.normal(0, 0.06, len(rows))
        shift = -wind[rows] * (1.0 if name in high else 0.15)
        core = rng.uniform(0.25, 0.6, len(rows))
        middle = centre * (1 + shift / LIGHT)
        base_sigma = centre * np.hypot(1.35 * speed, SIGMA) / LIGHT
        core_sigma = centre * np.hypot(0.45 * speed, SIGMA) / LIGHT
        shape = (area * (1 - core))[:, None].astype(np.float32) * _profile(rest[rows], middle, base_sigma)
        shape += (area * core)[:, None].astype(np.float32) * _profile(rest[rows], middle, core_sigma)
        level = power[np.arange(count)[rows], np.argmin(np.abs(rest[rows] - centre), axis=1)]
        flux[rows] += level[:, None] * shape


def _add_narrow(flux: Array, rng: Generator, rest: Array, power: Array) -> None:
    """[O III] of 13 angstrom in the median, the others in proportion."""
    count = len(flux)
    strength = 13.0 * 10 ** rng.normal(0, 0.4, count)
    speed = rng.uniform(120, 350, count)
    for name, share in NARROW_SHARES.items():
        centre = NARROW[name]
        rows = np.flatnonzero((rest[:, 0] < centre) & (rest[:, -1] > centre))
        if len(rows) == 0:
            continue
        sigma = centre * np.hypot(speed[rows], SIGMA) / LIGHT
        level = power[rows, np.argmin(np.abs(rest[rows] - centre), axis=1)]
        area = (level * strength[rows] * share)[:, None].astype(np.float32)
        flux[rows] += area * _profile(rest[rows], np.full(len(rows), centre), sigma)


def _broad_absorption(flux: Array, rng: Generator, rest: Array) -> None:
    """An eighth of quasars: troughs of an outflow (Trump et al. 2006), in an eighth of those in Mg II too."""
    for row in np.flatnonzero(rng.random(len(flux)) < 0.12):
        lines = [1549.1, 1398.3, 1240.1, *([2799.1, 1857.4] if rng.random() < 0.12 else [])]
        for _ in range(rng.integers(1, 3)):
            speed, width, depth = rng.uniform(2500, 20_000), rng.uniform(700, 3500), rng.uniform(0.5, 4.0)
            for centre in lines:
                distance = (rest[row] / centre - 1) * LIGHT + speed  # km/s
                flux[row] *= np.exp(-depth * np.exp(-((distance / width) ** 4)))


def _narrow_absorption(flux: Array, rng: Generator, rest: Array) -> None:
    """Systems on the way: doublets of Mg II and C IV, a few Fe II lines, at any velocity below the quasar's."""
    for row in np.flatnonzero(rng.random(len(flux)) < 0.4):
        back = rng.uniform(0, 0.35)
        strength = rng.exponential(0.8)  # angstrom at rest
        for centre, share in (
            (2796.35, 1.0),
            (2803.53, 0.7),
            (2600.17, 0.5),
            (2382.77, 0.6),
            (1548.2, 0.6),
            (1550.8, 0.4),
        ):
            middle = centre * (1 - back)
            sigma = middle * np.hypot(SIGMA, 60) / LIGHT
            depth = strength * share / (sigma * 2.5066)
            flux[row] *= np.exp(-depth * np.exp(-0.5 * ((rest[row] - middle) / sigma) ** 2))


def _forest(flux: Array, rng: Generator, axis: Axis, redshift: Array) -> None:
    """Lyman alpha and beta forests, damped systems, and the Lyman limit of the first thick one.

    The optical depth is log-normal along the way, correlated over a pixel and a half, scaled to the mean of
    `lyman_depth`.
    """
    rows = np.flatnonzero(axis.wavelength[0] < LYMAN_ALPHA * (1 + redshift))
    if len(rows) == 0:
        return
    z = redshift[rows, None]
    field = smooth(rng.standard_normal((len(rows), len(axis.wavelength)), dtype=np.float32), 1.5)
    field /= field.std()
    contrast = np.exp(1.3 * field - 0.5)
    for centre, strength in ((LYMAN_ALPHA, 1.0), (LYMAN_BETA, 0.2)):
        where = axis.wavelength / centre - 1  # redshift of the gas
        depth = strength * 1.15 * lyman_depth(np.maximum(where, 0)).astype(np.float32)
        inside = where[None] < z - 0.005 * (1 + z)  # ionised by the quasar itself within 1,500 km/s
        flux[rows] *= np.exp(-np.where(inside, depth * (contrast if strength == 1 else contrast[:, ::-1]), 0))
    for row in rows:
        absorbers = redshift[row] - rng.exponential(0.5)
        limit = LYMAN_LIMIT * (1 + absorbers)
        flux[row] *= np.where(axis.wavelength < limit, np.exp(-rng.exponential(2.5)), 1.0)
        if rng.random() < 0.15:
            damped = redshift[row] - rng.uniform(0.0, 0.5)
            distance = axis.wavelength / (1 + damped) - LYMAN_ALPHA
            flux[row] *= np.exp(-rng.uniform(15, 100) / (distance**2 + 0.5))
