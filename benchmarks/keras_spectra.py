"""The article's network and its two stages in Keras 3, as the original script has them, on any backend.

    KERAS_BACKEND=tensorflow python benchmarks/keras_spectra.py FOLDER EPOCHS F1_EPOCHS STEPS SEED BATCH

Imports neither torch nor this repository, so that it runs where TensorFlow is installed and torch is not. The folder
holds x.npy (N, L) float32 as the network takes it, y.npy (N,), and the same as x_valid, y_valid, x_test, y_test
(`spectra_export.py`). Prints JSON: seconds of each epoch, validation macro-F1 of each epoch at the survey's class
shares, and for the best epoch of each stage the confusion matrix of the test set, as trained and with probabilities
shifted from the batches' shares to the survey's. With EPOCHS 0: inference alone, its seconds over the test set.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
from keras import Input, Model, layers, ops, optimizers, utils

SHARES = (0.8, 0.1, 0.05, 0.05)
SURVEY = np.array([0.9155, 0.0709, 0.0108, 0.0028])


def fold(x):
    """The two halves of the channels, added."""
    half = x.shape[-1] // 2
    return x[..., :half] + x[..., half:]


def block(x, width):
    start = x
    for dilation in (1, 2, 4):
        x = layers.Conv1D(2 * width, 3, dilation_rate=dilation, padding="same", activation="relu")(x)
        x = layers.Lambda(fold)(x)
    if start.shape[-1] != width:
        start = layers.Conv1D(width, 1)(start)
    return layers.Add()([start, x])


def network(size):
    x = spectrum = Input((size, 1))
    for i, width in enumerate((16, 16, 32, 32, 64, 64, 128, 128)):
        if i:
            x = layers.MaxPooling1D(2)(x)
        x = block(x, width)
    x = layers.Dropout(0.5, noise_shape=(None, x.shape[1], 1))(x)
    x = layers.Dense(128, activation="relu")(layers.GlobalMaxPooling1D()(x))
    return Model(spectrum, layers.Dense(4, activation="softmax")(x))


def soft_macro_f1(truth, probabilities):
    """-log of the macro-F1 with soft counts, F1 = 2 TP / (T + P)."""
    right = ops.sum(truth * probabilities, axis=0)
    both = ops.sum(truth, axis=0) + ops.sum(probabilities, axis=0)
    return -ops.log(ops.mean(2 * right / (both + 1e-7)) + 1e-7)


def batches(x, y, size, seed):
    rng = np.random.default_rng(seed)
    rows = [np.flatnonzero(y == k) for k in range(4)]
    while True:
        chosen = rng.choice(4, size, p=SHARES)
        index = np.array([rng.choice(rows[k]) for k in chosen])
        yield x[index][..., None], np.eye(4, dtype=np.float32)[y[index]]


def confusion(model, x, y, shares=SHARES):
    """At these class shares; those of the batches leave the network as it was trained."""
    probabilities = model.predict(x[..., None], batch_size=64, verbose=0) * (np.array(shares) / SHARES)
    predicted = probabilities.argmax(axis=1)
    return np.bincount(4 * y + predicted, minlength=16).reshape(4, 4)


def macro_f1(counts):
    rates = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1) * SURVEY[:, None]
    return float((2 * np.diag(rates) / np.maximum(rates.sum(axis=0) + rates.sum(axis=1), 1e-12)).mean())


def main() -> None:
    folder, (epochs, f1_epochs, steps, seed, size) = Path(sys.argv[1]), map(int, sys.argv[2:7])
    data = {
        name: np.load(folder / f"{name}.npy", mmap_mode="r")
        for name in ("x", "y", "x_valid", "y_valid", "x_test", "y_test")
    }
    utils.set_random_seed(seed)
    model = network(data["x"].shape[1])
    if epochs == 0:
        model.predict(data["x_test"][:64][..., None], batch_size=64, verbose=0)
        begin = time.perf_counter()
        model.predict(data["x_test"][..., None], batch_size=64, verbose=0)
        print(json.dumps({"inference_seconds": time.perf_counter() - begin, "spectra": len(data["y_test"])}))
        return
    found = {"seconds": [], "validation_macro_f1": [], "test_confusion": [], "test_shifted": []}
    feed = batches(data["x"], data["y"], size, seed)
    for loss, count, rate in (("categorical_crossentropy", epochs, 1e-3), (soft_macro_f1, f1_epochs, 1e-4)):
        model.compile(optimizers.Adam(rate), loss=loss)
        best, kept = -1.0, model.get_weights()
        for _ in range(count):
            begin = time.perf_counter()
            model.fit(feed, steps_per_epoch=steps, epochs=1, verbose=0)
            found["seconds"].append(time.perf_counter() - begin)
            score = macro_f1(confusion(model, data["x_valid"], data["y_valid"]))
            found["validation_macro_f1"].append(score)
            if score > best:
                best, kept = score, model.get_weights()
        model.set_weights(kept)
        found["test_confusion"].append(confusion(model, data["x_test"], data["y_test"]).tolist())
        found["test_shifted"].append(confusion(model, data["x_test"], data["y_test"], SURVEY).tolist())
    print(json.dumps(found))


if __name__ == "__main__":
    main()
