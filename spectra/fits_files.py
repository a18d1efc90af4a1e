"""FITS layouts: LAMOST's two, its pilot's, and the spec files of SDSS and BOSS. Legend: ``N`` pixels of the file."""

import gzip
import io
import re
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np

from spectra.spectrum import Spectrum, make_spectrum
from trainer import UserError

Flags = Literal["and", "or", "none"]

LAMOST_COLUMNS = {"and": "ANDMASK", "or": "ORMASK"}
SDSS_COLUMNS = {"and": "AND_MASK", "or": "OR_MASK"}
EXPECTED = (
    "expected LAMOST (an image of five rows, or a table COADD with FLUX and WAVELENGTH) or SDSS (a table with flux and "
    "loglam in HDU 1)"
)
WIDTHS = {"L": 1, "B": 1, "I": 2, "J": 4, "K": 8, "A": 1, "E": 4, "D": 8, "C": 8, "M": 16}  # bytes of a FITS format


def read_fits(path: Path, flags: Flags = "and") -> Spectrum:
    """A LAMOST or SDSS file, gzipped or not.

    The layout is told from what is there, not from the version keyword, which files of the table layout get wrong.

    Args:
        path: the file.
        flags: which mask of the file counts: pixels flagged in every exposure (``and``), in any (``or``), or none.

    Raises:
        UserError: astropy is missing, the file is damaged, or neither layout fits.
    """
    try:
        from astropy.io import fits
    except ImportError:
        raise UserError(f"{path}: reading FITS needs astropy; install it with: pip install astropy") from None
    content = _content(path)
    try:
        with fits.open(io.BytesIO(content), memmap=False) as hdus:
            if hdus[0].data is not None:
                return _lamost_image(path, hdus[0], flags)
            try:
                table = hdus[1]  # and not len(hdus), which would read all of them
            except IndexError:
                raise UserError(f"{path}: one HDU, and it is empty; {EXPECTED}") from None
            names = [name.upper() for name in getattr(getattr(table, "columns", None), "names", [])]
            if "LOGLAM" in names:
                end = table.fileinfo()["datLoc"] + table.fileinfo()["datSpan"]
                return _sdss(path, hdus[0].header, table, _first_row(content, end), flags)
            if "WAVELENGTH" in names:
                return _lamost_table(path, hdus[0].header, table, flags)
            raise UserError(f"{path}: HDU 1 has the columns {', '.join(names) or 'of no table'}; {EXPECTED}")
    except UserError:
        raise
    except Exception as error:  # astropy raises a dozen types for a damaged file
        reason = (str(error).splitlines() or [""])[0][:100]
        raise UserError(f"{path}: not a readable FITS file ({type(error).__name__}: {reason})") from error


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error


def _meta(path: Path, header: Any, layout: str) -> dict[str, Any]:
    names = {"class": "CLASS", "subclass": "SUBCLASS", "z": "Z", "id": "DESIG", "obsid": "OBSID", "release": "DATA_V"}
    found = {key: header[keyword] for key, keyword in names.items() if keyword in header}
    return {"file": str(path), "layout": layout, **found}


def _log_axis(path: Path, header: Any, size: int) -> np.ndarray:
    if "COEFF0" not in header or "COEFF1" not in header:
        raise UserError(f"{path}: HDU 0 has no COEFF0 and COEFF1; expected them, for the file has no wavelength row")
    return 10.0 ** (header["COEFF0"] + header["COEFF1"] * np.arange(size))


def _lamost_image(path: Path, hdu: Any, flags: Flags) -> Spectrum:
    """To DR7: rows flux, ivar, wavelength, and-mask, or-mask; in pilot data the third is a flux without continuum."""
    rows, header = hdu.data, hdu.header
    if rows.ndim != 2 or len(rows) < 5:
        raise UserError(f"{path}: HDU 0 is an image of shape {rows.shape}; expected LAMOST's five rows (5, N)")
    wavelength = rows[2].astype(np.float64)
    # wavelengths increase from 3,700 angstrom on; a flux without continuum wavers about zero
    pilot = wavelength.min() <= 0 or not (np.diff(wavelength) > 0).all()
    if pilot:
        wavelength = _log_axis(path, header, rows.shape[1])
    bad = {"and": rows[3], "or": rows[4], "none": None}[flags]
    meta = _meta(path, header, "LAMOST pilot image" if pilot else "LAMOST image")
    return make_spectrum(rows[0], wavelength, rows[1], bad, meta, air=header.get("VACUUM") is False)


def _lamost_table(path: Path, header: Any, hdu: Any, flags: Flags) -> Spectrum:
    """DR9 and later: one row of arrays."""
    table = hdu.data
    if len(table) != 1:
        raise UserError(f"{path}: HDU 1 has {len(table)} rows; expected one row of arrays, as LAMOST writes it")
    columns = {name.upper(): table[name][0] for name in table.names}
    for name in ("FLUX", "IVAR"):
        if name not in columns:
            raise UserError(f"{path}: HDU 1 lacks the column {name}; {EXPECTED}")
    bad = columns.get(LAMOST_COLUMNS.get(flags, ""))
    meta = _meta(path, header, "LAMOST table")
    return make_spectrum(
        columns["FLUX"], columns["WAVELENGTH"], columns["IVAR"], bad, meta, air=header.get("VACUUM") is False
    )


def _sdss(path: Path, header: Any, hdu: Any, row: dict[str, Any], flags: Flags) -> Spectrum:
    """SDSS, BOSS and eBOSS: a row a pixel; class and redshift in HDU 2."""
    table = hdu.data
    columns = {name.upper(): np.asarray(table[name]) for name in table.names}
    if "FLUX" not in columns:
        raise UserError(f"{path}: HDU 1 lacks the column flux; {EXPECTED}")
    bad = columns.get(SDSS_COLUMNS.get(flags, ""))
    meta = {"file": str(path), "layout": "SDSS", **row}
    wavelength = 10.0 ** columns["LOGLAM"].astype(np.float64)
    return make_spectrum(columns["FLUX"], wavelength, columns.get("IVAR"), bad, meta, air=header.get("VACUUM") is False)


def _first_row(content: bytes, begin: int) -> dict[str, Any]:
    """Class, subclass and redshift from the first row of the table whose header begins at that byte.

    By hand: astropy takes 50 ms to make sense of the 236 columns of that table, thirty times what the spectrum takes.
    """
    header = content[begin : content.find(b"END" + b" " * 77, begin)]
    start = begin + -(-(len(header) + 80) // 2880) * 2880
    cards = dict(re.findall(rb"(TTYPE\d+|TFORM\d+) *= *'([^']*?) *'", header))
    wanted = {b"CLASS": "class", b"SUBCLASS": "subclass", b"Z": "z"}
    found: dict[str, Any] = {}
    for column in range(1, sum(key.startswith(b"TFORM") for key in cards) + 1):
        form = re.fullmatch(rb"(\d*)([A-Z]).*", cards[b"TFORM%d" % column])
        if form is None or form[2].decode() not in WIDTHS:
            break
        size = int(form[1] or 1) * WIDTHS[form[2].decode()]
        name, cell = cards.get(b"TTYPE%d" % column, b"").upper(), content[start : start + size]
        start += size
        if name in wanted and form[2] == b"A":
            found[wanted[name]] = cell.rstrip(b"\0 ").decode("ascii", "replace")
        elif name in wanted and form[2] in b"ED" and cell:
            found[wanted[name]] = float(np.frombuffer(cell, ">f4" if form[2] == b"E" else ">f8")[0])
    return found
