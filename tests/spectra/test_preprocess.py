"""Preprocessing against plain loops: resampling conserves flux, propagates errors, masks gaps; nonsense is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectra import Preprocessing, Spectrum
from spectra.preprocess import Overlaps, fill_gaps, pixel_edges
from spectra.spectrum import make_spectrum
from trainer import UserError

SMALL = Preprocessing(first=3.6, step=2e-3, size=40)


def axis(size=150, first=3.59, step=9e-4):
    return 10 ** (first + step * np.arange(size))


def resample_by_loops(pixels, bins, flux, ivar, good):
    """Every pixel against every bin."""
    values, errors, covered = np.zeros(len(bins) - 1), np.zeros(len(bins) - 1), np.zeros(len(bins) - 1, bool)
    for j in range(len(bins) - 1):
        total = weighted = spread = 0.0
        for i in range(len(pixels) - 1):
            width = min(pixels[i + 1], bins[j + 1]) - max(pixels[i], bins[j])
            if width > 0 and good[i]:
                total += width
                weighted += width * flux[i]
                spread += width**2 / ivar[i]
        if total > 0.5 * (bins[j + 1] - bins[j]):
            values[j], errors[j], covered[j] = weighted / total, total**2 / spread, True
    return values, errors, covered


@pytest.mark.parametrize("step", [9e-4, 5e-3])  # finer and coarser than the grid
def test_resampling_by_loops(step):
    rng = np.random.default_rng(0)
    wavelength = axis(int(0.12 / step), step=step)
    flux, ivar = rng.normal(1, 0.3, (2, len(wavelength))), rng.uniform(1, 5, (2, len(wavelength)))
    good = rng.random(flux.shape) > 0.2
    found = SMALL.resample(wavelength, flux.astype(np.float32), ivar.astype(np.float32), good)
    for row in range(2):
        expected = resample_by_loops(pixel_edges(wavelength), SMALL.edges, flux[row], ivar[row], good[row])
        np.testing.assert_allclose(found[0][row], expected[0], rtol=1e-5, atol=1e-6)  # float32
        np.testing.assert_allclose(found[1][row], expected[1], rtol=1e-5)
        np.testing.assert_array_equal(found[2][row], expected[2])
        assert 0 < expected[2].sum() < SMALL.size  # both cases occur


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(20, 200), st.integers(5, 60))
def test_flux_is_conserved(seed, num_pixels, num_bins):
    """What falls into the bins is what the pixels held over the same range."""
    rng = np.random.default_rng(seed)
    pixels = np.sort(rng.uniform(4000, 5000, num_pixels + 1))
    bins = np.linspace(4000, 5000, num_bins + 1)
    flux = rng.normal(0, 1, num_pixels)
    overlaps = Overlaps.between(pixels, bins)
    total = overlaps.sum((overlaps.width * flux[overlaps.source])[None]).sum()
    inside = np.clip(pixels, 4000, 5000)
    assert total == pytest.approx((np.diff(inside) * flux).sum(), abs=1e-9)


def test_a_constant_stays_and_noise_goes_down_as_it_should():
    rng = np.random.default_rng(0)
    wavelength = axis(1200, step=1e-4)
    flux = (5 + rng.normal(0, 1, (400, 1200))).astype(np.float32)
    values, ivar, covered = SMALL.resample(wavelength, flux, np.ones_like(flux))
    inside = covered.all(axis=0)
    assert inside.sum() > 30
    pulls = (values - 5)[:, inside] * np.sqrt(ivar[:, inside])
    assert abs(pulls.std() - 1) < 0.03  # 12,000 and more draws
    assert ivar[0, inside].min() > 15  # twenty pixels a bin


def test_gaps_are_bridged_by_straight_lines():
    values = np.array([[9.0, 1, 9, 9, 4, 9], [1, 2, 3, 4, 5, 6], [1, 1, 1, 1, 1, 1]])
    covered = np.array([[0, 1, 0, 0, 1, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]], bool)
    np.testing.assert_array_equal(fill_gaps(values, covered), [[1, 1, 2, 3, 4, 4], [1, 2, 3, 4, 5, 6], [0] * 6])


@pytest.mark.parametrize("normalisation", ["scale", "asinh"])
@pytest.mark.parametrize("noise_channel", [False, True])
def test_one_by_one_is_what_a_batch_gives(normalisation, noise_channel):
    rng = np.random.default_rng(0)
    preprocessing = (
        Preprocessing(3, *())
        if False
        else Preprocessing(first=3.6, step=2e-3, size=40, normalisation=normalisation, noise_channel=noise_channel)
    )
    wavelength = axis()
    flux = rng.normal(50, 10, (3, 150)).astype(np.float32)
    ivar = rng.uniform(0.01, 1, (3, 150)).astype(np.float32)
    ivar[1, 40:60] = 0
    batch = preprocessing.batch(wavelength, flux, ivar)
    assert batch.shape == (3, 1 + noise_channel, 40)
    assert batch.dtype == np.float32
    for row in range(3):
        alone = preprocessing(make_spectrum(flux[row], wavelength, ivar[row]))
        np.testing.assert_allclose(alone, batch[row], rtol=1e-5)
    if noise_channel:
        assert (batch[1, 1] == 0).any()  # the gap


def test_units_do_not_matter_to_asinh_and_do_to_scale():
    wavelength, flux = axis(), np.linspace(1, 3, 150)
    for normalisation, same in (("asinh", True), ("scale", False)):
        preprocessing = Preprocessing(first=3.6, step=2e-3, size=40, normalisation=normalisation)
        one, other = (preprocessing(make_spectrum(f * flux, wavelength)) for f in (1.0, 1e-2))
        assert np.allclose(one, other, rtol=1e-4) is same


def test_physical_units():
    """In erg/s/cm2/A the inverse variance leaves float32; what it says of each bin stays the same."""
    wavelength, rng = axis(), np.random.default_rng(0)
    flux, ivar = rng.normal(3, 0.3, 150), rng.uniform(5, 20, 150)
    preprocessing = Preprocessing(first=3.6, step=2e-3, size=40, normalisation="asinh", noise_channel=True)
    for unit in (1e-17, 1e-20, 1e-25):
        physical = make_spectrum(unit * flux, wavelength, ivar / unit**2)
        assert not physical.mask.any()
        np.testing.assert_allclose(preprocessing(physical), preprocessing(make_spectrum(flux, wavelength, ivar)), 1e-4)
    with pytest.raises(UserError, match=r"a median flux of 3e-17; this model divides by 100: .* 1e-17 erg/s/cm2/A"):
        SMALL(make_spectrum(1e-17 * flux, wavelength, meta={"file": "a.fits"}))


def test_a_hole_in_the_axis_is_a_gap():
    wavelength = axis()
    hole = (wavelength > 4400) & (wavelength < 4700)
    flux = np.where(wavelength < 4500, 1.0, 3.0)
    *_, whole = SMALL.resample(wavelength, flux[None])
    _, ivar, covered = SMALL.resample(wavelength[~hole], flux[None, ~hole], np.ones((1, (~hole).sum())))
    inside = (SMALL.edges[:-1] > 4400) & (SMALL.edges[1:] < 4700)
    assert inside.sum() > 10
    middle = np.flatnonzero(inside)[2:-2]  # a pixel reaches at most three of the file's, one and a half bins
    assert not covered[0, middle].any()
    assert (ivar[0, middle] == 0).all()
    np.testing.assert_array_equal(covered[0, ~inside], whole[0, ~inside])
    bridged = SMALL(make_spectrum(100 * flux[~hole], wavelength[~hole]))[0, middle]
    np.testing.assert_allclose(np.diff(bridged), np.diff(bridged)[0], rtol=1e-3)  # a straight line
    assert np.diff(bridged)[0] > 0.05


def test_a_last_pixel_beyond_a_hole_does_not_span_it():
    wavelength = np.append(axis(60), axis()[-1])
    *_, covered = SMALL.resample(wavelength, np.ones((1, 61)))
    assert covered[0, 28:].sum() <= 3
    *_, covered = SMALL.resample(wavelength[[0, 1]], np.ones((1, 2)))  # two pixels are an axis too
    assert covered.sum() <= 2


def test_plain_and_back():
    preprocessing = Preprocessing(size=99, normalisation="asinh", noise_channel=True)
    assert Preprocessing.from_plain(preprocessing.plain()) == preprocessing
    assert Preprocessing().wavelength[[0, -1]] == pytest.approx([3700, 9079], abs=1)


def spectrum(**changes):
    arrays = {"flux": np.ones(150, np.float32), "wavelength": axis(), "ivar": np.ones(150, np.float32), **changes}
    return make_spectrum(**arrays, meta={"file": "a.fits"})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (spectrum(flux=np.full(150, np.nan)), "no usable pixel: all 150 are masked or no numbers"),
        (spectrum(ivar=np.zeros(150)), "no usable pixel"),
        (spectrum(flux=np.zeros(150)), "the flux is zero everywhere"),
        (spectrum(wavelength=None), "no wavelength axis in it, and none is made up"),
        (make_spectrum(np.ones(10), axis(10, 3.65), meta={"file": "a.fits"}), "10 pixels cover .* needs 25 %"),
        (make_spectrum(np.ones(1), np.array([5000.0]), meta={"file": "a.fits"}), "one pixel; expected a spectrum"),
        (
            make_spectrum(np.ones(10), np.linspace(3700, 9000, 10), meta={"file": "a.fits"}),
            r"10 pixels 20\.2 bins of this model apart; expected at most 5",
        ),
        (spectrum(wavelength=np.linspace(9000, 9500, 150)), "cover 0 %"),
    ],
)
def test_spectra_that_cannot_be_used(given, message):
    with pytest.raises(UserError, match=message) as error:
        SMALL(given)
    assert str(error.value).startswith("a.fits: ")


def test_a_model_of_errors_needs_errors():
    with pytest.raises(UserError, match="no errors in it"):
        Preprocessing(first=3.6, step=2e-3, size=40, noise_channel=True)(spectrum(ivar=None))


def test_pixels_without_an_axis_are_taken_as_they_are():
    preprocessing = Preprocessing(axis="pixels", size=5)
    found = preprocessing(make_spectrum(np.array([100.0, np.nan, 300, 400, 500]), None))
    np.testing.assert_allclose(found, [[1, 2, 3, 4, 5]])
    with pytest.raises(UserError, match="4 pixels; this model takes spectra of 5"):
        preprocessing(make_spectrum(np.ones(4), None))


@pytest.mark.parametrize("options", [{"size": 0}, {"step": -1e-4}, {"scale": 0.0}, {"min_coverage": 2.0}])
def test_impossible_settings(options):
    with pytest.raises(UserError, match="must be positive"):
        Preprocessing(**options)


def test_real_files_give_finite_inputs(data_root):
    from spectra import read_spectrum

    preprocessing = Preprocessing(step=3e-4, size=1300, normalisation="asinh", noise_channel=True)
    paths = (
        sorted((data_root / "spectra" / "lamost").glob("*.gz"))[:6]
        + sorted((data_root / "spectra" / "sdss").glob("*.gz"))[:4]
    )
    assert len(paths) == 10
    for path in paths:
        found: Spectrum = read_spectrum(path)
        inputs = preprocessing(found)
        assert np.isfinite(inputs).all()
        assert 0.3 < np.median(np.abs(inputs[0])) < 1.2  # asinh(1) = 0.88
