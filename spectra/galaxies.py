r"""Model spectra of galaxies: populations of the model stars, dust, motion, and the lines of their gas.

Legend: ``B`` galaxies, ``P`` populations, ``W`` pixels of the rest-frame grid.
"""

import numpy as np
from numpy.random import Generator

from spectra.lines import NARROW
from spectra.stars import FIRST, LIGHT, SIGMA, SIZE, STEP, StarModel, StarTypes

Array = np.ndarray

# Age in Gyr -> temperature in K of the turn-off (Schaller et al. 1992, solar), share of the light at 5,500 angstrom
# that comes from the main sequence near it, from cooler dwarfs, from giants (in the spirit of Bruzual & Charlot 2003)
AGES = (0.003, 0.01, 0.03, 0.1, 0.3, 0.7, 1.5, 3.0, 6.0, 11.0)
TURN_OFF = (34_000, 24_000, 17_000, 13_000, 10_000, 8600, 7300, 6600, 6100, 5800)
SHARES = (
    (0.97, 0.02, 0.01), (0.80, 0.02, 0.18), (0.85, 0.03, 0.12), (0.85, 0.05, 0.10), (0.78, 0.07, 0.15),
    (0.68, 0.10, 0.22), (0.55, 0.15, 0.30), (0.48, 0.15, 0.37), (0.40, 0.18, 0.42), (0.33, 0.20, 0.47),
)  # fmt: skip
METALLICITIES = (-1.2, -0.5, 0.0, 0.3)
DISPERSIONS = (90.0, 160.0, 250.0)  # km/s


def calzetti(wavelength: Array) -> Array:
    """Attenuation in magnitudes a unit of E(B-V) (Calzetti et al. 2000, eq. 4); wavelength in angstrom."""
    micron = np.asarray(wavelength) / 1e4
    blue = 2.659 * (-2.156 + 1.509 / micron - 0.198 / micron**2 + 0.011 / micron**3) + 4.05
    red = 2.659 * (-1.857 + 1.040 / micron) + 4.05
    return np.where(micron < 0.63, blue, red)


def gaussian_kernel(sigma: float) -> Array:
    """Of unit sum; sigma in pixels."""
    reach = max(1, int(np.ceil(4 * sigma)))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / max(sigma, 1e-3)) ** 2)
    return np.asarray(kernel / kernel.sum())


def smooth(rows: Array, sigma: float) -> Array:
    """Rows convolved with a Gaussian of sigma pixels; ends are held. From 8 pixels on, three boxes in its place."""
    if sigma > 8:
        return _boxes(rows, sigma)
    kernel = gaussian_kernel(sigma).astype(rows.dtype)
    reach = len(kernel) // 2
    padded = np.pad(rows, ((0, 0), (reach, reach)), mode="edge")
    total = np.zeros_like(rows)
    for i, weight in enumerate(kernel):  # a few dozen shifted sums beat a call a row
        total += weight * padded[:, i : i + rows.shape[1]]
    return total


def _boxes(rows: Array, sigma: float) -> Array:
    """Three running means whose variances add up to sigma squared: a Gaussian to a tenth of its peak."""
    reach = round((np.sqrt(4 * sigma**2 + 1) - 1) / 2)  # a box of n = 2 r + 1 pixels has the variance (n^2 - 1) / 12
    for _ in range(3):
        padded = np.pad(rows.astype(np.float64), ((0, 0), (reach + 1, reach)), mode="edge")
        total = np.cumsum(padded, axis=1)
        rows = ((total[:, 2 * reach + 1 :] - total[:, : -2 * reach - 1]) / (2 * reach + 1)).astype(rows.dtype)
    return rows


