r"""Real spectra as templates: the eigenspectra of the BOSS pipeline (`spEigen*.fits`, repository sdss/idlspec2d).

Legend: ``E`` eigenspectra of a file, ``W`` pixels of a template, ``N`` pixels of the observed grid.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.random import Generator

from trainer import UserError

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Eigenspectra:
    """One file: (E, W) float32 on a log axis that begins at ``first`` (log10 vacuum angstrom), and the rows' names."""

    rows: Array
    first: float
    step: float
    names: tuple[str, ...]

    def at(self, wavelength: Array, redshift: float) -> tuple[Array, Array]:
        """The rows (E, N) at an observed axis, and which of its pixels they reach."""
        place = (np.log10(wavelength / (1 + redshift)) - self.first) / self.step
        inside = (place >= 0) & (place < self.rows.shape[1] - 1)
        low = np.clip(place.astype(int), 0, self.rows.shape[1] - 2)
        part = np.clip(place - low, 0, 1).astype(np.float32)
        return self.rows[:, low] + part * (self.rows[:, low + 1] - self.rows[:, low]), inside


def read_eigenspectra(path: Path) -> Eigenspectra:
    """One spEigen file.

    Raises:
        UserError: astropy is missing, or not such a file.
    """
    try:
        from astropy.io import fits
    except ImportError:
        raise UserError(f"{path}: reading FITS needs astropy; install it with: pip install astropy") from None
    try:
        with fits.open(path, memmap=False) as hdus:
            rows, header = np.atleast_2d(hdus[0].data).astype(np.float32), hdus[0].header
            names = tuple(str(header.get(f"NAME{i}", "")) for i in range(len(rows)))
            return Eigenspectra(rows, float(header["COEFF0"]), float(header["COEFF1"]), names)
    except Exception as error:
        raise UserError(f"{path}: not a file of eigenspectra with COEFF0 and COEFF1 ({error})") from error


class Templates:
    """Stars are taken as they are; of galaxies and quasars the nearest combination to a simulated one is taken.

    Eigenspectra say what a galaxy can look like, not how often: fitted to the simulator's own draws (least squares),
    they give real lines and continua in the simulator's proportions.
    """

    def __init__(self, stars: list[Eigenspectra], galaxies: list[Eigenspectra], quasars: list[Eigenspectra]) -> None:
        self.files = {"star": stars, "galaxy": galaxies, "qso": quasars}

    def replace(
        self, rng: Generator, name: str, flux: Array, redshift: Array, kind: Array, rows: Array, wavelength: Array
    ) -> None:
        """Put real spectra in the place of these rows, at their redshift, where a template reaches far enough."""
        files = self.files[name]
        for row in rows if files else []:
            file = files[rng.integers(len(files))]
            basis, inside = file.at(wavelength, float(redshift[row]))
            if inside.mean() < 0.98:
                continue
            star = name == "star"
            found = self._star(rng, file, basis, wavelength) if star else self._fitted(basis, flux[row])
            if found is not None:
                flux[row], kind[row] = found

    def _star(self, rng: Generator, file: Eigenspectra, basis: Array, wavelength: Array) -> tuple[Array, str] | None:
        """A reddened star of the file and its name; None where its spectrum goes below zero."""
        choice = rng.integers(len(basis))
        template = basis[choice]
        if template.min() < -0.02 * np.median(template):
            return None
        excess = min(rng.exponential(0.2), 1.5)
        reddened = template * np.exp(-0.921 * 3.1 * excess * (wavelength / 5500) ** -1.3)
        return np.maximum(reddened, 0), file.names[choice][:12] or "template"

    def _fitted(self, basis: Array, target: Array) -> tuple[Array, str] | None:
        """The combination of eigenspectra nearest to a simulated spectrum; None where it is not physical."""
        coefficients, *_ = np.linalg.lstsq(basis[:, ::8].T, target[::8], rcond=None)
        fitted = coefficients.astype(np.float32) @ basis
        level = np.median(fitted)
        if level <= 0 or (fitted < -0.05 * level).mean() > 0.02:
            return None
        return np.maximum(fitted, 1e-3 * level), "template"


def load_templates(folder: Path) -> Templates:
    """The spEigenStar, spEigenGal and spEigenQSO files of a folder, of any date, gzipped or not.

    Cataclysmic variables (`spEigenCVstar`) are eigenspectra, not stars, and are left out.

    Raises:
        UserError: none there.
    """
    found = {name: sorted(folder.glob(f"spEigen{name}-*.fits*")) for name in ("Star", "Gal", "QSO")}
    if not any(found.values()):
        raise UserError(
            f"{folder}: no spEigenStar-*, spEigenGal-* or spEigenQSO-*.fits there; they are in the folder "
            "templates/ of the repository sdss/idlspec2d"
        )
    return Templates(*([read_eigenspectra(path) for path in paths] for paths in found.values()))
