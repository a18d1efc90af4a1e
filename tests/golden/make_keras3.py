"""Writes keras3.{keras,weights.h5,h5} and keras3_io.npz: one small network in each of Keras 3's file formats.

Run once with Keras 3.15.1 and its torch backend: KERAS_BACKEND=torch python tests/golden/make_keras3.py
"""

import os
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
from keras import layers

HERE = Path(__file__).parent

keras.utils.set_random_seed(0)
ids = keras.Input((7,), dtype="int32")
x = layers.Embedding(9, 4)(ids)
inner = keras.Sequential([layers.Conv1D(5, 3, padding="same", activation="relu")], name="inner")
x = inner(x)
x = layers.BatchNormalization(name="norm")(x)
x = layers.Conv1D(5, 1, use_bias=False, name="mixing")(x)
x = layers.GRU(3)(x)
x = layers.BatchNormalization(scale=False, epsilon=1e-2)(x)
model = keras.Model(ids, layers.Dense(2, activation="softmax")(x))
model.compile("adam", "mse")
inputs = np.arange(28).reshape(4, 7) % 9
for _ in range(3):  # running statistics and biases away from where they start; optimiser state in the file
    model.train_on_batch(inputs, np.eye(2)[[0, 1, 1, 0]])
model.save(HERE / "keras3.keras")
model.save_weights(HERE / "keras3.weights.h5")
model.save(HERE / "keras3.h5")
np.savez(HERE / "keras3_io.npz", ids=inputs, output=model.predict(inputs, verbose=0))