class GalaxyModel:
    """Populations of one age, at every age, metallicity and velocity dispersion, normalised at 5,500 angstrom."""

    def __init__(self, stars: StarModel, rng: Generator) -> None:
        self.wavelength = stars.wavelength
        self.blue = calzetti(self.wavelength).astype(np.float32)
        rows = [self._population(stars, rng, i, metallicity) for i in range(len(AGES)) for metallicity in METALLICITIES]
        sharp = np.array(rows, np.float32)  # (P, W)
        self.populations = np.stack([smooth(sharp, d / LIGHT / STEP / np.log(10)) for d in DISPERSIONS])  # (3, P, W)

    def _population(self, model: StarModel, rng: Generator, age: int, metallicity: float) -> Array:
        """(W,): forty stars near the turn-off, down the main sequence and up the giant branch."""
        top, (near, cool, giants) = TURN_OFF[age], SHARES[age]
        count = 40
        place = rng.random((3, count))
        turn_off = top * (1 - 0.25 * place[0])
        dwarfs = np.minimum(top * 0.8, 3600 + 2200 * place[1])
        giant = 3500 + (1300 if AGES[age] > 0.05 else 700) * np.sqrt(place[2])
        temperature = np.concatenate([turn_off, dwarfs, giant])
        gravity = np.concatenate([np.full(count, 1.0), np.full(count, 1.0), np.full(count, 0.2)])
        ones, none = np.ones(3 * count), np.zeros(3 * count)
        types = StarTypes(
            temperature, gravity, none + metallicity, np.where(gravity < 0.5, -1.2, 0.0), none, none, ones, ones
        )
        flux = model(types, rng)
        flux /= flux[:, _pixel(5450) : _pixel(5550)].mean(axis=1, keepdims=True)
        weight = np.repeat([near, cool, giants], count) / count
        return np.asarray(weight @ flux)

    def __call__(self, rng: Generator, kind: Array) -> Array:
        """Rest-frame spectra (B, W) of galaxies of each kind: ``early``, ``late`` or ``starburst``."""
        count = len(kind)
        weights = np.zeros((count, len(AGES), len(METALLICITIES)))
        early, burst = kind == "early", kind == "starburst"
        for _ in range(3):  # the old body, a younger share, some of the youngest
            old, share = rng.random(count), rng.gamma(1.0, 1.0, count)
            age = np.where(early, 7 + 3 * old**0.7, np.where(burst, 10 * old**2.2, 9.99 * old**0.9)).astype(int)
            age = np.clip(age, 0, len(AGES) - 1)
            metal = np.where(early, rng.integers(1, 4, count), rng.integers(0, 4, count))
            weights[np.arange(count), age, metal] += share
        weights = (weights / weights.sum(axis=(1, 2), keepdims=True)).reshape(count, -1).astype(np.float32)
        flux = np.empty((count, SIZE), np.float32)
        dispersion = np.where(early, rng.integers(1, 3, count), rng.integers(0, 2, count))
        for i, populations in enumerate(self.populations):
            rows = dispersion == i
            flux[rows] = weights[rows] @ populations
        dust = np.where(early, rng.exponential(0.04, count), rng.exponential(0.2, count)).clip(0, 1.2)
        flux *= np.exp((-0.4 * np.log(10) * 0.44 * dust)[:, None].astype(np.float32) * self.blue)
        self._add_gas(flux, rng, early, burst, dust)
        return flux

    def _add_gas(self, flux: Array, rng: Generator, early: Array, burst: Array, dust: Array) -> None:
        """Lines of H II regions (and of a few active nuclei), scaled to an equivalent width of H alpha."""
        count = len(flux)
        width = np.where(burst, 10 ** rng.normal(1.95, 0.35, count), 10 ** rng.normal(1.2, 0.35, count))
        width = np.where(early, np.where(rng.random(count) < 0.4, rng.exponential(1.5, count), 0.0), width)
        alpha = width * flux[:, _pixel(6530) : _pixel(6600)].mean(axis=1)
        strengths = line_ratios(rng, count, early | (rng.random(count) < 0.08))
        speed = np.hypot(SIGMA, np.where(early, 150.0, rng.uniform(30, 120, count)))  # km/s
        names = list(NARROW)
        centres = np.array([NARROW[name] for name in names])
        extinction = 10 ** (-0.4 * dust[:, None] * (calzetti(centres) - calzetti(np.array(6564.6))))
        for k, name in enumerate(names):
            add_line(flux, centres[k], alpha * strengths[name] * extinction[:, k], speed)


