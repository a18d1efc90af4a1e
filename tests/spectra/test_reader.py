"""Every layout that `read_spectrum` takes, made here byte by byte or by astropy, and every way a file can be wrong."""

import gzip

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from spectra import air_to_vacuum, fits_files, read_index, read_spectrum, vacuum_to_air
from trainer import UserError

SIZE = 50
AXIS = 10 ** (3.5682 + 1e-4 * np.arange(SIZE))
FLUX = np.linspace(1, 2, SIZE, dtype=np.float32)
IVAR = np.full(SIZE, 4, np.float32)


def header(**cards):
    content = fits.Header()
    content["COEFF0"], content["COEFF1"], content["VACUUM"], content["CLASS"], content["Z"] = (
        3.5682,
        1e-4,
        True,
        "STAR",
        1e-4,
    )
    content.update(cards)
    return content


def lamost_image(path, third=AXIS, **cards):
    andmask, ormask = np.zeros(SIZE), np.zeros(SIZE)
    andmask[3], ormask[3:6] = 1, 1
    rows = np.stack([FLUX, IVAR, third, andmask, ormask]).astype(">f4")
    rows[1, 10] = 0
    fits.PrimaryHDU(rows, header(**cards)).writeto(path)
    return path


def lamost_table(path):
    columns = {"FLUX": FLUX, "IVAR": IVAR, "WAVELENGTH": AXIS, "ANDMASK": np.zeros(SIZE), "ORMASK": np.ones(SIZE)}
    table = fits.BinTableHDU.from_columns(
        [fits.Column(name, f"{SIZE}E", array=[values.astype(np.float32)]) for name, values in columns.items()],
        name="COADD",
    )
    primary = fits.PrimaryHDU(header=header(DATA_V="LAMOST DR8"))
    fits.HDUList([primary, table]).writeto(path)
    return path


def sdss(path):
    columns = [
        ("flux", "E", FLUX),
        ("loglam", "E", np.log10(AXIS)),
        ("ivar", "E", IVAR),
        ("and_mask", "J", np.zeros(SIZE)),
    ]
    columns.append(("or_mask", "J", np.arange(SIZE) < 2))
    spectrum = fits.BinTableHDU.from_columns([fits.Column(n, f, array=v) for n, f, v in columns], name="COADD")
    about = fits.BinTableHDU.from_columns(
        [
            fits.Column("PLATE", "J", array=[3655]), fits.Column("CLASS", "6A", array=["QSO"]),
            fits.Column("FLUXES", "5D", array=[np.ones(5)]), fits.Column("Z", "E", array=[2.25]),
            fits.Column("SUBCLASS", "9A", array=["BROADLINE"]),
        ]
    )  # fmt: skip
    fits.HDUList([fits.PrimaryHDU(header=header()), spectrum, about]).writeto(path)
    return path


def test_lamost_image_to_dr7(tmp_path):
    found = read_spectrum(lamost_image(tmp_path / "a.fits"))
    assert found.meta["layout"] == "LAMOST image"
    assert found.meta["class"] == "STAR"
    assert found.flux.dtype == np.float32  # native order
    assert found.flux.dtype.isnative
    np.testing.assert_array_equal(found.flux, FLUX)
    np.testing.assert_allclose(found.wavelength, AXIS, rtol=1e-7)  # the file holds float32
    assert np.flatnonzero(found.mask).tolist() == [3, 10]  # flagged in all exposures; ivar 0
    assert found.ivar[10] == found.ivar[3] == 0
    assert np.flatnonzero(read_spectrum(tmp_path / "a.fits", flags="or").mask).tolist() == [3, 4, 5, 10]
    assert np.flatnonzero(read_spectrum(tmp_path / "a.fits", flags="none").mask).tolist() == [10]


def test_lamost_pilot_has_no_wavelength_row(tmp_path):
    found = read_spectrum(lamost_image(tmp_path / "a.fits", third=np.sin(np.arange(SIZE))))
    assert found.meta["layout"] == "LAMOST pilot image"
    np.testing.assert_allclose(found.wavelength, AXIS, rtol=1e-12)


def test_lamost_table_is_told_by_its_content_and_not_by_its_version(tmp_path):
    found = read_spectrum(lamost_table(tmp_path / "a.fits"))
    assert found.meta["layout"] == "LAMOST table"
    assert found.meta["release"] == "LAMOST DR8"
    np.testing.assert_array_equal(found.flux, FLUX)
    assert not found.mask.any()


