r"""Model spectra of stars: a black body behind hydrogen's jumps, lines by Saha and Boltzmann, molecular bands.

Legend: ``B`` stars, ``W`` pixels of the rest-frame grid, ``K`` lines, ``T`` temperatures of a table.

It is a sketch of a photosphere: one layer, LTE. What it has to have right is which lines a temperature shows, where
they lie, and roughly how strong and how wide they are.
"""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from spectra.lines import BANDS, ELEMENTS, STELLAR_LINES, StellarLine
from spectra.spectrum import air_to_vacuum

Array = np.ndarray

FIRST, STEP, SIZE = 3.3522, 1e-4, 6188  # the rest-frame grid: log10 angstrom, 2,250 to 9,357; 69 km/s a pixel
RESOLUTION = 1800.0  # LAMOST's, with its slit at 2/3; SDSS's is 1,500 to 2,500
LIGHT = 299_792.458  # km/s
SIGMA = LIGHT / RESOLUTION / 2.3548  # km/s, of a line that is narrow itself
WING_FWHM = (6.0, 18.0, 70.0)  # angstrom, of pressure-broadened wings: giants, dwarfs, white dwarfs
TABLE = np.geomspace(2500, 50_000, 160)  # K


def rest_grid() -> Array:
    """(W,) vacuum angstrom."""
    return 10 ** (FIRST + STEP * np.arange(SIZE))


def electron_pressure(temperature: Array) -> Array:
    """Of dwarfs' photospheres in dyn/cm^2 (after Gray 2005, tables of chapter 9); giants have a tenth and less."""
    logs = np.interp(
        np.log10(temperature), np.log10([2500, 3500, 4500, 5800, 7000, 8500, 10_000, 20_000, 50_000]),
        [-2.0, -0.7, 0.2, 1.3, 2.1, 2.7, 2.9, 3.3, 3.6],
    )  # fmt: skip
    return np.asarray(10**logs)


def stage_fractions(element: str, temperature: Array, pressure: Array) -> tuple[Array, Array]:
    r"""Fractions of an element that are neutral and once ionised (Saha 1920, in the form of Gray 2005, eq. 1.20):

    .. math:: \log \frac{N_{r+1}}{N_r} P_e = -\theta I + 2.5 \log T - 0.1762 + \log\frac{u_{r+1}}{u_r},
        \quad \theta = 5040 / T
    """
    data = ELEMENTS[element]
    theta = 5040 / temperature
    ratios = []
    for stage, energy in enumerate(data.ionisation):
        weights = np.log10(2 * data.partition[stage + 1] / data.partition[stage])
        log = -theta * energy + 2.5 * np.log10(temperature) - 0.4772 + weights - np.log10(pressure)
        ratios.append(10 ** np.clip(log, -30, 30))
    first, second = ratios
    total = 1 + first + first * second
    return 1 / total, first / total


def continuous_opacity(temperature: Array, pressure: Array) -> Array:
    """cm^2 a hydrogen nucleus at 5,000 angstrom: H minus (Gray 2005, eq. 8.12), hydrogen's third level, electrons."""
    theta = 5040 / temperature
    neutral, _ = stage_fractions("H", temperature, pressure)
    minus = 4.158e-10 * 3e-17 * pressure * theta**2.5 * 10 ** (0.754 * theta)
    third = 5.4e-18 * 9 * 10 ** (-12.088 * theta)
    return np.asarray(neutral * (minus + third) + (1 - neutral) * 6.65e-25 + 1e-28)


def equivalent_widths(line: StellarLine, temperature: Array, pressure: Array, metallicity: float = 0.0) -> Array:
    r"""Core and wing (2, T) of a line in angstrom, by the curve of growth (Gray 2005, ch. 16).

    .. math:: \eta = \frac{N_l}{N_H} \frac{0.01497\, f\lambda / v}{\kappa}, \quad
        W_{core} = \Delta\lambda\sqrt\pi \frac{\eta}{\sqrt{1 + \pi\eta^2 / 4\ln(e + \eta)}}, \quad
        W_{wing} = \Delta\lambda \sqrt{\pi a \eta}
    """
    theta = 5040 / temperature
    data = ELEMENTS[line.element]
    fraction = stage_fractions(line.element, temperature, pressure)[line.stage - 1]
    lower = fraction * line.strength / data.partition[line.stage - 1] * 10 ** (-theta * line.excitation)
    heavy = line.element not in ("H", "He")
    abundance = 10 ** (data.abundance - 12 + (metallicity if heavy else 0.0))
    velocity = 2.0 if heavy else 12.0  # km/s, thermal and turbulent
    centimetre = line.wavelength * 1e-8
    eta = abundance * lower * 0.01497 * centimetre / (velocity * 1e5) / continuous_opacity(temperature, pressure)
    doppler = line.wavelength * velocity / LIGHT
    damping = 0.02 if heavy else 0.012
    if line.element == "H":  # linear Stark effect: the wings of higher members are wider and make up for less strength
        damping *= min(2.0 / line.strength, 30.0) ** 0.9
    core = doppler * np.sqrt(np.pi) * eta / np.sqrt(1 + np.pi * eta**2 / (4 * np.log(np.e + eta)))
    wing = doppler * np.sqrt(np.pi * damping * eta) * eta / (eta + 30)
    return np.stack([core, np.minimum(wing, 40.0)])


