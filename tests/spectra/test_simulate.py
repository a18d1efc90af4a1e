"""The simulator: atomic physics by published numbers, lines where they belong, noise as asked, seeds that repeat."""

import numpy as np
import pytest

from spectra import simulate
from spectra.galaxies import calzetti, smooth
from spectra.instrument import Instrument, fine, observed_grid
from spectra.lines import NARROW, SKY_LINES, STELLAR_LINES, hydrogen, hydrogen_strength
from spectra.quasars import Axis, lyman_depth, quasars
from spectra.simulator import CHUNK, models, shift
from spectra.spectrum import CLASSES, SURVEY_SHARES
from spectra.stars import (
    LIGHT,
    STEP,
    TABLE,
    StarTypes,
    electron_pressure,
    equivalent_widths,
    letter,
    stage_fractions,
)
from trainer import UserError


def star(temperature, gravity=1.0, **changes):
    one, none = np.ones(1), np.zeros(1)
    values = {"temperature": temperature * one, "gravity": gravity * one, "metallicity": none, "pressure_shift": none,
              "carbon": none, "emission": none, "hydrogen": one, "helium": one}  # fmt: skip
    return StarTypes(**{**values, **{key: value * one for key, value in changes.items()}})


def depth(flux, wavelength, centre, half=8.0, away=40.0):
    """Depth of a line under the level beside it."""
    line = np.abs(wavelength - centre) < half
    beside = (np.abs(wavelength - centre) > away) & (np.abs(wavelength - centre) < 2 * away)
    return 1 - flux[line].min() / np.median(flux[beside])


def test_hydrogen_lines_by_published_numbers():
    # vacuum wavelengths and absorption oscillator strengths of the NIST database
    for (lower, upper), (wavelength, strength) in {
        (2, 3): (6564.6, 0.641), (2, 4): (4862.7, 0.119), (2, 5): (4341.7, 0.0447), (3, 9): (9231.5, 0.0126),
    }.items():  # fmt: skip
        assert hydrogen(lower, upper) == pytest.approx(wavelength, abs=0.3)  # without fine structure
        assert hydrogen_strength(lower, upper) == pytest.approx(strength, rel=0.35)  # one Gaunt factor for all


def test_saha_at_the_sun_and_fractions_sum_to_one():
    temperature, pressure = np.array([5778.0]), np.array([20.0])
    neutral, ionised = (f[0] for f in stage_fractions("Ca", temperature, pressure))
    assert ionised > 0.99  # Gray 2005: calcium in the Sun is Ca II
    neutral, ionised = (f[0] for f in stage_fractions("Fe", temperature, pressure))
    assert 0.02 < neutral < 0.2
    assert stage_fractions("H", temperature, pressure)[0][0] > 0.999
    for element in ("Na", "Fe", "He"):
        first, second = stage_fractions(element, TABLE, electron_pressure(TABLE))
        assert ((first + second) < 1 + 1e-12).all()
        assert (np.diff(first) <= 1e-12).all()  # hotter: fewer neutral atoms


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("H 2-4", 8000, 13_000), ("Ca II 3933.66", 2500, 5500), ("He I 4471.48", 15_000, 32_000),
        ("He II 4685.70", 30_000, 50_001), ("Na I 5889.95", 2500, 4500),
    ],
)  # fmt: skip
def test_each_line_peaks_where_its_spectral_type_lies(name, low, high):
    """Payne 1925: hydrogen at A, Ca II at K, He I at B, He II at O, neutral sodium at M."""
    line = next(line for line in STELLAR_LINES if line.name == name)
    widths = equivalent_widths(line, TABLE, electron_pressure(TABLE)).sum(axis=0)
    assert low <= TABLE[widths.argmax()] <= high


def test_the_suns_lines_have_about_the_suns_widths():
    """Moore, Minnaert & Houtgast 1966, in angstrom: Ca II K 20, Na I D2 0.75, Fe I 5270 0.48, H beta 3.7; within 3."""
    observed = {"Ca II 3933.66": 20.0, "Na I 5889.95": 0.75, "Fe I 5269.54": 0.48, "H 2-4": 3.7}
    for line in STELLAR_LINES:
        if line.name in observed:
            found = equivalent_widths(line, np.array([5778.0]), electron_pressure(np.array([5778.0]))).sum()
            assert observed[line.name] / 3 < found < 3 * observed[line.name]