def test_sdss_takes_class_and_redshift_from_the_second_table(tmp_path):
    found = read_spectrum(sdss(tmp_path / "a.fits"))
    assert (found.meta["class"], found.meta["subclass"], found.meta["z"]) == ("QSO", "BROADLINE", 2.25)
    np.testing.assert_allclose(found.wavelength, AXIS, rtol=1e-6)  # float32 of log10
    assert np.flatnonzero(read_spectrum(tmp_path / "a.fits", flags="or").mask).tolist() == [0, 1]


def test_both_tables_by_hand_are_what_astropy_reads(tmp_path):
    path = sdss(tmp_path / "a.fits")
    content = path.read_bytes()
    with fits.open(path) as hdus:
        for hdu in hdus[1:]:
            rows = fits_files._rows(content, hdu.fileinfo()["hdrLoc"])
            assert rows.dtype.names == tuple(hdu.data.names)
            for name in hdu.data.names:
                if rows.dtype[name].kind == "S":
                    assert [text.decode() for text in rows[name]] == hdu.data[name].tolist()
                else:
                    np.testing.assert_array_equal(rows[name], hdu.data[name])


def test_sdss_numbers_that_are_scaled_are_not_taken_for_plain_ones(tmp_path):
    rows = fits.BinTableHDU.from_columns([
        fits.Column("loglam", "E", array=np.log10(AXIS)),
        fits.Column("flux", "I", array=np.arange(SIZE, dtype=np.uint16), bzero=32768),
    ])  # fmt: skip
    fits.HDUList([fits.PrimaryHDU(), rows]).writeto(tmp_path / "a.fits")
    with pytest.raises(UserError, match="HDU 1 lacks the column flux"):
        read_spectrum(tmp_path / "a.fits")


def test_sdss_without_a_second_table_is_a_spectrum_and_a_cut_one_is_damage(tmp_path):
    path = sdss(tmp_path / "a.fits")
    content = path.read_bytes()
    with fits.open(path) as hdus:
        first_end, second_data = hdus[2].fileinfo()["hdrLoc"], hdus[2].fileinfo()["datLoc"]
    path.write_bytes(content[:first_end])
    assert "class" not in read_spectrum(path).meta
    path.write_bytes(content[: second_data + 20])
    with pytest.raises(UserError, match=r"a\.fits: not a readable FITS file"):
        read_spectrum(path)


def test_the_second_table_of_a_real_file_is_what_astropy_reads(data_root):
    paths = sorted((data_root / "spectra" / "sdss").glob("*.fits.gz"))[:3]
    assert paths
    for path in paths:
        meta = read_spectrum(path).meta
        with fits.open(path) as hdus:
            row = hdus[2].data  # its columns of unsigned numbers are scaled
            assert meta["class"] == row["CLASS"][0]
            assert meta["subclass"] == row["SUBCLASS"][0]
            assert meta["z"] == row["Z"][0]


def test_gzip_and_air_wavelengths(tmp_path):
    plain = lamost_image(tmp_path / "a.fits", third=vacuum_to_air(AXIS), VACUUM=False)
    packed = tmp_path / "b.fits.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    np.testing.assert_allclose(read_spectrum(packed).wavelength, AXIS, rtol=1e-7)


def test_air_and_vacuum_by_published_numbers():
    # SDSS's table of lines: air and vacuum wavelengths of H alpha, H beta and [O III]
    vacuum, air = np.array([6564.61, 4862.68, 5008.24]), np.array([6562.80, 4861.33, 5006.84])
    np.testing.assert_allclose(vacuum_to_air(vacuum), air, atol=0.01)
    np.testing.assert_allclose(air_to_vacuum(air), vacuum, atol=0.01)
    assert vacuum_to_air(np.array([1215.67])) == 1215.67


@given(st.floats(2050, 12_000))
def test_air_and_vacuum_are_inverse(wavelength):
    assert abs(air_to_vacuum(vacuum_to_air(np.array(wavelength))) - wavelength) < 1e-6


@pytest.mark.parametrize("separator", [",", "\t", ";", " "])
@pytest.mark.parametrize("names", [("wavelength", "flux", "ivar"), ("lambda (A)", "Flux", "ERR"), None])
def test_text_tables(tmp_path, separator, names):
    path = tmp_path / "a.csv"
    third = IVAR if names is None or names[2] == "ivar" else IVAR**-0.5
    rows = [separator.join(f"{x:.8g}" for x in row) for row in zip(AXIS, FLUX, third, strict=True)]
    if names and separator == " ":
        names = tuple(n.split()[0] for n in names)
    path.write_text("\n".join([*([separator.join(names)] if names else []), *rows]) + "\n", encoding="utf-8")
    found = read_spectrum(path)
    np.testing.assert_allclose(found.wavelength, AXIS, rtol=1e-7)  # eight digits were written
    np.testing.assert_allclose(found.flux, FLUX, rtol=1e-6)
    np.testing.assert_allclose(found.ivar, IVAR, rtol=1e-6)