def lorentz(distance: Array, fwhm: float) -> Array:
    """Of unit area, distance and FWHM in angstrom."""
    return np.asarray(fwhm / (2 * np.pi) / (distance**2 + (fwhm / 2) ** 2))


@dataclass(frozen=True)
class StarTypes:
    """What is drawn for each of B stars."""

    temperature: Array  # K
    gravity: Array  # 0 supergiant or giant, 1 dwarf, 2 white dwarf: weights between WING_FWHM
    metallicity: Array  # dex
    pressure_shift: Array  # dex of electron pressure: giants below 0
    carbon: Array  # 0 or 1: carbon star
    emission: Array  # angstrom of H alpha emission
    hydrogen: Array  # factor on hydrogen's lines: 0 for DB and DC white dwarfs
    helium: Array  # factor on helium's lines


class StarModel:
    """Profiles of all lines and bands on the rest-frame grid, once; then a star is a product with its strengths.

    A table holds the equivalent widths over temperature at three electron pressures. Metallicity multiplies the weak
    cores of metals directly and their wings by its root, as the curve of growth does.
    """

    def __init__(self) -> None:
        self.wavelength = rest_grid()
        wave = self.wavelength
        self.metal = np.array([line.element not in ("H", "He") for line in STELLAR_LINES])
        self.hydrogen = np.array([line.element == "H" for line in STELLAR_LINES])
        self.helium = np.array([line.element == "He" for line in STELLAR_LINES])
        cores, wings = [], []
        for line in STELLAR_LINES:
            distance = wave - line.wavelength
            sigma = line.wavelength * SIGMA / LIGHT
            cores.append(np.exp(-0.5 * (distance / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi)))
            wings.append([lorentz(distance, fwhm) for fwhm in WING_FWHM])
        self.cores = np.array(cores, np.float32)  # (K, W), 1/angstrom
        self.wings = np.array(wings, np.float32).transpose(1, 0, 2).copy()  # (3, K, W)
        self.widths = np.stack(
            [
                np.stack(
                    [equivalent_widths(line, TABLE, electron_pressure(TABLE) * 10**shift) for line in STELLAR_LINES]
                )
                for shift in (-1.5, 0.0, 1.5)
            ]
        )  # (3, K, 2, T)
        self.bands, self.molecules = self._bands()

    def _bands(self) -> tuple[Array, list[str]]:
        """(M, W) optical depth of each molecule at unit strength."""
        molecules = sorted({band.molecule for band in BANDS})
        depth = np.zeros((len(molecules), SIZE), np.float32)
        for band in BANDS:
            distance = (self.wavelength - air_to_vacuum(np.array(band.head))) * np.sign(band.width)
            edge = 1 / (1 + np.exp(-np.clip(distance / 1.5, -30, 30)))  # the head, as sharp as the instrument
            tail = np.exp(-np.clip(distance, 0, None) / abs(band.width))
            depth[molecules.index(band.molecule)] += band.weight * edge * tail
        return depth, molecules

    def strengths(self, stars: StarTypes) -> tuple[Array, Array]:
        """Equivalent widths of cores and wings: (B, K) each, angstrom."""
        place = np.interp(np.log(stars.temperature), np.log(TABLE), np.arange(len(TABLE)))
        low = np.minimum(place.astype(int), len(TABLE) - 2)
        part = (place - low)[:, None, None]
        shift = np.clip(stars.pressure_shift / 1.5, -1, 1)
        below = np.minimum(np.floor(shift).astype(int) + 1, 1)  # between which two of the three pressures
        mix = (shift + 1 - below)[:, None, None]
        table = self.widths
        found = sum(
            weight * ((1 - part) * table[below + step, :, :, low] + part * table[below + step, :, :, low + 1])
            for step, weight in ((0, 1 - mix), (1, mix))
        )  # (B, K, 2)
        core, wing = found[..., 0], found[..., 1]
        metals = 10 ** (stars.metallicity[:, None] * np.where(self.metal, 1.0, 0.0))
        factor = np.where(self.hydrogen, stars.hydrogen[:, None], np.where(self.helium, stars.helium[:, None], 1.0))
        return core * metals * factor, wing * np.sqrt(metals) * factor

    def continuum(self, stars: StarTypes, rng: Generator) -> Array:
        """(B, W): Planck's law, the Balmer and Paschen jumps, and the haze of weak metal lines in the blue."""
        temperature = stars.temperature[:, None].astype(np.float32)
        wave = self.wavelength.astype(np.float32)
        planck = (wave / 5500) ** -5 / np.expm1(np.minimum(1.43878e8 / (wave * temperature), 80))
        log_t = np.log10(stars.temperature)
        jump = 0.5 * np.exp(-(((log_t - 3.98) / 0.17) ** 2)) * stars.hydrogen * (stars.gravity < 1.5)
        below = 1 / (
            1 + np.exp(np.clip((wave - 3680) / 15, -30, 30))
        )  # lines crowd into a continuum before the limit at 3,647
        paschen = 1 / (1 + np.exp(np.clip((wave - 8260) / 30, -30, 30)))
        depth = (np.log(10) * jump)[:, None].astype(np.float32) * (below + 0.12 * paschen)
        haze = np.interp(log_t, [3.4, 3.55, 3.65, 3.76, 3.85, 4.0, 4.2], [0.9, 0.7, 0.4, 0.14, 0.05, 0.01, 0.0])
        haze = haze * 10 ** (0.5 * stars.metallicity) * (stars.gravity < 1.5)
        forest = self._haze_pattern(rng, len(haze))
        crowd = 1 + 0.55 / (
            1 + np.exp(np.clip((wave - 3985) / 12, -30, 30))
        )  # neutral metals crowd below 4,000: the break
        depth = depth + haze[:, None].astype(np.float32) * crowd * np.minimum((4500 / wave) ** 5, 5.0) * forest
        return np.asarray(planck * np.exp(-depth))

    def _haze_pattern(self, rng: Generator, count: int) -> Array:
        """(B, W) of mean 1: thousands of weak lines that are not listed, a new comb for every star.

        White noise through the instrument's line profile, squared: positive, and as rough as blended lines are.
        """
        noise = rng.standard_normal((min(count, 32), SIZE + 8), dtype=np.float32)
        kernel = np.exp(-0.5 * (np.arange(-4, 5) * 69 / SIGMA) ** 2).astype(np.float32)
        kernel /= np.sqrt((kernel**2).sum())
        comb = np.stack([np.convolve(row, kernel, "valid") for row in noise]) ** 2  # (32, W)
        comb = 0.7 + 0.3 * np.minimum(comb, 4.0)
        return comb[rng.integers(len(comb), size=count)]

    def molecular_strengths(self, stars: StarTypes) -> Array:
        """(B, M) optical depths: exponential in 1 / T as dissociation is, for cool stars of each chemistry."""
        t, metals = stars.temperature, 10**stars.metallicity
        dwarf, carbon = np.minimum(stars.gravity, 1.0) * (stars.gravity < 1.5), stars.carbon
        cool, degenerate = np.exp(-np.maximum(t - 2900, 0) / 360), stars.gravity > 1.5
        strength = {
            "TiO": 5.0 * cool * metals**0.7,
            "VO": 1.5 * np.exp(-np.maximum(t - 2600, 0) / 250),
            "CaH": 2.5 * np.exp(-np.maximum(t - 2900, 0) / 450) * dwarf,
            "MgH": 0.75 * np.exp(-(((t - 4000) / 700) ** 2)) * (0.3 + 0.7 * dwarf),
            "CH": 0.8 * np.exp(-(((t - 4900) / 800) ** 2)) * metals**0.5,
            "CN": 0.7 * np.exp(-(((t - 4500) / 700) ** 2)) * metals * (1.2 - dwarf),
            "C2": np.zeros_like(t),
        }
        for name, value in {"TiO": 0.0, "VO": 0.0, "CaH": 0.0, "C2": 1.2, "CN": 2.0, "CH": 1.5}.items():
            strength[name] = np.where(carbon > 0, value * carbon, strength[name])
        return np.stack([np.where(degenerate & (carbon == 0), 0, strength[m]) for m in self.molecules], axis=1)

    def __call__(self, stars: StarTypes, rng: Generator) -> Array:
        """Rest-frame spectra (B, W) float32, of no unit."""
        core, wing = self.strengths(stars)
        depth = core.astype(np.float32) @ self.cores
        weights = np.stack([np.clip(1 - np.abs(stars.gravity - i), 0, 1) for i in range(3)])  # (3, B), sums to 1
        for share, profiles in zip(weights, self.wings, strict=True):
            rows = np.flatnonzero(share)
            boost = 1.0 + 2.0 * (profiles is self.wings[2])  # the pressure of white dwarfs fills their wings
            depth[rows] += (boost * share[rows, None] * wing[rows]).astype(np.float32) @ profiles
        depth += self.molecular_strengths(stars).astype(np.float32) @ self.bands
        # a line formed in one layer does not go black: its core shows the temperature of the surface
        flux = self.continuum(stars, rng) * (0.12 + 0.88 * np.exp(-depth))
        return self._with_emission(flux, stars)

    def _with_emission(self, flux: Array, stars: StarTypes) -> Array:
        """Balmer and helium emission of active dwarfs, Be stars and cataclysmic variables."""
        rows = np.flatnonzero(stars.emission > 0)
        if len(rows) == 0:
            return flux
        wave = self.wavelength.astype(np.float32)
        shares = (
            (6564.6, 1.0),
            (4862.7, 0.7),
            (4341.7, 0.5),
            (4102.9, 0.4),
            (5877.2, 0.2),
            (4687.0, 0.12),
            (6679.9, 0.1),
        )
        for row in rows:
            broad = 60.0 if stars.emission[row] < 20 else 500.0  # km/s: a chromosphere or shell, or a disc
            level = np.interp([w for w, _ in shares], wave, flux[row])
            for (centre, share), height in zip(shares, level, strict=True):
                sigma = centre * np.hypot(SIGMA, broad) / LIGHT
                area = height * stars.emission[row] * share
                flux[row] += area / (sigma * np.sqrt(2 * np.pi)) * np.exp(-0.5 * ((wave - centre) / sigma) ** 2)
        return flux


