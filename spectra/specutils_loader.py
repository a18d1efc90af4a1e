"""LAMOST for specutils, which has no reader for it: importing this module registers one.

import spectra.specutils_loader
from specutils import Spectrum
Spectrum.read("spec-55859-F5902_sp01-001.fits.gz")          # or format="LAMOST LRS"
"""

from typing import Any

import numpy as np
from astropy import units
from astropy.nddata import InverseVariance
from specutils import Spectrum
from specutils.io.registers import data_loader

from spectra.reader import read_spectrum
from trainer import UserError


def is_lamost(origin: str, *arguments: Any, **options: Any) -> bool:
    """Whether a file is LAMOST's, by its layout."""
    path = next((a for a in arguments if isinstance(a, str)), None)
    try:
        return path is not None and read_spectrum(path).meta["layout"].startswith("LAMOST")
    except UserError:
        return False


@data_loader("LAMOST LRS", identifier=is_lamost, dtype=Spectrum, extensions=["fits", "fits.gz", "gz"], priority=20)
def lamost_loader(file_obj: Any, **options: Any) -> Spectrum:
    """A LAMOST file of any release as a specutils Spectrum: vacuum angstrom, no flux unit (LAMOST's is relative)."""
    found = read_spectrum(str(getattr(file_obj, "name", file_obj)))
    return Spectrum(
        flux=found.flux.astype(np.float64) * units.dimensionless_unscaled,
        spectral_axis=found.wavelength * units.AA,
        uncertainty=InverseVariance(found.ivar.astype(np.float64)) if found.ivar is not None else None,
        mask=found.mask,
        meta=found.meta,
    )