def test_units_and_direction(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("".join(f"{w / 10},{f}\n" for w, f in zip(AXIS[::-1], FLUX[::-1], strict=True)), encoding="utf-8")
    found = read_spectrum(path, wavelength_unit="nm")
    np.testing.assert_allclose(found.wavelength, AXIS)
    np.testing.assert_allclose(found.flux, FLUX, rtol=1e-6)
    with pytest.raises(UserError, match="not optical in angstrom; they look like nm"):
        read_spectrum(path)
    path.write_text("".join(f"{np.log10(w)},{f}\n" for w, f in zip(AXIS, FLUX, strict=True)), encoding="utf-8")
    with pytest.raises(UserError, match="they look like log10"):
        read_spectrum(path)
    np.testing.assert_allclose(read_spectrum(path, wavelength_unit="log10").wavelength, AXIS)


def test_the_competitions_files(tmp_path):
    (tmp_path / "17.txt").write_text(",".join(map(str, range(1, 2601))) + "\n", encoding="utf-8")
    (tmp_path / "index.csv").write_text("id,type\n17,qso\n18,unknown\n", encoding="utf-8")
    found = read_spectrum(tmp_path / "17.txt")
    assert found.wavelength is None  # none is made up
    assert found.ivar is None
    assert len(found) == 2600
    assert found.flux[-1] == 2600
    with_axis = read_spectrum(tmp_path / "17.txt", wavelength=np.linspace(3900, 9000, 2600))
    assert with_axis.wavelength[-1] == 9000
    assert list(read_index(tmp_path / "index.csv")) == [(tmp_path / "17.txt", "qso"), (tmp_path / "18.txt", "unknown")]
    (tmp_path / "index.csv").write_text("id,type\n17,planet\n", encoding="utf-8")
    with pytest.raises(UserError, match="line 2: '17,planet'; expected an id and one of star"):
        list(read_index(tmp_path / "index.csv"))
    with pytest.raises(UserError, match="expected id,type"):
        list(read_index(tmp_path / "17.txt"))
    with pytest.raises(UserError, match="2600 fluxes but 3 wavelengths"):
        read_spectrum(tmp_path / "17.txt", wavelength=[4000, 5000, 6000])


def test_numpy_files(tmp_path):
    np.save(tmp_path / "one.npy", FLUX)
    np.save(tmp_path / "three.npy", np.stack([AXIS, FLUX, IVAR]))
    np.savez(tmp_path / "named.npz", loglam=np.log10(AXIS), flux=FLUX)
    assert read_spectrum(tmp_path / "one.npy").wavelength is None
    np.testing.assert_allclose(read_spectrum(tmp_path / "three.npy").ivar, IVAR)
    np.testing.assert_allclose(read_spectrum(tmp_path / "named.npz").wavelength, AXIS)
    np.save(tmp_path / "pickled.npy", np.array([{"flux": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="not a numpy file of numbers"):
        read_spectrum(tmp_path / "pickled.npy")


def test_nan_and_infinity_are_masked(tmp_path):
    flux = FLUX.copy()
    flux[[2, 7]] = np.nan, np.inf
    np.save(tmp_path / "a.npy", np.stack([AXIS, flux, IVAR]))
    found = read_spectrum(tmp_path / "a.npy")
    assert np.flatnonzero(found.mask).tolist() == [2, 7]
    assert np.isfinite(found.flux).all()
    assert (found.ivar[[2, 7]] == 0).all()


@settings(deadline=None, max_examples=40)
@given(st.binary(max_size=300))
def test_no_bytes_crash_the_reader(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("bytes") / "a.fits"
    for data in (content, b"SIMPLE" + content, gzip.compress(content)):
        path.write_bytes(data)
        with pytest.raises(UserError, match=r"a\.fits"):
            read_spectrum(path)


def wrong(tmp_path, kind):
    path = tmp_path / "bad.fits"
    if kind == "missing":
        return tmp_path / "none.fits"
    if kind == "folder":
        return tmp_path
    if kind == "three rows":
        fits.PrimaryHDU(np.zeros((3, SIZE), np.float32)).writeto(path)
    elif kind == "empty hdu":
        fits.PrimaryHDU().writeto(path)
    elif kind == "other table":
        table = fits.BinTableHDU.from_columns([fits.Column("A", "E", array=[1.0])])
        fits.HDUList([fits.PrimaryHDU(), table]).writeto(path)
    elif kind == "no coefficients":
        fits.PrimaryHDU(np.zeros((5, SIZE), np.float32)).writeto(path)
    elif kind == "cut short":
        path.write_bytes(lamost_image(tmp_path / "whole.fits").read_bytes()[:3000])
    elif kind == "strings":
        np.savez(tmp_path / "bad.npz", wavelength=AXIS, flux=np.full(SIZE, "bright"))
        return tmp_path / "bad.npz"
    elif kind == "name too long":
        return tmp_path / ("a" * 300)
    elif kind == "other rows":
        fits.PrimaryHDU(np.zeros((3, SIZE), np.float32), header(TELESCOP="SDSS 2.5-M")).writeto(path)
    elif kind == "gzip cut short":
        path.write_bytes(gzip.compress(lamost_image(tmp_path / "whole.fits").read_bytes())[:300])
    else:
        path = tmp_path / "bad.csv"
        path.write_text({"header": "x,y\n1,2\n", "ragged": "4000,1\n4001\n", "empty cell": "4000,1\n4001,\n",
                         "empty column": "wavelength,flux,ivar\n4000,1,\n4001,1,\n", "first cell": ",1,2\n4000,1,2\n",
                         "words": "# nothing\n",
                         "unsorted": "4000,1\n4002,1\n4001,1\n"}[kind], encoding="utf-8")  # fmt: skip
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "no such file"), ("folder", "a folder; expected a spectrum"),
        ("three rows", r"HDU 0 .* five rows"), ("empty hdu", "one HDU, and it is empty; expected LAMOST"),
        ("other table", "HDU 1 has the columns A; expected"), ("no coefficients", "HDU 0 has no COEFF0"),
        ("cut short", "not a readable FITS file"), ("gzip cut short", "cannot be read"),
        ("header", "the header is 'x,y'; expected a column named flux"), ("ragged", "not as many numbers as the first"),
        ("empty cell", "not as many numbers"), ("first cell", "expected a column named flux"),
        ("empty column", "a name for each of the 2 numbers in a row"), ("strings", "not a numpy file of numbers"),
        ("name too long", "cannot be read"), ("other rows", "expected the rows of SDSS's spSpec"),
        ("words", "no numbers in it"), ("unsorted", "do not increase"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::astropy.utils.exceptions.AstropyUserWarning")  # its own word on a cut file
def test_wrong_files(tmp_path, kind, message):
    path = wrong(tmp_path, kind)
    with pytest.raises(UserError, match=message) as error:
        read_spectrum(path)
    assert str(error.value).startswith(str(path))


def test_an_axis_is_for_files_that_have_none(tmp_path):
    np.save(tmp_path / "one.npy", FLUX)
    np.save(tmp_path / "two.npy", np.stack([AXIS, FLUX]))
    np.savez(tmp_path / "log.npz", loglam=np.log10(AXIS), flux=FLUX)
    lamost_image(tmp_path / "a.fits")
    for name, expected in {"one.npy": AXIS + 7, "two.npy": AXIS, "log.npz": AXIS, "a.fits": AXIS}.items():
        found = read_spectrum(tmp_path / name, wavelength=AXIS + 7)
        np.testing.assert_allclose(found.wavelength, expected, rtol=1e-7)


@pytest.mark.parametrize(
    "lines",
    [
        ["# wavelength,flux,error", "{} {} {}"], ["# wavelength flux error", "{},{},{}"],
        ["# wavelength (A), flux (1e-17 cgs), error", "{}\t{}\t{}"], ["# Wave Flux Err", "# A cgs cgs", "{} {} {}"],
        ["# made by hand", "wavelength;flux;error;", "{};{};{}"], ['"wavelength","flux","error"', "{},{},{},"],
    ],
)  # fmt: skip
def test_a_header_has_a_separator_of_its_own(tmp_path, lines):
    path, (*headers, row) = tmp_path / "a.txt", lines
    rows = [row.format(w, f, 0.5) for w, f in zip(AXIS, FLUX, strict=True)]
    path.write_text("\n".join([*headers, *rows]), encoding="utf-8")
    found = read_spectrum(path)
    np.testing.assert_allclose(found.wavelength, AXIS)
    np.testing.assert_allclose(found.flux, FLUX)
    np.testing.assert_allclose(found.ivar, 4)


def test_a_third_column_below_a_comment_is_not_taken_for_ivar(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("# lam f sd\n" + "".join(f"{w} 1 2\n" for w in AXIS), encoding="utf-8")
    with pytest.raises(
        UserError, match=r"header is '# lam f sd'; expected a column named flux .* each of the 3 numbers"
    ):
        read_spectrum(path)
    path.write_text("# from Tom\n" + "".join(f"{w} 1\n" for w in AXIS), encoding="utf-8")
    assert read_spectrum(path).ivar is None
    path.write_text("# 17 -----\n" + "".join(f"{w} 1 4\n" for w in AXIS), encoding="utf-8")
    assert (read_spectrum(path).ivar == 4).all()


def test_packed_files_are_told_by_what_is_in_them(tmp_path):
    plain = {"a.csv": "".join(f"{w},{f}\n" for w, f in zip(AXIS, FLUX, strict=True)).encode()}
    np.save(tmp_path / "b.npy", np.stack([AXIS, FLUX]))
    plain["b.npy"] = (tmp_path / "b.npy").read_bytes()
    plain["c.fit"] = lamost_image(tmp_path / "c.fits").read_bytes()
    plain["d"] = plain["c.fit"]  # no ending at all
    for name, content in plain.items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
        found = read_spectrum(tmp_path / f"{name}.gz")
        np.testing.assert_allclose(found.flux, FLUX)
        np.testing.assert_allclose(found.wavelength, AXIS, rtol=1e-7)
    rows = np.stack([FLUX, IVAR, AXIS, 0 * FLUX, 0 * FLUX]).astype(np.float32)
    packed = fits.CompImageHDU(rows, header(), compression_type="GZIP_2", quantize_level=0)
    fits.HDUList([fits.PrimaryHDU(), packed]).writeto(tmp_path / "e.fits.fz")
    found = read_spectrum(tmp_path / "e.fits.fz")
    np.testing.assert_array_equal(found.flux, FLUX)
    np.testing.assert_allclose(found.wavelength, AXIS, rtol=1e-7)


def spspec(path, **cards):
    mask = np.zeros(SIZE)
    mask[[4, 5]] = 0x40000000, 0x1000000  # an emission line; no data
    sigma = np.full(SIZE, 0.5)
    sigma[7] = 0
    rows = np.stack([FLUX, FLUX - 1.5, sigma, mask, FLUX]).astype(">f4")
    fits.PrimaryHDU(rows, header(TELESCOP="SDSS 2.5-M", Z=0.1, **cards)).writeto(path)
    return path


def test_sdss_to_dr7(tmp_path):
    found = read_spectrum(spspec(tmp_path / "spSpec-51630-0266-001.fit"))
    assert found.meta["layout"] == "SDSS spSpec"
    assert found.meta["z"] == 0.1
    np.testing.assert_array_equal(found.flux, FLUX)
    np.testing.assert_allclose(found.wavelength, AXIS, rtol=1e-12)
    assert np.flatnonzero(found.mask).tolist() == [5, 7]
    assert (found.ivar[~found.mask] == 4).all()
    assert np.flatnonzero(read_spectrum(tmp_path / "spSpec-51630-0266-001.fit", flags="none").mask).tolist() == [7]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of specutils' own imports
def test_specutils_reads_lamost(tmp_path):
    specutils = pytest.importorskip("specutils")
    import spectra.specutils_loader  # registers the reader

    assert not spectra.specutils_loader.is_lamost("read", str(spspec(tmp_path / "c.fits")))
    for path in (lamost_image(tmp_path / "a.fits"), lamost_table(tmp_path / "b.fits")):
        for options in ({}, {"format": "LAMOST LRS"}):
            found = specutils.Spectrum.read(str(path), **options)
            np.testing.assert_allclose(found.flux.value, FLUX)
            np.testing.assert_allclose(found.spectral_axis.to_value("AA"), AXIS, rtol=1e-7)
            assert found.meta["class"] == "STAR"


def test_real_files(data_root):
    folder = data_root / "spectra"
    layouts = {"lamost": {"LAMOST image", "LAMOST table", "LAMOST pilot image"}, "sdss": {"SDSS"}}
    for name, expected in layouts.items():
        found = [read_spectrum(path) for path in sorted((folder / name).glob("*.fits.gz"))]
        assert {s.meta["layout"] for s in found} == expected
        for spectrum in found:
            assert 3500 < spectrum.wavelength[0] < 3710
            assert 9000 < spectrum.wavelength[-1] < 10_500
            assert 0 < (~spectrum.mask).mean() <= 1
            assert spectrum.meta["class"] in ("STAR", "GALAXY", "QSO")