def draw_stars(rng: Generator, count: int) -> tuple[StarTypes, Array]:
    """Stars as a survey meets them, the rare kinds made less rare; and the kind of each, as text.

    Half follow LAMOST's own mixture of F, G and K, half are even in log temperature from 2,700 to 35,000 K.
    """
    survey = 10 ** np.clip(rng.normal(3.735, 0.075, count), 3.44, 4.5)
    even = 10 ** rng.uniform(np.log10(2700), np.log10(35_000), count)
    temperature = np.where(rng.random(count) < 0.5, survey, even)
    giant = rng.random(count) < np.interp(temperature, [3000, 4000, 5000, 6000], [0.3, 0.6, 0.4, 0.1])
    gravity = np.where(giant, rng.uniform(0, 0.4, count), rng.uniform(0.6, 1.1, count))
    metallicity = np.clip(rng.normal(-0.3, 0.45, count), -2.5, 0.5)
    emission = np.where(
        (rng.random(count) < 0.25) & (temperature < 3600) | (rng.random(count) < 0.05) & (temperature > 12_000),
        rng.exponential(5.0, count), 0.0,
    )  # fmt: skip
    hydrogen, helium, carbon = np.ones(count), np.ones(count), np.zeros(count)
    kind = np.array([letter(t) for t in temperature], dtype="<U12")
    rare = rng.random(count)
    white = rare < 0.08
    temperature = np.where(white, 10 ** rng.uniform(np.log10(5500), np.log10(40_000), count), temperature)
    gravity, emission = np.where(white, 2.0, gravity), np.where(white, 0.0, emission)
    metallicity = np.where(white, np.where(rng.random(count) < 0.1, -2.0, -6.0), metallicity)  # a tenth is polluted
    without = white & (rng.random(count) < 0.3)  # DB where hot enough for helium, DC below
    hydrogen = np.where(without, 0.0, hydrogen)
    helium = np.where(without, 8.0, np.where(white, 0.0, helium))
    carbon_star = (rare >= 0.08) & (rare < 0.095)
    temperature = np.where(carbon_star, rng.uniform(3300, 5000, count), temperature)
    carbon = np.where(
        carbon_star, rng.uniform(0.3, 1.3, count), np.where(without & (rng.random(count) < 0.2), 0.4, carbon)
    )
    cataclysmic = (rare >= 0.095) & (rare < 0.105)
    temperature = np.where(cataclysmic, rng.uniform(9000, 25_000, count), temperature)
    emission = np.where(cataclysmic, rng.uniform(20, 120, count), emission)
    hydrogen = np.where(cataclysmic, 0.1, hydrogen)
    for rows, name in ((white, "white dwarf"), (carbon_star, "carbon"), (cataclysmic, "cataclysmic")):
        kind[rows] = name
    shift = np.where(gravity < 0.5, -1.2, rng.normal(0, 0.2, count)) + np.where(white, 1.5, 0)
    return StarTypes(temperature, gravity, metallicity, shift, carbon, emission, hydrogen, helium), kind


def letter(temperature: float) -> str:
    """Spectral type of a temperature in K: O B A F G K M (Pecaut & Mamajek 2013)."""
    for name, low in zip("OBAFGK", (31_500, 10_000, 7300, 5980, 5300, 3900), strict=True):
        if temperature >= low:
            return name
    return "M"
