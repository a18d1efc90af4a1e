"""What a user would otherwise pick, on the same spectra: MiniRocket and ridge (aeon), a random forest (scikit-learn).

    python benchmarks/spectra_alternatives.py FOLDER --train 4000

Imports neither torch nor this repository; needs aeon. The folder is that of `keras_spectra.py`. Training spectra are
drawn by the batch shares of the article, for both; the forest sees every fourth pixel's mean, for speed. Prints JSON:
seconds, and the confusion matrix of the test set.
"""

import argparse
import json
import time
from functools import partial
from pathlib import Path

import numpy as np
from aeon.transformations.collection.convolution_based import MiniRocket
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import RidgeClassifierCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

SHARES = (0.8, 0.1, 0.05, 0.05)


def drawn(y, count, seed):
    """Rows by the article's shares, none twice while there are enough."""
    rng = np.random.default_rng(seed)
    rows = []
    for k, share in enumerate(SHARES):
        found = np.flatnonzero(y == k)
        want = round(share * count)
        rows.append(rng.choice(found, want, replace=want > len(found)))
    return np.sort(np.concatenate(rows))


def confusion(truth, predicted):
    return np.bincount(4 * truth + predicted, minlength=16).reshape(4, 4).tolist()


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
    parser.add_argument("--train", type=int, default=4000)
    parser.add_argument("--test", type=int, default=0, help="use only so many test spectra; 0: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--methods", nargs="+", default=["minirocket", "forest"])
    settings = parser.parse_args()
    x, y, x_test, y_test = (
        np.load(settings.folder / f"{n}.npy", mmap_mode="r") for n in ("x", "y", "x_test", "y_test")
    )
    rows = drawn(np.asarray(y), settings.train, settings.seed)
    x, y = np.array(x[rows]), np.array(y[rows])
    x_test, y_test = np.array(x_test[: settings.test or None]), np.array(y_test[: settings.test or None])
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
        fitted = time.perf_counter()
        predicted = model.predict(transform(x_test))
        seconds = {"features": transformed - begin, "fit": fitted - transformed, "test": time.perf_counter() - fitted}
        print(json.dumps({"method": method, "train": len(y), "test": len(y_test), "seconds": seconds,
                          "test_confusion": confusion(y_test, predicted)}), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
