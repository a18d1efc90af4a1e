"""SpectraNet: the original's numbers, its parts by plain loops, and what must not depend on anything else."""

import numpy as np
import pytest
import torch

from spectra import SpectraNet
from spectra.network import FoldedConv
from trainer import UserError


def test_the_originals_output(golden):
    model = SpectraNet.from_keras(golden / "spectra.h5").eval()
    archive = np.load(golden / "spectra_io.npz", allow_pickle=False)
    with torch.no_grad():
        found = model(torch.from_numpy(archive["x"]).transpose(1, 2)).softmax(dim=1).numpy()
    assert np.abs(found - archive["y"]).max() < 1e-5
    assert sum(p.numel() for p in model.parameters()) == 748_324


def test_a_keras_file_of_another_network(golden):
    with pytest.raises(UserError, match=r"28 conv1d.*the file has"):
        SpectraNet.from_keras(golden / "cnn_digits.h5")


@pytest.mark.parametrize("dilation", [1, 2, 4])
def test_a_folded_convolution_by_loops(dilation):
    layer = FoldedConv(2, 3, kernel=3, dilation=dilation).double().requires_grad_(False)
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(1, 2, 11, dtype=torch.float64)
    found = layer(x)[0]
    for channel in range(3):
        for place in range(11):
            total = 0.0
            for half in (channel, channel + 3):
                value = float(layer.bias[half])
                for i in range(2):
                    for k in range(3):
                        there = place + (k - 1) * dilation
                        if 0 <= there < 11:
                            value += float(layer.weight[half, i, k] * x[0, i, there])
                total += max(0.0, value)
            assert float(found[channel, place]) == pytest.approx(total, abs=1e-12)  # float64, 12 terms


def test_dropout_kills_whole_positions_and_keeps_the_mean():
    torch.manual_seed(1)
    model = SpectraNet(widths=(4, 6), dropout=0.5)
    seen = []
    model.blocks[-1].register_forward_hook(lambda m, i, o: seen.append(o))
    model.dense = torch.nn.Identity()  # so that the pooled features can be read off
    model.scores = torch.nn.Identity()
    kept = []
    for _ in range(200):
        pooled = model.train()(torch.ones(1, 1, 4))  # two positions before the pool
        full = seen.pop()
        choices = [torch.zeros(6), 2 * full[0, :, 0], 2 * full[0, :, 1], 2 * full[0].amax(dim=1)]
        match = [torch.allclose(pooled[0], torch.relu(c)) for c in choices]
        assert any(match)  # never some channels of a position without the others
        kept.append(match[0])
    assert 0.15 < np.mean(kept) < 0.36  # both positions die a quarter of the time, 200 draws


def test_a_gradient_reaches_every_parameter():
    model = SpectraNet(widths=(4, 4, 8), in_channels=2)
    model(torch.randn(4, 2, 64)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_a_spectrum_does_not_depend_on_its_batch_and_length_is_free():
    model = SpectraNet(widths=(4, 4, 8)).eval()
    x = torch.randn(3, 1, 97)
    with torch.no_grad():
        together, alone = model(x), torch.cat([model(x[i : i + 1]) for i in range(3)])
    assert torch.allclose(together, alone, atol=1e-6)  # float32
    assert model(torch.randn(1, 1, 4)).shape == (1, 4)
    with pytest.raises(ValueError, match="L >= 4, got"):
        model(torch.randn(1, 1, 3))
    with pytest.raises(ValueError, match=r"\(B, 1, L\)"):
        model(torch.randn(1, 2, 97))


@pytest.mark.parametrize("options", [{"kernel": 4}, {"widths": ()}, {"dilations": (0,)}])
def test_impossible_networks(options):
    with pytest.raises(ValueError, match="must be"):
        SpectraNet(**options)


def test_one_batch_is_overfitted():
    model = SpectraNet(widths=(8, 8, 16), dropout=0.0)
    x, labels = torch.randn(16, 1, 128), torch.arange(16) % 4
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(120):
        loss = torch.nn.functional.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (model(x).argmax(dim=1) == labels).all()
