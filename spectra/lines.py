r"""Lines of stars, galaxies, quasars and the night sky, with where their numbers come from. All in vacuum angstrom.

Metals: air wavelengths as of the NIST Atomic Spectra Database, converted here (Ciddor 1996), with its excitation
energies; oscillator strengths and partition functions rounded, good to a factor of two. Hydrogen: Rydberg's formula.
Ionisation energies: NIST. Abundances: Asplund et al. 2009. Molecular band heads: Pearse & Gaydon, *The Identification
of Molecular Spectra* (1976); for M dwarfs Kirkpatrick, Henry & McCarthy 1991; depths and widths by eye. Quasar lines:
after Vanden Berk et al. 2001, table 2, the blends shared out among their members. Narrow lines of galaxies:
Osterbrock & Ferland 2006. Night sky: Osterbrock et al. 1996 (OH), Slanger et al. 2003 (O I, Na I); street lamps Hg I;
strengths of a dark site to a factor of two.
"""

from typing import NamedTuple

import numpy as np

from spectra.spectrum import air_to_vacuum

RYDBERG = 109_677.583  # of hydrogen, 1/cm


def hydrogen(lower: int, upper: int) -> float:
    r"""Vacuum wavelength in angstrom of a hydrogen line: :math:`1/\lambda = R_H (1/l^2 - 1/u^2)` (Rydberg 1890)."""
    return 1e8 / (RYDBERG * (lower**-2 - upper**-2))


def hydrogen_strength(lower: int, upper: int) -> float:
    r"""Oscillator strength by Kramers: :math:`\frac{32}{3\pi\sqrt3} (l^{-2}-u^{-2})^{-3} l^{-5} u^{-3}`, times a Gaunt
    factor of 0.8 (0.64 exact for H alpha, 0.63 so).
    """
    return 0.75 * 32 / (3 * np.pi * 3**0.5) * (lower**-2 - upper**-2) ** -3 / (lower**5 * upper**3)


class StellarLine(NamedTuple):
    """An absorption line of a stellar photosphere."""

    name: str
    element: str
    stage: int  # 1: neutral, 2: once ionised
    wavelength: float  # vacuum angstrom
    excitation: float  # eV of the lower level
    strength: float  # g f


class Element(NamedTuple):
    """What Saha's and Boltzmann's equations need."""

    abundance: float  # log10 of the number of atoms, hydrogen 12
    ionisation: tuple[float, float]  # eV, of the neutral and the once ionised atom
    partition: tuple[float, float, float]  # functions of the first three stages around 6,000 K


ELEMENTS = {
    "H": Element(12.00, (13.598, 99.0), (2, 1, 1)),
    "He": Element(10.93, (24.587, 54.418), (1, 2, 1)),
    "O": Element(8.69, (13.618, 35.12), (9, 4, 9)),
    "Na": Element(6.24, (5.139, 47.29), (2, 1, 6)),
    "Mg": Element(7.60, (7.646, 15.035), (1, 2, 1)),
    "Si": Element(7.51, (8.152, 16.346), (9, 6, 1)),
    "K": Element(5.03, (4.341, 31.63), (2, 1, 6)),
    "Ca": Element(6.34, (6.113, 11.872), (1.2, 2.3, 1)),
    "Ti": Element(4.95, (6.828, 13.576), (30, 55, 30)),
    "Cr": Element(5.64, (6.767, 16.486), (10, 7, 20)),
    "Mn": Element(5.43, (7.434, 15.64), (6.5, 8, 6)),
    "Fe": Element(7.50, (7.902, 16.199), (27, 43, 25)),
    "Sr": Element(2.87, (5.695, 11.030), (1.3, 2.2, 1)),
    "Ba": Element(2.18, (5.212, 10.004), (2.5, 4, 1)),
}

