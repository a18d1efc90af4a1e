r"""What a fibre spectrograph makes of a spectrum: throughput, sky, noise, splice, flux calibration, cosmic rays, masks.

Legend: ``B`` spectra, ``N`` pixels of the observed grid.
"""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from spectra.galaxies import smooth
from spectra.lines import SKY_LINES, TELLURIC
from spectra.spectrum import air_to_vacuum
from spectra.stars import LIGHT, SIGMA

Array = np.ndarray

OBSERVED_FIRST, OBSERVED_STEP, OBSERVED_SIZE = 3.5682, 1e-4, 3908  # LAMOST's own pixels: 3,700 to 9,097 angstrom
SPLICE = 5900.0  # angstrom, where the blue and the red arm meet


def observed_grid() -> Array:
    """(N,) vacuum angstrom."""
    return 10 ** (OBSERVED_FIRST + OBSERVED_STEP * np.arange(OBSERVED_SIZE))


@dataclass(frozen=True)
class Defects:
    """How badly each of B spectra came out; all (B,)."""

    splice: Array  # log factor of the red arm against the blue
    sky_error: Array  # share of the sky that was subtracted too much or too little
    blind: Array  # 0: nothing, 1: the blue arm shows nothing, 2: the red arm
    signal: Array  # factor on the object itself: 0 where the fibre missed it


def fine(count: int, rng: Generator) -> Defects:
    """Of spectra that a pipeline would classify."""
    wide = rng.random(count) < 0.1
    return Defects(
        rng.normal(0, np.where(wide, 0.15, 0.04), count), rng.normal(0, 0.025, count), np.zeros(count), np.ones(count)
    )