def test_stars_show_the_lines_of_their_type():
    model = models()[0]
    wave, rng = model.wavelength, np.random.default_rng(0)

    def lines(temperature, **changes):
        flux = model(star(temperature, **changes), rng)[0]
        return {c: depth(flux, wave, c) for c in (4862.7, 3934.8, 5891.6)}, flux

    hot, _ = lines(9500)
    cool, _ = lines(4800)
    assert hot[4862.7] > 0.4 > cool[4862.7]
    assert cool[3934.8] > 0.5 > hot[3934.8]
    _, flux = lines(3100)  # the head of TiO at 7,054 (air)
    assert flux[np.abs(wave - 7080) < 15].mean() < 0.75 * flux[np.abs(wave - 7035) < 10].mean()
    naked, _ = lines(15_000, hydrogen=0.0)
    assert naked[4862.7] < 0.1  # a DB white dwarf
    _, flux = lines(3100, emission=8.0)
    assert flux[np.abs(wave - 6564.6) < 3].max() > 1.5 * np.median(flux[np.abs(wave - 6564.6) < 40])
    assert [letter(t) for t in (40_000, 9500, 5800, 3000)] == ["O", "A", "G", "M"]


def test_redshift_moves_lines_to_where_they_are_seen():
    _, galaxies, instrument = models()
    rng, z = np.random.default_rng(0), np.array([0.003, 0.1, 0.35])
    flux = shift(galaxies(rng, np.repeat("starburst", 3)), z)
    for row, redshift in zip(flux, z, strict=True):
        for name in ("H alpha", "[O III] 5007", "[O II] 3729"):
            place = NARROW[name] * (1 + redshift)
            if 3720 < place < 9050:
                near = np.abs(instrument.wavelength - place) < 0.004 * place
                assert abs(instrument.wavelength[near][row[near].argmax()] - place) < 3  # two pixels; [O II] is double
    with pytest.raises(ValueError, match="leave the rest-frame grid"):
        shift(np.ones((1, 10), np.float32), np.array([0.9]))
    assert abs(LIGHT * (10**STEP - 1) - 69) < 0.5  # km/s a pixel


def test_a_starburst_has_lines_and_an_early_galaxy_a_break():
    _, galaxies, _ = models()
    rng = np.random.default_rng(0)
    early, burst = (np.median(galaxies(rng, np.repeat(kind, 20)), axis=0) for kind in ("early", "starburst"))
    wave = galaxies.wavelength

    def d4000(flux):  # Balogh et al. 1999
        return flux[(wave > 4000) & (wave < 4100)].mean() / flux[(wave > 3850) & (wave < 3950)].mean()

    assert d4000(early) > 1.5 > 1.35 > d4000(burst)
    assert depth(burst, wave, 6564.6) < -0.5 or burst[np.abs(wave - 6564.6) < 3].max() > 1.5 * np.median(burst)
    assert 2.0 < float(calzetti(np.array(4400.0)) - calzetti(np.array(5500.0))) + 1 < 2.2  # E(B-V) of 1, by definition


def test_quasars_have_broad_lines_and_a_forest():
    axis = Axis(observed_grid(), 1e-4)
    rng = np.random.default_rng(0)
    flux = quasars(rng, axis, np.full(64, 2.8))
    mean = np.mean(flux / np.median(flux, axis=1, keepdims=True), axis=0)
    rest = axis.wavelength / 3.8
    assert abs(rest[mean.argmax()] - 1215.67) < 8
    assert mean[np.abs(rest - 1548) < 8].mean() > 1.25 * mean[np.abs(rest - 1470) < 15].mean()
    forest = mean[(rest > 1060) & (rest < 1170)].mean() / mean[(rest > 1290) & (rest < 1330)].mean()
    expected = float(np.exp(-lyman_depth(np.array(1115 / 1215.67 * 3.8 - 1))))
    assert expected == pytest.approx(0.76, abs=0.03)
    assert 0.6 * expected < forest < 1.3 * expected  # the continuum is a little higher there, lines too
    roughness = flux[:, (rest > 1060) & (rest < 1170)].std(axis=1) / flux[:, (rest > 1430) & (rest < 1480)].std(axis=1)
    assert np.median(roughness) > 3