# name, element, stage, air wavelength, excitation eV, log gf
_METALS = """
He 1 3888.65 19.82 -0.72|He 1 4026.19 20.96 -0.37|He 1 4387.93 21.22 -0.88|He 1 4471.48 20.96 0.05
He 1 4921.93 21.22 -0.44|He 1 5015.68 20.62 -0.82|He 1 5875.62 20.96 0.74|He 1 6678.15 21.22 0.33
He 1 7065.19 20.96 -0.20|He 2 4541.59 51.02 -0.22|He 2 4685.70 48.37 1.18|He 2 5411.52 51.02 0.32|O 1 7773.4 9.15 0.69
O 1 8446.5 9.52 0.24|Mg 2 4481.2 8.86 0.97|Mg 2 2795.53 0.00 0.10|Mg 2 2802.70 0.00 -0.21|Mg 1 2852.13 0.00 0.24
Si 2 3856.02 6.86 -0.41|Si 2 4128.05 9.84 0.36|Si 2 4130.89 9.84 0.55|Si 2 6347.11 8.12 0.15|Si 2 6371.37 8.12 -0.08
Na 1 5889.95 0.00 0.11|Na 1 5895.92 0.00 -0.19|Na 1 8183.26 2.10 0.24|Na 1 8194.81 2.10 0.49|K 1 7664.90 0.00 0.13
K 1 7698.96 0.00 -0.17|Mg 1 3829.36 2.71 -0.21|Mg 1 3832.30 2.71 0.27|Mg 1 3838.29 2.72 0.49|Mg 1 4571.10 0.00 -5.69
Mg 1 5167.32 2.71 -0.87|Mg 1 5172.68 2.71 -0.39|Mg 1 5183.60 2.72 -0.17|Mg 1 5528.41 4.35 -0.50
Mg 1 8806.76 4.35 -0.13|Ca 2 3933.66 0.00 0.13|Ca 2 3968.47 0.00 -0.17|Ca 2 8498.02 1.69 -1.42|Ca 2 8542.09 1.70 -0.46
Ca 2 8662.14 1.69 -0.72|Ca 1 4226.73 0.00 0.24|Ca 1 4302.53 1.90 0.28|Ca 1 4318.65 1.90 -0.21|Ca 1 4425.44 1.88 -0.36
Ca 1 4434.96 1.89 -0.01|Ca 1 4454.78 1.90 0.26|Ca 1 5265.56 2.52 -0.11|Ca 1 5588.75 2.53 0.36|Ca 1 5594.46 2.52 0.10
Ca 1 5857.45 2.93 0.24|Ca 1 6102.72 1.88 -0.79|Ca 1 6122.22 1.89 -0.32|Ca 1 6162.17 1.90 -0.09|Ca 1 6439.08 2.53 0.39
Ca 1 6462.57 2.52 0.26|Ca 1 6493.78 2.52 -0.11|Sr 2 4077.71 0.00 0.15|Sr 2 4215.52 0.00 -0.17|Ba 2 4554.03 0.00 0.17
Ba 2 4934.08 0.00 -0.16|Ba 2 6141.71 0.70 -0.08|Ba 2 6496.90 0.60 -0.38|Fe 1 3719.93 0.00 -0.43|Fe 1 3734.86 0.86 0.32
Fe 1 3737.13 0.05 -0.57|Fe 1 3745.56 0.09 -0.77|Fe 1 3749.49 0.91 0.16|Fe 1 3758.23 0.96 -0.03|Fe 1 3763.79 0.99 -0.24
Fe 1 3815.84 1.48 0.24|Fe 1 3820.43 0.86 0.12|Fe 1 3825.88 0.91 -0.04|Fe 1 3859.91 0.00 -0.71|Fe 1 3878.57 0.09 -1.36
Fe 1 3886.28 0.05 -1.08|Fe 1 4045.81 1.48 0.28|Fe 1 4063.59 1.56 0.07|Fe 1 4071.74 1.61 -0.02|Fe 1 4132.06 1.61 -0.67
Fe 1 4143.87 1.56 -0.51|Fe 1 4202.03 1.48 -0.71|Fe 1 4250.79 1.56 -0.71|Fe 1 4260.47 2.40 0.08|Fe 1 4271.76 1.48 -0.16
Fe 1 4307.90 1.56 -0.07|Fe 1 4325.76 1.61 0.01|Fe 1 4383.54 1.48 0.20|Fe 1 4404.75 1.56 -0.14|Fe 1 4415.12 1.61 -0.62
Fe 1 4461.65 0.09 -3.21|Fe 1 4528.61 2.18 -0.82|Fe 1 4531.15 1.48 -2.15|Fe 1 4871.32 2.87 -0.36
Fe 1 4891.49 2.85 -0.11|Fe 1 4920.50 2.83 0.07|Fe 1 4957.60 2.81 0.23|Fe 1 5006.12 2.83 -0.61|Fe 1 5041.07 0.96 -3.09
Fe 1 5110.41 0.00 -3.76|Fe 1 5142.93 0.96 -3.08|Fe 1 5227.19 1.56 -1.23|Fe 1 5269.54 0.86 -1.32
Fe 1 5328.04 0.91 -1.47|Fe 1 5371.49 0.96 -1.65|Fe 1 5397.13 0.91 -1.99|Fe 1 5405.77 0.99 -1.84
Fe 1 5429.70 0.96 -1.88|Fe 1 5446.92 0.99 -1.91|Fe 1 5455.61 1.01 -2.09|Fe 1 5586.76 3.37 -0.14|Fe 1 5615.64 3.33 0.05
Fe 1 5709.38 3.37 -1.03|Fe 1 6136.62 2.45 -1.40|Fe 1 6191.56 2.43 -1.42|Fe 1 6230.72 2.56 -1.28
Fe 1 6252.56 2.40 -1.69|Fe 1 6393.60 2.43 -1.43|Fe 1 6400.00 3.60 -0.29|Fe 1 6430.85 2.18 -2.01
Fe 1 6494.98 2.40 -1.27|Fe 1 6677.99 2.69 -1.42|Fe 1 8327.06 2.20 -1.53|Fe 1 8387.77 2.18 -1.49
Fe 1 8514.07 2.20 -2.23|Fe 1 8688.62 2.18 -1.21|Fe 2 4233.17 2.58 -1.90|Fe 2 4508.28 2.86 -2.25
Fe 2 4549.47 2.83 -1.92|Fe 2 4583.84 2.81 -1.87|Fe 2 4923.93 2.89 -1.26|Fe 2 5018.44 2.89 -1.10
Fe 2 5169.03 2.89 -1.00|Fe 2 5316.61 3.15 -1.85|Ti 2 3759.29 0.61 0.28|Ti 2 3761.32 0.57 0.18|Ti 2 4443.80 1.08 -0.71
Ti 2 4468.51 1.13 -0.60|Ti 2 4501.27 1.12 -0.77|Ti 1 4981.73 0.85 0.57|Ti 1 4991.07 0.84 0.45|Ti 1 5014.19 0.81 0.04
Ti 1 5173.74 0.00 -1.06|Ti 1 8435.65 0.84 -1.02|Ti 1 8426.51 0.83 -1.20|Cr 1 4254.33 0.00 -0.09
Cr 1 4274.80 0.00 -0.22|Cr 1 4289.72 0.00 -0.37|Cr 1 5204.51 0.94 -0.19|Cr 1 5206.04 0.94 0.02|Cr 1 5208.42 0.94 0.17
Cr 1 5409.77 1.03 -0.67|Mn 1 4030.75 0.00 -0.50|Mn 1 4033.06 0.00 -0.65|Mn 1 4034.48 0.00 -0.84|Mn 1 4783.43 2.30 0.04
Mn 1 6021.82 3.08 0.03
"""