class Instrument:
    """Sky, telluric bands and throughput on the observed grid, once; then noise by the thousand.

    Throughput: the shape of LAMOST's two arms (Du et al. 2016, fig. 1), drawn anew in its edges for each spectrum.
    """

    def __init__(self) -> None:
        self.wavelength = observed_grid()
        wave = self.wavelength
        self.sky = np.zeros(OBSERVED_SIZE, np.float32)
        for centre, strength in SKY_LINES:
            sigma = centre * SIGMA / LIGHT
            self.sky += (strength * np.exp(-0.5 * ((wave - centre) / sigma) ** 2)).astype(np.float32)
        self.telluric = np.zeros(OBSERVED_SIZE, np.float32)
        for low, high, depth in TELLURIC:
            first, last = air_to_vacuum(np.array([low, high]))
            inside = (wave >= first) & (wave <= last)
            part = np.clip((wave - first) / (last - first), 0, 1)
            # rotational lines make a comb of two humps (oxygen's R and P branches) that a low resolution still shows
            comb = 0.75 + 0.35 * np.cos(2 * np.pi * part * (last - first) / 14.0)
            self.telluric += np.where(inside, depth * comb * (1 - part) ** 0.7 * np.minimum(part / 0.04, 1), 0)
        self.telluric = smooth(self.telluric[None], 1.2)[0].astype(np.float32)
        self.place = np.linspace(-1, 1, OBSERVED_SIZE, dtype=np.float32)

    def throughput(self, rng: Generator, count: int) -> Array:
        """(B, N) relative: two humps that meet in a dip at the splice."""
        wave = self.wavelength.astype(np.float32)[None]
        draw = rng.normal(1, 0.1, (count, 5)).astype(np.float32)
        blue = np.exp(-0.5 * (np.minimum(wave - 4900 * draw[:, :1] ** 0.2, 0) / (560 * draw[:, 1:2])) ** 2)
        blue *= 1 / (1 + np.exp((wave - 5870) / 60))
        red = np.exp(-0.5 * (np.maximum(wave - 7500 * draw[:, 2:3] ** 0.2, 0) / (1100 * draw[:, 3:4])) ** 2)
        red *= 1 / (1 + np.exp(-(wave - 5930) / (60 * draw[:, 4:5])))
        return np.maximum(blue + red, 0.03)

    def __call__(self, rng: Generator, flux: Array, snr: Array, defects: Defects) -> tuple[Array, Array]:
        """Flux (B, N) above the atmosphere, of any unit -> observed flux and ivar (B, N), in counts.

        Args:
            rng: of this call.
            flux: positive.
            snr: (B,) median S/N a pixel that it shall have.
            defects: what goes wrong.
        """
        count = len(flux)
        flux = smooth(flux, rng.uniform(0.3, 1.0))  # another focus for every call
        flux = flux / np.maximum(np.median(flux, axis=1, keepdims=True), 1e-12)
        flux = np.minimum(flux, 1e3) * np.exp(-rng.uniform(0, 1.2, (count, 1)) * self.telluric)
        signal = flux * defects.signal[:, None]
        through = self.throughput(rng, count)
        brightness = (10 ** rng.uniform(-1.3, 0.5, count) * (12 / np.maximum(snr, 0.3))).clip(0.02, 40)
        continuum = 1 + 0.5 * self.place + rng.uniform(-0.3, 0.5, (count, 1)) * self.place**2
        lines = rng.uniform(0.3, 1.5, (count, 1)) * (1 if rng.random() < 0.5 else 0.4) * self.sky
        sky = brightness[:, None] * np.maximum(continuum + lines, 0.1)
        reading = 0.02 * brightness[:, None] + 0.05
        variance = (signal * through + sky * through + reading) / through**2
        scale = np.median(flux / np.sqrt(variance), axis=1, keepdims=True) / np.maximum(snr, 1e-3)[:, None]
        sigma = (np.sqrt(variance) * scale).astype(np.float32)  # flux has median 1, so the S/N comes out as asked
        observed = signal + sigma * rng.standard_normal(flux.shape, dtype=np.float32)
        observed += self._sky_residual(rng, brightness, lines, defects.sky_error)
        observed, sigma = self._calibrate(rng, observed.astype(np.float32), sigma, defects)
        self._cosmic_rays(rng, observed, sigma)
        return self._report(rng, observed, sigma, snr, lines)

    def _sky_residual(self, rng: Generator, brightness: Array, lines: Array, error: Array) -> Array:
        """Lines left over with a shifted wavelength scale: the difference of two profiles."""
        move = rng.normal(0, 0.12, len(lines))
        slope = np.gradient(lines, axis=1)
        wrong = error[:, None] * (1 + lines) + (move * np.abs(error) * 8)[:, None] * slope
        return np.asarray(brightness[:, None] * wrong, np.float32)

    def _calibrate(self, rng: Generator, flux: Array, sigma: Array, defects: Defects) -> tuple[Array, Array]:
        """Relative flux calibration: smooth errors of each arm, a step between them, a blind arm."""
        count, red = len(flux), self.wavelength >= SPLICE
        factor = np.zeros_like(flux)
        for order, size in enumerate((0.45, 0.25, 0.12, 0.06), start=1):
            factor += rng.normal(0, size, (count, 1)).astype(np.float32) * np.cos(order * np.arccos(self.place))
        reach = rng.uniform(80, 400, (count, 1))  # angstrom, of the blue end, where there is least light to go by
        edge = np.exp(-(self.wavelength - self.wavelength[0]) / reach).astype(np.float32)
        factor += rng.normal(0, 0.5, (count, 1)).astype(np.float32) * edge
        dip = rng.normal(0, 0.15, (count, 1)) * np.exp(-(((self.wavelength - 5780) / rng.uniform(40, 130)) ** 2))
        factor += dip.astype(np.float32)  # little light in either arm
        factor[:, red] += defects.splice[:, None].astype(np.float32)
        factor = np.exp(np.clip(factor, -4, 4))
        for arm, pixels in ((1, ~red), (2, red)):
            rows = np.flatnonzero(defects.blind == arm)
            noise = rng.standard_normal((len(rows), pixels.sum()), dtype=np.float32)
            flux[np.ix_(rows, pixels)] = sigma[np.ix_(rows, pixels)] * noise
        return flux * factor, sigma * factor

    def _cosmic_rays(self, rng: Generator, flux: Array, sigma: Array) -> None:
        """One or two pixels far above the noise, not flagged: 0.7 a spectrum."""
        for row in np.flatnonzero(rng.random(len(flux)) < 0.5):
            for _ in range(1 + rng.poisson(0.4)):
                pixel = rng.integers(1, OBSERVED_SIZE - 2)
                height = rng.uniform(5, 40) * sigma[row, pixel] + rng.exponential(0.3)
                flux[row, pixel] += height
                flux[row, pixel + 1] += height * rng.uniform(0, 0.6)

    def _report(self, rng: Generator, flux: Array, sigma: Array, snr: Array, lines: Array) -> tuple[Array, Array]:
        """In counts, with ivar as a pipeline estimates it, and zero where it masks."""
        count = len(flux)
        level = 150 * (np.maximum(snr, 0.3) / 12) ** 0.8 * 10 ** rng.normal(0, 0.35, count)
        believed = sigma * 10 ** rng.normal(0, 0.06, (count, 1)).astype(np.float32)
        scale = level[:, None].astype(np.float32)
        ivar = 1 / np.maximum(believed * scale, 1e-20) ** 2
        masked = self._masks(rng, count, lines)
        counts = flux * scale
        return np.where(masked, 0, counts).astype(np.float32), np.where(masked, 0, ivar).astype(np.float32)

    def _masks(self, rng: Generator, count: int, lines: Array) -> Array:
        """(B, N) True where a pipeline gives no ivar: bright sky, the dark ends, the splice, the telluric A band, dead
        columns, and short stretches that some step of it did not like.
        """
        masked = np.zeros((count, OBSERVED_SIZE), bool)
        bright = rng.random(count) < 0.35
        masked[bright] = lines[bright] > rng.uniform(0.6, 6.0, (int(bright.sum()), 1))
        wave = self.wavelength
        for row in range(count):
            lost, pixels = rng.random(5), masked[row]
            if lost[0] < 0.35:
                pixels |= wave < 3700 + rng.exponential(200)
            if lost[1] < 0.25:
                pixels |= wave > 9100 - rng.exponential(100)
            if lost[2] < 0.3:
                pixels |= np.abs(wave - rng.normal(5780, 60)) < rng.uniform(20, 260)
            if lost[3] < 0.3:
                pixels |= np.abs(wave - 7640) < rng.uniform(40, 80)
            if lost[4] < 0.5:
                for _ in range(rng.integers(1, 12)):
                    begin = rng.integers(OBSERVED_SIZE)
                    pixels[begin : begin + 1 + int(rng.exponential(12))] = True
        return masked
