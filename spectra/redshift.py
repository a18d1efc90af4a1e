r"""A rough redshift by cross-correlation with noise-free templates of the simulator (Tonry & Davis 1979).

Legend: ``L`` bins of the data, ``W`` bins of a template, ``Z`` trial redshifts.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from spectra.galaxies import smooth
from spectra.lines import NARROW
from spectra.preprocess import Preprocessing, fill_gaps
from spectra.quasars import Axis, quasars
from spectra.simulator import models
from spectra.spectrum import Spectrum
from spectra.stars import FIRST, SIZE, STEP, StarTypes

Array = np.ndarray

GRID = Preprocessing(step=3e-4, size=1300)  # 207 km/s a bin
RANGES = {"star": (-0.004, 0.004), "galaxy": (-0.002, 0.65), "qso": (0.1, 4.6)}
SMOOTHING = {"star": 25.0, "galaxy": 25.0, "qso": 90.0}  # bins, of the continuum that is taken away
QSO_FIRST, QSO_SIZE = 2.83, 4000  # 676 to 10,715 angstrom at rest

# what a plot shows of each class: name -> vacuum angstrom at rest
PLOTTED = {
    "star": {
        "Ca II K": 3934.78, "Ca II H": 3969.59, "H delta": 4102.89, "H gamma": 4341.68, "H beta": 4862.68,
        "Mg I b": 5175.3, "Na I D": 5894.6, "H alpha": 6564.61, "TiO 7054": 7056.0, "Ca II 8542": 8544.44,
    },
    "galaxy": {
        "[O II]": 3728.48, "Ca II K": 3934.78, "Ca II H": 3969.59, "G band": 4305.6, "H beta": 4862.68,
        "[O III] 4959": NARROW["[O III] 4959"], "[O III] 5007": NARROW["[O III] 5007"], "Mg I b": 5175.3,
        "Na I D": 5894.6, "H alpha": 6564.61, "[N II]": NARROW["[N II] 6583"], "[S II]": 6725.5,
    },
    "qso": {
        "Ly alpha": 1215.67, "N V": 1240.1, "Si IV": 1398.3, "C IV": 1549.1, "C III]": 1908.7, "Mg II": 2799.1,
        "H gamma": 4341.68, "H beta": 4862.68, "[O III] 5007": NARROW["[O III] 5007"], "H alpha": 6564.61,
    },
    "unknown": {},
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Template:
    """Continuum-free flux (W,) on a log axis from ``first``, zero mean; the mask (W,) is 1 where it is defined."""

    flux: Array
    first: float


def high_pass(rows: Array, sigma: float) -> Array:
    """Rows less their Gaussian mean over sigma bins."""
    return rows - smooth(rows, sigma)


def _coarse(rows: Array) -> Array:
    """Three pixels of the models' rest-frame grid to one bin of ``GRID``."""
    size = rows.shape[1] // 3
    return np.asarray(rows[:, : 3 * size].reshape(len(rows), size, 3).mean(axis=2))


@lru_cache(maxsize=3)
def templates(name: str) -> tuple[Template, ...]:
    """Of a class, made once a process (a second or two)."""
    rng = np.random.default_rng(0)
    stars, galaxies, _ = models()
    if name == "qso":
        wavelength = 10 ** (QSO_FIRST + GRID.step * np.arange(QSO_SIZE))
        rows = quasars(rng, Axis(wavelength, GRID.step), np.zeros(96))
        rows, first = np.mean(rows / np.median(rows, axis=1, keepdims=True), axis=0, keepdims=True), QSO_FIRST
    elif name == "galaxy":
        kinds = np.repeat(np.array(["early", "late", "starburst"]), 12)
        rows = galaxies(rng, kinds)
        rows = (rows / np.median(rows, axis=1, keepdims=True)).reshape(3, 12, SIZE).mean(axis=1)
        rows, first = _coarse(rows), FIRST + STEP
    else:
        temperature = np.array([2900, 3300, 3800, 4400, 5000, 5800, 6800, 8200, 10_000, 15_000, 28_000], float)
        ones, none = np.ones_like(temperature), np.zeros_like(temperature)
        rows = stars(StarTypes(temperature, ones, none, none, none, none, ones, ones), rng)
        rows, first = _coarse(rows / np.median(rows, axis=1, keepdims=True)), FIRST + STEP
    flat = high_pass(rows / smooth(rows, SMOOTHING[name]), SMOOTHING[name])
    return tuple(Template(row.astype(np.float64), first) for row in flat)


def estimate(spectrum: Spectrum, name: str) -> tuple[float, float]:
    r"""Redshift and the S/N of its template, for a spectrum of that class.

    The template is scaled at every trial redshift; what its best scale takes from chi squared is

    .. math:: \Delta\chi^2(z) = \frac{(\sum w\, d\, t_z)^2}{\sum w\, t_z^2}, \quad w = 1/\sigma^2

    computed for all z at once by two Fourier transforms. Only positive scales count.

    Returns:
        z, rounded to a bin (207 km/s), and the root of its :math:`\Delta\chi^2`; nan and 0 for unknown, or without an
        axis.
    """
    if name not in RANGES or spectrum.wavelength is None or len(spectrum) < 2:
        return float("nan"), 0.0
    ivar = None if spectrum.ivar is None else spectrum.ivar[None]
    flux, errors, covered = GRID.resample(spectrum.wavelength, spectrum.flux[None], ivar, ~spectrum.mask[None])
    if not covered.any():
        return float("nan"), 0.0
    flux = fill_gaps(flux, covered).astype(np.float64)
    unit = float(np.median(np.abs(flux))) or 1.0  # the floors below are for fluxes about 1
    flux, errors = flux / unit, errors * unit**2
    level = smooth(flux, SMOOTHING[name])
    noise = 1.4826 / np.sqrt(2) * np.median(np.abs(np.diff(flux, axis=1))) + 1e-12
    weight = (errors[0] if ivar is not None else np.full(GRID.size, noise**-2)) * covered[0]
    level = np.maximum(level, 0.1 * np.median(np.abs(flux)) + 1e-12)
    data = np.clip(high_pass(flux / level, SMOOTHING[name])[0], -5, 20)
    weight = weight * level[0] ** 2
    # a model is good to a few percent and no pixel may outvote the rest
    weight = 1 / (1 / np.maximum(weight, 1e-12) + 0.03**2) * covered[0]
    best = (-np.inf, float("nan"))
    for template in templates(name):
        best = max(best, _best_shift(data, weight, template, RANGES[name]))
    return best[1], float(np.sqrt(max(best[0], 0.0)))


def _best_shift(data: Array, weight: Array, template: Template, limits: tuple[float, float]) -> tuple[float, float]:
    """(chi squared taken away, redshift) of the best shift of one template."""
    size = 1 << (len(data) + len(template.flux)).bit_length()

    def correlate(a: Array, t: Array) -> Array:
        return np.fft.irfft(np.fft.rfft(a, size) * np.conj(np.fft.rfft(t, size)), size)

    cross = correlate(weight * data, template.flux)
    power = correlate(weight, template.flux**2)
    lags = np.fft.fftfreq(size, 1 / size)  # bins by which the template is moved to the right
    redshift = 10 ** (GRID.step * lags + GRID.first - template.first) - 1
    inside = (redshift >= limits[0]) & (redshift <= limits[1])
    full = power > 0.02 * power.max()
    gain = np.where(inside & full & (cross > 0), cross**2 / np.maximum(power, 1e-12), -np.inf)
    place = int(gain.argmax())
    return float(gain[place]), float(redshift[place])