def _stellar_lines() -> tuple[StellarLine, ...]:
    lines = [
        StellarLine(f"H {lower}-{upper}", "H", 1, hydrogen(lower, upper), energy, weight)
        for lower, uppers, energy in ((2, range(3, 19), 10.199), (3, range(9, 20), 12.088))
        for upper in uppers
        if (weight := 2 * lower**2 * hydrogen_strength(lower, upper))
    ]
    for entry in _METALS.replace("\n", "|").strip("|").split("|"):
        element, stage, air, excitation, loggf = entry.split()
        wavelength = float(air_to_vacuum(np.array(float(air))))
        name = f"{element} {'I' * int(stage)} {air}"
        lines.append(StellarLine(name, element, int(stage), wavelength, float(excitation), 10 ** float(loggf)))
    return tuple(lines)


STELLAR_LINES = _stellar_lines()


class Band(NamedTuple):
    """A molecular band: sharp at its head, fading over ``width`` angstrom to the red, or to the violet if negative."""

    molecule: str
    head: float  # air angstrom
    width: float
    weight: float


BANDS = tuple(
    Band(molecule, head, width, weight)
    for molecule, entries in {
        "TiO": [
            (4761, 90, 0.5), (4954, 110, 0.8), (5167, 120, 0.9), (5448, 110, 0.7), (5597, 60, 0.3), (5759, 80, 0.6),
            (5847, 90, 0.6), (6159, 110, 0.9), (6651, 90, 0.7), (6681, 70, 0.5), (7054, 90, 1.0), (7088, 80, 0.8),
            (7126, 80, 0.6), (7589, 90, 0.7), (7666, 70, 0.4), (8206, 60, 0.2), (8432, 70, 0.5), (8859, 70, 0.4),
        ],
        "VO": [(5737, 60, 0.3), (7334, 120, 0.5), (7851, 140, 0.6), (8521, 100, 0.4)],
        "CaH": [(6389, -30, 0.4), (6946, -150, 1.0)],
        "MgH": [(4845, -60, 0.25), (5211, -60, 0.5), (5211, -260, 0.8), (5559, -40, 0.2)],
        "CH": [(4315, -22, 1.0), (3889, -12, 0.3)],
        "CN": [(3883, -45, 1.0), (3590, -60, 0.8), (4216, -50, 0.5), (6925, 100, 0.25), (7088, 100, 0.3),
               (7876, 130, 0.35), (8067, 100, 0.25), (9141, 120, 0.3)],
        "C2": [(4383, -60, 0.4), (4737, -95, 1.0), (5165, -120, 1.2), (5636, -120, 1.0), (6122, -90, 0.5),
               (6191, -80, 0.5)],
    }.items()
    for head, width, weight in entries
)  # fmt: skip