def test_noise_is_what_was_asked_for():
    instrument = models()[2]
    rng = np.random.default_rng(0)
    snr = np.repeat([2.0, 20.0], 40)
    flux, ivar = instrument(rng, np.ones((80, len(instrument.wavelength)), np.float32), snr, fine(80, rng))
    found = np.array([np.median((f * np.sqrt(i))[i > 0]) for f, i in zip(flux, ivar, strict=True)])
    ratio = found / snr
    assert 0.75 < np.median(ratio[:40]) < 1.25
    assert 0.75 < np.median(ratio[40:]) < 1.25
    dark = np.interp(5579, instrument.wavelength, instrument.sky) > 10
    assert dark  # [O I] 5577 is where it has to be
    assert 7 > len([w for w, _ in SKY_LINES if 5570 < w < 5590]) >= 1
    assert isinstance(instrument, Instrument)


def test_a_seed_gives_the_same_survey_and_a_longer_one_begins_with_it():
    one, again, longer = simulate(40, 5), simulate(40, 5), simulate(CHUNK + 3, 5)
    for name in ("flux", "ivar", "labels", "snr", "kind"):
        np.testing.assert_array_equal(getattr(one, name), getattr(again, name))
        np.testing.assert_array_equal(getattr(one, name), getattr(longer, name)[:40])
    assert not np.array_equal(one.flux, simulate(40, 6).flux)
    assert len(longer) == CHUNK + 3
    assert np.isfinite(longer.flux).all()
    assert (longer.ivar >= 0).all()
    assert not longer.flux[longer.ivar == 0].any()


def test_shares_kinds_and_redshifts():
    found = simulate(CHUNK, 1, (0.25, 0.25, 0.25, 0.25))
    counts = np.bincount(found.labels, minlength=4)
    assert counts.min() > 30
    assert np.isnan(found.redshift[found.labels == 1]).all()
    z = found.redshift[found.labels == 3]
    assert 0.3 <= z.min() <= z.max() <= 4.0
    assert np.abs(found.redshift[found.labels == 0]).max() < 0.002
    assert {"early", "late", "starburst"} == set(found.kind[found.labels == 2])
    assert sum(SURVEY_SHARES) == pytest.approx(1)
    assert CLASSES == ("star", "unknown", "galaxy", "qso")
    only = simulate(20, 1, (0, 0, 0, 1))
    assert set(only.labels) == {3}


@pytest.mark.parametrize(
    ("num", "shares"), [(0, SURVEY_SHARES), (5, (1, 1, 0, 0)), (5, (0.5, 0.5)), (5, (1.5, -0.5, 0, 0))]
)
def test_impossible_surveys(num, shares):
    with pytest.raises(UserError, match="expected"):
        simulate(num, 0, shares)


def test_smoothing_by_loops_and_boxes_like_a_gaussian():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((2, 60))
    found = smooth(rows, 1.5)
    place = np.arange(-6, 7)
    kernel = np.exp(-0.5 * (place / 1.5) ** 2)
    kernel /= kernel.sum()
    for j in range(60):
        expected = sum(k * rows[1, min(max(j + p, 0), 59)] for k, p in zip(kernel, place, strict=True))
        assert found[1, j] == pytest.approx(expected, abs=1e-12)
    spike = np.zeros((1, 401))
    spike[0, 200] = 1
    boxes = smooth(spike, 20.0)[0]
    gaussian = np.exp(-0.5 * ((np.arange(401) - 200) / 20) ** 2) / (20 * np.sqrt(2 * np.pi))
    assert boxes.sum() == pytest.approx(1)
    assert np.abs(boxes - gaussian).max() < 0.1 * gaussian.max()
