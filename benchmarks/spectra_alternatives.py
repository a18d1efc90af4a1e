"""What a user would otherwise pick, on the same spectra: MiniRocket and ridge (aeon), a random forest (scikit-learn).

    python benchmarks/spectra_alternatives.py FOLDER --train 8000

Imports neither torch nor this repository; needs aeon. The folder is that of `spectra_export.py`. Both are trained on a
random part of the training spectra; the forest sees means of four pixels, for speed. As our networks, each is then
calibrated on the validation part (multinomial logistic regression on its scores) and shifted to the survey's class
shares. Prints JSON a method: seconds, confusion matrix and macro-F1 of the test set, as trained and shifted.
"""

import argparse
import json
import time
from functools import partial
from pathlib import Path

import numpy as np
from aeon.transformations.collection.convolution_based import MiniRocket
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, RidgeClassifierCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

NAMES = ("x", "y", "x_valid", "y_valid", "x_test", "y_test")
SURVEY = np.array([0.9155, 0.0709, 0.0108, 0.0028])  # the article's class shares


def confusion(truth, predicted):
    return np.bincount(4 * truth + predicted, minlength=16).reshape(4, 4)


def macro_f1(counts):
    """At the shares that the spectra have."""
    return float((2 * np.diag(counts) / np.maximum(counts.sum(axis=0) + counts.sum(axis=1), 1)).mean())


def scores_of(model, features):
    """What grows with the chance of a class: the ridge's decision function, the forest's log probabilities."""
    if hasattr(model, "decision_function"):
        return model.decision_function(features)
    return np.log(model.predict_proba(features) + 1e-3)


def coarse(x):
    size = x.shape[1] // 4
    return x[:, : 4 * size].reshape(len(x), size, 4).mean(axis=2)


def convolved(rocket, x):
    return np.concatenate(
        [np.asarray(rocket.transform(part[:, None])) for part in np.array_split(x, len(x) // 256 + 1)]
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=8000, help="use only so many training spectra; 0: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--methods", nargs="+", default=["minirocket", "forest"])
    settings = parser.parse_args()
    data = {n: np.load(settings.folder / f"{n}.npy", mmap_mode="r") for n in NAMES}
    rows = np.sort(np.random.default_rng(settings.seed).permutation(len(data["y"]))[: settings.train or None])
    x, y = np.array(data["x"][rows]), np.array(data["y"][rows])
    x_valid, y_valid = np.array(data["x_valid"]), np.array(data["y_valid"])
    x_test, y_test = np.array(data["x_test"]), np.array(data["y_test"])
    for method in settings.methods:
        begin = time.perf_counter()
        if method == "minirocket":
            rocket = MiniRocket(random_state=settings.seed, n_jobs=1).fit(x[:, None].astype(np.float32))
            transform = partial(convolved, rocket)
            model = make_pipeline(StandardScaler(), RidgeClassifierCV(alphas=np.logspace(-1, 5, 7)))
        else:
            transform = coarse
            model = RandomForestClassifier(300, n_jobs=1, random_state=settings.seed)
        features = transform(x)
        transformed = time.perf_counter()
        model.fit(features, y)
        calibration = LogisticRegression(max_iter=1000).fit(scores_of(model, transform(x_valid)), y_valid)
        fitted = time.perf_counter()
        features = transform(x_test)
        shifted = calibration.predict_proba(scores_of(model, features)) * SURVEY / (np.bincount(y_valid) / len(y_valid))
        found = {"as_trained": confusion(y_test, model.predict(features)),
                 "shifted": confusion(y_test, shifted.argmax(axis=1))}  # fmt: skip
        seconds = {"features": transformed - begin, "fit": fitted - transformed, "test": time.perf_counter() - fitted}
        print(json.dumps({"method": method, "train": len(y), "test": len(y_test), "seconds": seconds,
                          "macro_f1": {name: macro_f1(counts) for name, counts in found.items()},
                          **{name: counts.tolist() for name, counts in found.items()}}), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