# Narrow lines of galaxies and of the narrow-line region: name -> vacuum angstrom
NARROW = {
    "[O II] 3727": 3727.09, "[O II] 3729": 3729.88, "[Ne III] 3869": 3869.86, "H zeta": 3890.16, "H epsilon": 3971.20,
    "H delta": 4102.90, "H gamma": 4341.69, "[O III] 4363": 4364.44, "H beta": 4862.69, "[O III] 4959": 4960.30,
    "[O III] 5007": 5008.24, "He I 5876": 5877.25, "[O I] 6300": 6302.05, "[N II] 6548": 6549.86, "H alpha": 6564.61,
    "[N II] 6583": 6585.27, "[S II] 6716": 6718.29, "[S II] 6731": 6732.67, "[Ar III] 7136": 7137.77,
    "[S III] 9069": 9071.1, "Mg II 2798": 2799.12,
}  # fmt: skip

# Broad lines of quasars: name -> (vacuum angstrom, equivalent width in angstrom of the mean quasar, FWHM in km/s)
BROAD = {
    "O VI 1034": (1033.8, 9.8, 5500), "Ly alpha": (1215.67, 75.0, 4000), "N V 1240": (1240.1, 18.0, 5500),
    "O I 1305": (1305.4, 1.7, 3500), "C II 1335": (1335.3, 0.7, 3500), "Si IV 1398": (1398.3, 8.1, 5500),
    "C IV 1549": (1549.1, 24.0, 5000), "He II 1640": (1640.4, 5.0, 9000), "Al III 1857": (1857.4, 1.5, 5000),
    "Si III] 1892": (1892.0, 2.5, 5000), "C III] 1909": (1908.7, 19.0, 6500), "Mg II 2799": (2799.1, 32.0, 4000),
    "H zeta": (3890.2, 1.0, 4000), "H delta": (4102.9, 5.0, 4500), "H gamma": (4341.7, 13.0, 4500),
    "H beta": (4862.7, 46.0, 4500), "He I 5876": (5877.3, 5.0, 4500), "H alpha": (6564.6, 195.0, 4000),
    "He I 7065": (7067.2, 2.5, 4000), "O I 8446": (8448.6, 9.0, 3500),
}  # fmt: skip

