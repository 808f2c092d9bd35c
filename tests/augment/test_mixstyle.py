import pytest
import torch

from tinyasc import augment


def statistics(x):
    return x.mean(dim=(1, 3)), x.std(dim=(1, 3))


def features(n=12, dtype=torch.float64):
    generator = torch.Generator().manual_seed(4)
    scale, offset = torch.rand(2, n, 1, 5, 1, generator=generator, dtype=dtype)
    return (0.5 + scale) * torch.randn(n, 2, 5, 40, generator=generator, dtype=dtype) + 3 * offset


def test_band_statistics_are_mixed_exactly_and_the_rest_is_kept(seeded):
    x = features()
    y = augment.freq_mixstyle(x, seeded(), p=1.0, alpha=0.5)
    (mean, deviation), (new_mean, new_deviation) = statistics(x), statistics(y)
    partners = []
    for i in range(len(x)):
        # One lambda and one partner explain all five means and all five deviations.
        fits = []
        for j in range(len(x)):
            towards = mean[j] - mean[i]
            weight = float((towards @ (new_mean[i] - mean[i])) / (towards @ towards)) if j != i else 0.0
            right = torch.allclose(new_mean[i], mean[i] + weight * towards, rtol=0, atol=1e-9)
            spread = deviation[i] + weight * (deviation[j] - deviation[i])
            if right and torch.allclose(new_deviation[i], spread, rtol=0, atol=1e-9) and -1e-9 <= weight <= 1 + 1e-9:
                fits.append(j)
        assert len(fits) >= 1
        partners.append(fits[0])
    assert sum(i != j for i, j in enumerate(partners)) >= 6
    # What is left of a clip once its statistics are out is as before.
    whitened, again = (
        (v - m[:, None, :, None]) / d[:, None, :, None] for v, m, d in ((x, *statistics(x)), (y, *statistics(y)))
    )
    assert torch.allclose(whitened, again, atol=1e-9)


def test_p_is_drawn_for_the_batch(seeded):
    x, generator = features(4), seeded()
    mixed = [not torch.equal(augment.freq_mixstyle(x, generator, p=0.3, alpha=0.3), x) for _ in range(500)]
    assert 0.24 < sum(mixed) / 500 < 0.36
    assert torch.equal(augment.freq_mixstyle(x, seeded(), p=0.0, alpha=0.3), x)


def test_statistics_have_no_gradient(seeded):
    x = features(6).requires_grad_()
    y = augment.freq_mixstyle(x, seeded(), p=1.0, alpha=0.5)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    # With constant statistics y is affine in x, so the gradient is one factor per clip and band; otherwise the
    # centring would make it vanish.
    assert torch.allclose(gradient, gradient[:, :1, :, :1].expand_as(gradient)) and (gradient > 0).all()
    assert torch.allclose(gradient[:, 0, :, 0], statistics(y.detach())[1] / statistics(x.detach())[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_silent_bands_stay_finite(dtype, seeded):
    x = features(8, dtype)
    x[:4, :, 2] = -10.0
    y = augment.freq_mixstyle(x, seeded(), p=1.0, alpha=0.3)
    assert torch.isfinite(y).all() and y.abs().max() < 50