def line_ratios(rng: Generator, count: int, active: Array) -> dict[str, Array]:
    r"""Fluxes over that of H alpha, before dust: case B (Osterbrock & Ferland 2006, table 4.4) and the sequence of
    H II regions, :math:`\log([O III]/H\beta) = 0.61 / (\log([N II]/H\alpha) - 0.05) + 1.3` less 0.15 (Kauffmann et
    al. 2003).
    """
    nitrogen = np.clip(rng.normal(-0.6, 0.3, count), -1.6, -0.25)  # log [N II] / H alpha
    oxygen = np.clip(0.61 / (nitrogen - 0.05) + 1.15 + rng.normal(0, 0.12, count), -1.2, 0.85)
    nitrogen = np.where(active, rng.normal(0.0, 0.15, count), nitrogen)
    oxygen = np.where(active, rng.normal(0.5, 0.3, count), oxygen)
    beta = np.full(count, 1 / 2.86)
    o3, n2 = 10**oxygen * beta, 10**nitrogen
    o2 = beta * 10 ** (0.45 + rng.normal(0, 0.15, count)) * np.where(nitrogen < -0.3, 1, 0.7)
    s2 = 10 ** (-0.55 + 0.3 * (nitrogen + 0.5) + rng.normal(0, 0.08, count))
    weak = np.where(active, 0.12, 0.02)
    return {
        "[O II] 3727": 0.45 * o2, "[O II] 3729": 0.55 * o2, "[Ne III] 3869": 0.09 * o3, "H zeta": 0.105 * beta,
        "H epsilon": 0.159 * beta, "H delta": 0.259 * beta, "H gamma": 0.468 * beta, "[O III] 4363": 0.012 * o3,
        "H beta": beta, "[O III] 4959": 0.335 * o3, "[O III] 5007": o3, "He I 5876": 0.12 * beta, "[O I] 6300": weak,
        "[N II] 6548": 0.33 * n2, "H alpha": np.ones(count), "[N II] 6583": n2, "[S II] 6716": 0.57 * s2,
        "[S II] 6731": 0.43 * s2, "[Ar III] 7136": 0.025 * o3, "[S III] 9069": 0.1 + 0.05 * o3,
        "Mg II 2798": np.zeros(count),
    }  # fmt: skip


def add_line(flux: Array, centre: float, area: Array, speed: Array, shift: Array | float = 0.0) -> None:
    """Add a Gaussian to rest-frame rows (B, W), each of its own area (flux x angstrom) and width (km/s).

    ``shift`` (km/s) moves its centre. Only the pixels within four of the widest sigma are touched.
    """
    pixel = (np.log10(centre) - FIRST) / STEP + np.asarray(shift) / (LIGHT * STEP * np.log(10))
    sigma = speed / (LIGHT * STEP * np.log(10))  # pixels
    reach = int(np.ceil(4 * np.max(sigma) + np.max(np.abs(pixel - np.mean(pixel)))))
    middle = int(np.round(np.mean(pixel)))
    low, high = max(0, middle - reach), min(SIZE, middle + reach + 1)
    if low >= high:
        return
    distance = (np.arange(low, high) - np.reshape(pixel, (-1, 1))) / sigma[:, None]
    per_pixel = centre * STEP * np.log(10)  # angstrom
    height = area / (sigma * np.sqrt(2 * np.pi) * per_pixel)
    flux[:, low:high] += (height[:, None] * np.exp(-0.5 * distance**2)).astype(np.float32)


def _pixel(angstrom: float) -> int:
    return round((np.log10(angstrom) - FIRST) / STEP)
