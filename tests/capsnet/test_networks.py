import h5py
import numpy as np
import pytest
import torch

from capsnet import DigitCapsNet, PooledCNN
from losses import capsule_margin
from trainer import UserError

NETWORKS = [DigitCapsNet, PooledCNN]


@pytest.mark.parametrize(("network", "file", "key"), [(DigitCapsNet, "capsule", "caps"), (PooledCNN, "cnn", "cnn")])
@pytest.mark.parametrize("size", ["single", "double"])
def test_golden_outputs_of_the_original(golden, network, file, key, size):
    archive = np.load(golden / "digits_io.npz")
    model = network.from_keras(golden / f"{file}_digits.h5").eval()
    images = torch.from_numpy(archive[size]).permute(0, 3, 1, 2)
    with torch.no_grad():
        np.testing.assert_allclose(model(images).numpy(), archive[f"{key}_{size}"], atol=1e-5)  # float32 convolutions
        model = model.to(memory_format=torch.channels_last)
        np.testing.assert_allclose(model(images).numpy(), archive[f"{key}_{size}"], atol=1e-5)


def test_from_keras_refuses_other_networks(golden, tmp_path):
    with pytest.raises(UserError, match=r"cnn_digits.h5.*4 conv2d.*2 dense"):
        DigitCapsNet.from_keras(golden / "cnn_digits.h5")
    with pytest.raises(UserError, match=r"capsule_digits.h5.*1 capsule"):
        PooledCNN.from_keras(golden / "capsule_digits.h5")
    with pytest.raises(UserError, match="no such file"):
        PooledCNN.from_keras(tmp_path / "none.h5")
    bad = tmp_path / "bad.h5"
    bad.write_bytes((golden / "capsule_digits.h5").read_bytes())
    with h5py.File(bad, "r+") as file:
        del file["capsule/capsule/capsule_kernel:0"]
        file["capsule/capsule/capsule_kernel:0"] = np.zeros((1, 128, 170), np.float32)
    with pytest.raises(UserError, match=r"capsule.*\(1, 128, 160\).*\(1, 128, 170\)"):
        DigitCapsNet.from_keras(bad)


def test_parameter_counts():
    features = 640 + 36928 + 73856 + 147584
    assert sum(p.numel() for p in DigitCapsNet().parameters()) == features + 128 * 160
    assert sum(p.numel() for p in PooledCNN().parameters()) == features + 128 * 128 + 128 + 1290


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("size", [(14, 14), (28, 28), (56, 28), (28, 112), (37, 61)])
def test_any_image_size(network, size):
    scores = network().eval()(torch.rand(2, 1, *size))
    assert scores.shape == (2, 10)
    assert ((scores >= 0) & (scores <= 1)).all()


@pytest.mark.parametrize("network", NETWORKS)
def test_too_small_or_misshapen_images(network):
    with pytest.raises(ValueError, match=r"at least 14x14 pixels, got \(1, 1, 13, 28\)"):
        network()(torch.zeros(1, 1, 13, 28))
    with pytest.raises(ValueError, match=r"images \(B, 1, H, W\).*got \(1, 28, 28\)"):
        network()(torch.zeros(1, 28, 28))
    with pytest.raises(ValueError, match="two or more positive"):
        network(widths=(8,))


def test_five_convolutions_see_eighteen_pixels():
    model = DigitCapsNet(widths=(4, 4, 8, 8, 8))
    assert model.features.min_size == 18
    image = torch.zeros(1, 1, 18, 18, requires_grad=True)
    model.features(image).sum().backward()
    assert model.features(image).shape == (1, 8, 1, 1)
    assert (model.features(torch.rand(1, 1, 18, 18)).shape[2:]) == (1, 1)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("batch_norm", [False, True])
def test_gradient_reaches_every_parameter_and_a_batch_is_overfitted(network, batch_norm):
    images = torch.nn.functional.interpolate(torch.rand(10, 1, 5, 5), scale_factor=4)
    labels = torch.arange(10)
    model = network(widths=(8, 8, 16, 16), batch_norm=batch_norm)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(200):
        loss = capsule_margin(model(images), labels, down_weight=0.25)
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())
        optimizer.step()
    assert (model(images).argmax(dim=1) == labels).all()


def test_scores_do_not_depend_on_batch_mates():
    images = torch.rand(6, 1, 28, 28)
    model = DigitCapsNet().eval()
    torch.testing.assert_close(model(images)[2:3], model(images[2:3]))
    order = torch.randperm(6)
    torch.testing.assert_close(model(images[order]), model(images)[order])
