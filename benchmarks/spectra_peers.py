"""Spectra a second of what a user would otherwise pick, at 2600 points: tsai's InceptionTime, aeon's MiniRocket.

    python benchmarks/spectra_peers.py inceptiontime train --steps 3 --threads 1
    python benchmarks/spectra_peers.py minirocket infer

Imports nothing of this repository, so that it runs where tsai or aeon is installed; `spectra_speed.py` calls it. Prints
one number. A step of InceptionTime is a batch of 32, for it is slow; MiniRocket is trained once, on 160 spectra a step.
"""

import argparse
import time

import numpy as np

SIZE, BATCH = 2600, 160
SLOW_BATCH = 32  # of InceptionTime


def inceptiontime(what: str, steps: int, threads: int) -> float:
    import torch
    from tsai.models.InceptionTime import InceptionTime

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = InceptionTime(1, 4)
    if what == "infer":
        model, x = model.eval(), torch.randn(SLOW_BATCH, 1, SIZE)
        with torch.no_grad():
            model(x)
            begin = time.perf_counter()
            for _ in range(steps):
                model(x)
        return steps * SLOW_BATCH / (time.perf_counter() - begin)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    x, labels = torch.randn(SLOW_BATCH, 1, SIZE), torch.randint(0, 4, (SLOW_BATCH,))
    for step in range(steps + 1):  # the first is not timed
        if step == 1:
            begin = time.perf_counter()
        loss = torch.nn.functional.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return steps * SLOW_BATCH / (time.perf_counter() - begin)


def minirocket(what: str, steps: int, threads: int) -> float:
    from aeon.classification.convolution_based import MiniRocketClassifier

    rng = np.random.default_rng(0)
    x = rng.standard_normal((steps * BATCH, 1, SIZE), dtype=np.float32)
    labels = np.arange(len(x)) % 4
    model = MiniRocketClassifier(n_jobs=threads, random_state=0)
    model.fit(x[:32], labels[:32])  # compiles
    begin = time.perf_counter()
    model.fit(x, labels)
    if what == "infer":
        begin = time.perf_counter()
        model.predict(x)
    return len(x) / (time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("peer", choices=["inceptiontime", "minirocket"])
    parser.add_argument("what", choices=["train", "infer"])
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    settings = parser.parse_args()
    work = {"inceptiontime": inceptiontime, "minirocket": minirocket}[settings.peer]
    print(work(settings.what, settings.steps, settings.threads))


if __name__ == "__main__":
    main()
