"""The two-digit network as the original Keras script has it, in Keras 3, and a pass of training with it on any backend.

    KERAS_BACKEND=tensorflow python benchmarks/keras_digits.py DIGITS.npz PASSES

Imports neither torch nor this repository, so that it runs where TensorFlow is installed and torch is not. The archive
holds x (N, 28, 28) uint8 and y (N,), and x_test, y_test; prints JSON: seconds of each pass and the accuracy after each.
"""

import json
import sys
import time

import numpy as np
from keras import Input, Model, initializers, layers, ops, optimizers


def l2_normalize(vectors):
    """Keras 2's K.l2_normalize; ops.normalize of Keras 3.15 gives float32 whatever it is given."""
    return vectors / ops.sqrt(ops.maximum(ops.sum(vectors**2, axis=-1, keepdims=True), 1e-12))


class Capsule(layers.Layer):
    """The original's shared capsule layer (Su 2018, archives/5112): all votes, then routing by clustering over them."""

    def __init__(self, num_capsules: int = 10, dim: int = 16, rounds: int = 3, **options):
        super().__init__(**options)
        self.num_capsules, self.dim, self.rounds = num_capsules, dim, rounds

    def build(self, shape):
        glorot = initializers.GlorotUniform()
        self.kernel = self.add_weight(shape=(1, shape[-1], self.num_capsules * self.dim), initializer=glorot)

    def call(self, inputs):
        votes = ops.einsum("bic,cd->bid", inputs, self.kernel[0])  # (B, I, O D)
        votes = ops.reshape(votes, (-1, votes.shape[1], self.num_capsules, self.dim))
        votes = ops.transpose(votes, (0, 2, 1, 3))  # (B, O, I, D)
        logits = ops.zeros_like(votes[..., 0])  # (B, O, I)
        for i in range(self.rounds):
            coupling = ops.softmax(logits, axis=1)
            out = ops.einsum("boi,boid->bod", coupling, votes)
            if i < self.rounds - 1:
                logits = ops.einsum("bod,boid->boi", l2_normalize(out), votes)
        square = ops.sum(out**2, axis=-1, keepdims=True) + 1e-7
        return ops.sqrt(square) / (0.5 + square) * out


def capsule_margin_keras(present, lengths):
    return present * ops.relu(0.9 - lengths) ** 2 + 0.25 * (1 - present) * ops.relu(lengths - 0.1) ** 2


def keras_digits() -> Model:
    """Image (28, 28, 1) -> ten lengths."""
    image = x = Input((28, 28, 1))
    for width in (64, 64):
        x = layers.Conv2D(width, 3, activation="relu")(x)
    x = layers.AveragePooling2D(2)(x)
    for width in (128, 128):
        x = layers.Conv2D(width, 3, activation="relu")(x)
    x = Capsule()(layers.Reshape((-1, 128))(x))
    return Model(image, layers.Lambda(lambda v: ops.sqrt(ops.sum(v**2, axis=-1) + 1e-14))(x))


def main() -> None:
    archive = np.load(sys.argv[1])
    images, labels = archive["x"][..., None].astype(np.float32) / 255, np.eye(10, dtype=np.float32)[archive["y"]]
    test = archive["x_test"][..., None].astype(np.float32) / 255
    model = keras_digits()
    model.compile(optimizers.Adam(1e-3), loss=lambda y, p: ops.mean(ops.sum(capsule_margin_keras(y, p), axis=-1)))
    model.fit(images[:256], labels[:256], batch_size=128, verbose=0)  # traces and compiles
    seconds, accuracy = [], []
    for _ in range(int(sys.argv[2])):
        begin = time.perf_counter()
        model.fit(images, labels, batch_size=128, verbose=0)
        seconds.append(time.perf_counter() - begin)
        accuracy.append(float((model.predict(test, verbose=0).argmax(axis=1) == archive["y_test"]).mean()))
    print(json.dumps({"seconds": seconds, "accuracy": accuracy}))


if __name__ == "__main__":
    main()