# Iron's blends as broad humps: (vacuum angstrom, sigma in angstrom, height over the continuum of a mean quasar);
# ultraviolet after Vestergaard & Wilkes 2001, optical after Boroson & Green 1992
IRON = (
    (2080.0, 45.0, 0.06), (2160.0, 40.0, 0.04), (2320.0, 45.0, 0.10), (2400.0, 45.0, 0.12), (2500.0, 55.0, 0.18),
    (2590.0, 35.0, 0.14), (2740.0, 30.0, 0.08), (2880.0, 35.0, 0.06), (2950.0, 40.0, 0.09), (3190.0, 60.0, 0.05),
    (4180.0, 40.0, 0.04), (4500.0, 35.0, 0.10), (4570.0, 35.0, 0.14), (4640.0, 30.0, 0.10), (5190.0, 35.0, 0.12),
    (5275.0, 45.0, 0.14), (5350.0, 30.0, 0.08),
)  # fmt: skip

# Night sky: air angstrom -> strength against a sky continuum of 1 a pixel at LAMOST's resolution, a dark site
_SKY = (
    (4046.6, 1.0), (4358.3, 2.0), (5460.7, 2.5), (5577.3, 40.0), (5682.8, 0.7), (5889.95, 6.0), (5895.9, 3.5),
    (6300.3, 14.0), (6363.8, 5.0), (6498.7, 1.0), (6533.0, 1.2), (6553.6, 1.2), (6577.2, 0.8), (6829.5, 1.5),
    (6863.96, 5.0), (6871.1, 1.5), (6889.3, 1.5), (6912.6, 2.0), (6923.2, 4.0), (6939.5, 1.8), (6949.0, 1.5),
    (6978.4, 1.2), (7244.9, 3.0), (7276.4, 8.0), (7284.4, 4.0), (7303.7, 3.0), (7316.3, 11.0), (7329.1, 5.0),
    (7340.9, 9.0), (7358.7, 4.0), (7369.3, 6.0), (7392.2, 5.0), (7401.9, 5.0), (7438.0, 1.5), (7524.0, 3.0),
    (7571.7, 2.5), (7712.0, 2.0), (7750.6, 11.0), (7759.9, 4.0), (7780.5, 4.0), (7794.1, 14.0), (7808.5, 8.0),
    (7821.5, 12.0), (7841.3, 6.0), (7853.3, 9.0), (7870.7, 3.0), (7890.7, 4.0), (7913.7, 16.0), (7921.0, 6.0),
    (7949.2, 8.0), (7964.6, 14.0), (7993.3, 13.0), (8014.1, 6.0), (8025.8, 10.0), (8052.0, 6.0), (8061.9, 6.0),
    (8089.0, 2.0), (8104.6, 2.0), (8288.6, 6.0), (8298.6, 4.0), (8310.7, 5.0), (8344.6, 20.0), (8352.8, 8.0),
    (8382.4, 10.0), (8399.2, 24.0), (8415.2, 12.0), (8430.2, 20.0), (8452.3, 12.0), (8465.4, 16.0), (8493.4, 12.0),
    (8504.6, 10.0), (8538.7, 5.0), (8548.8, 4.0), (8627.7, 3.0), (8649.2, 2.0), (8681.0, 3.0), (8709.0, 3.0),
    (8758.0, 6.0), (8767.9, 14.0), (8778.3, 9.0), (8791.2, 12.0), (8810.0, 5.0), (8827.1, 24.0), (8836.0, 9.0),
    (8849.7, 10.0), (8867.6, 18.0), (8885.9, 24.0), (8903.1, 20.0), (8919.6, 22.0), (8943.4, 12.0), (8958.1, 18.0),
    (8988.4, 12.0), (9001.6, 10.0), (9038.1, 8.0), (9049.2, 8.0),
)  # fmt: skip
SKY_LINES = tuple((float(air_to_vacuum(np.array(w))), strength) for w, strength in _SKY)

# Telluric bands: (air angstrom from, to, optical depth at airmass 1.2); head at the blue end for oxygen
TELLURIC = (
    (6276.0, 6315.0, 0.08), (6867.0, 6945.0, 0.35), (7165.0, 7340.0, 0.15), (7593.0, 7700.0, 0.9),
    (8130.0, 8350.0, 0.15), (8940.0, 9100.0, 0.35),
)  # fmt: skip
