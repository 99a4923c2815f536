"""The conditioning of the covariances against numpy, and the pictures of a run."""

import copy
import csv
import math

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from timm.utils import ModelEmaV3
from torch import nn

import timm_gcp  # noqa: F401 (registers the models)
from timm_gcp.errors import GCPError
from timm_gcp.hybrid.monitor import ConditioningMonitor, conditioning
from timm_gcp.pooling import GlobalCovariancePool, find_pools
from timm_gcp.training.curves import draw_comparison, draw_curves

EPS32, EPS64 = np.finfo(np.float32).eps, np.finfo(np.float64).eps


def reference(x: np.ndarray, eps: float = EPS64) -> tuple[float, int, float]:
    """κ, rank and share under eps of one image ``[C, M]``, from its singular values."""
    channels, positions = x.shape
    x = x.astype(np.float64)
    s = np.linalg.svd((x - x.mean(1, keepdims=True)) / np.sqrt(positions), compute_uv=False)
    eigenvalues = np.sort(s**2)[::-1][: min(channels, positions - 1)]
    kept = [v for v in eigenvalues if v > max(channels, positions) * EPS64 * max(eigenvalues)]
    above = [v for v in kept if v > eps]
    share = 1 - len(above) / len(eigenvalues) if len(eigenvalues) else 0.0
    return (max(kept) / min(kept) if kept else math.nan), len(kept), share


def with_eigenvalues(eigenvalues: list[float], channels: int, positions: int, seed: int = 0) -> torch.Tensor:
    """Features ``[C, M]`` whose centred covariance has these eigenvalues, and zeros."""
    generator = np.random.default_rng(seed)
    left = np.linalg.qr(generator.standard_normal((channels, len(eigenvalues))))[0]
    right = generator.standard_normal((positions, len(eigenvalues)))
    right = np.linalg.qr(right - right.mean(0))[0]
    return torch.from_numpy(left @ np.diag(np.sqrt(np.array(eigenvalues) * positions)) @ right.T)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 12), st.integers(1, 12), st.integers(0, 5), st.integers(0, 2**16), st.sampled_from([1e-6, 1, 1e6])
)
def test_agrees_with_numpy_on_any_shape(channels, positions, dead, seed, scale):
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((3, channels, positions)) * scale
    x[:, :dead] = 0
    measured = conditioning(torch.from_numpy(x)).numpy()
    for row, image in zip(measured, x, strict=True):
        kappa, rank, share = reference(image)
        assert row[1] == rank
        # Squaring the features costs half the digits: κ² eps is the rounding of a Gram matrix.
        assert row[0] == pytest.approx(kappa, rel=1e-9 + 1e-14 * (0 if math.isnan(kappa) else kappa), nan_ok=True)
        assert row[2] == pytest.approx(share, abs=1e-12)


@pytest.mark.parametrize(("channels", "positions"), [(24, 9), (9, 24), (16, 16)], ids=["M<C", "M>C", "M=C"])
@pytest.mark.parametrize("shape", ["flat", "square"])
def test_known_spectrum(channels, positions, shape):
    eigenvalues = [4.0, 1.0, 1e-3, 1e-8]
    x = with_eigenvalues(eigenvalues, channels, positions)[None]
    if shape == "square":
        side = math.isqrt(positions)
        x = x.reshape(1, channels, side, -1)
    possible = min(channels, positions - 1)
    kappa, rank, share = conditioning(x)[0].tolist()
    assert kappa == pytest.approx(4e8, rel=1e-6)
    assert rank == 4
    # The zeros beyond min(C, M − 1) do not count, those under it do.
    assert share == pytest.approx((possible - 4) / possible)
    assert conditioning(x, eps=float(EPS32))[0, 2].item() == pytest.approx((possible - 3) / possible)


def test_full_rank_has_no_eigenvalue_under_eps_although_most_are_zero():
    x = with_eigenvalues([2.0**-k for k in range(8)], 64, 9)[None]
    assert conditioning(x)[0].tolist() == pytest.approx([128, 8, 0])


def test_eps_is_in_the_units_of_the_covariance():
    x = with_eigenvalues([1.0, 0.5], 2, 9)[None]
    assert conditioning(x)[0, 2] == 0
    small = conditioning(x * 1e-8)[0].tolist()
    # The published layers raise such eigenvalues to eps; κ and rank do not depend on the scale.
    assert small == pytest.approx([2.0, 2.0, 1.0])


@pytest.mark.parametrize("scale", [1e-150, 1e-15, 1e15, 1e150])
def test_kappa_and_rank_do_not_depend_on_the_scale(scale):
    x = with_eigenvalues([1.0, 0.5, 1e-6], 5, 9)[None]
    assert conditioning(x * scale)[0, :2].tolist() == pytest.approx([1e6, 3], rel=1e-6)


def test_zero_constant_single_position_and_repeated_columns():
    zero = torch.zeros(1, 3, 2, 2)
    constant = torch.full((1, 3, 2, 2), 7.0)
    for x in (zero, constant):
        kappa, rank, share = conditioning(x)[0].tolist()
        assert math.isnan(kappa)
        assert (rank, share) == (0, 1)
    kappa, rank, share = conditioning(torch.randn(1, 3, 1, 1))[0].tolist()
    assert math.isnan(kappa)
    assert (rank, share) == (0, 0)
    repeated = torch.randn(1, 6, 1, 3).repeat(1, 1, 4, 1)
    assert conditioning(repeated)[0, 1] == 2
    assert conditioning(torch.zeros(0, 3, 2, 2)).shape == (0, 3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_features_and_autocast(dtype):
    x = torch.randn(2, 6, 4, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        measured = conditioning(x)
    assert measured.dtype == torch.float64
    for row, image in zip(measured.tolist(), x.double().flatten(2).numpy(), strict=True):
        assert row == pytest.approx(reference(image), rel=1e-9)


def pool_model(channels: int = 2) -> nn.Module:
    return nn.Sequential(GlobalCovariancePool(channels, "polar", reduce=None))


def image_with_kappa(kappa: float) -> torch.Tensor:
    return with_eigenvalues([1.0, 1 / kappa], 2, 4).reshape(1, 2, 2, 2)


def test_measures_every_nth_training_forward_and_the_first_images():
    model = pool_model()
    monitor = ConditioningMonitor(model, every=2, max_images=2).attach().attach()
    batches = [
        torch.cat([image_with_kappa(k) for k in ks]) for ks in ([1e1, 1e3, 1e9], [1e9] * 3, [1e2, 1e4, 1e9], [1e9] * 3)
    ]
    for x in batches:
        model.eval()
        model(image_with_kappa(1e9))
        model.train()
        model(x)
    assert monitor.summary(reset=False)["kappa"] == pytest.approx((1e2 + 1e3) / 2, rel=1e-6)
    summary = monitor.summary()
    assert summary == {"kappa": pytest.approx(550, rel=1e-6), "rank": 2, "under_eps": 0}
    assert all(type(value) is float for value in summary.values())
    # A new epoch starts afresh: its first forward is measured.
    assert all(math.isnan(value) for value in monitor.summary().values())
    model(image_with_kappa(1e5))
    assert monitor.summary()["kappa"] == pytest.approx(1e5, rel=1e-6)
    monitor.close()
    model(image_with_kappa(1e5))
    assert math.isnan(monitor.summary()["kappa"])
    assert not find_pools(model)[0].reduce._forward_hooks


def test_measures_every_group_of_channels_alone():
    model = nn.Sequential(GlobalCovariancePool(4, "polar", reduce=None, groups=2))
    with ConditioningMonitor(model, every=1) as monitor:
        model(torch.cat([image_with_kappa(1e2), 1e6 * image_with_kappa(1e4)], 1))
        assert monitor.summary() == {"kappa": pytest.approx(5050, rel=1e-6), "rank": 2, "under_eps": 0}


def test_leaves_out_features_that_are_not_finite_and_counts_them():
    model = pool_model()
    with ConditioningMonitor(model, every=1) as monitor:
        x = torch.cat([image_with_kappa(1e3)] * 4)
        x[1, 0, 0, 0], x[2, 1, 1, 1] = math.nan, math.inf
        model[0].reduce(x)
        assert monitor.summary()["kappa"] == pytest.approx(1e3, rel=1e-6)
        assert monitor.skipped == 2
        model[0].reduce(x[:1])
        monitor.summary()
        assert monitor.skipped == 0


def test_measures_what_the_pool_of_a_real_model_sees():
    torch.manual_seed(0)
    model = timm.create_model("test_resnet_isqrt", num_classes=3).train()
    x = torch.randn(4, 3, 64, 64)
    pool = find_pools(model)[0]
    with torch.no_grad():
        features = copy.deepcopy(pool).reduce(copy.deepcopy(model).forward_features(x)).flatten(2).double().numpy()
    with ConditioningMonitor(model, every=1) as monitor:
        model(x)
        summary = monitor.summary()
    kappas, ranks, shares = zip(*map(reference, features), strict=True)
    assert summary["kappa"] == pytest.approx(np.median(kappas), rel=1e-6)
    assert summary["rank"] == np.median(ranks)
    assert summary["under_eps"] == np.median(shares)


@pytest.mark.parametrize("amp", [False, True])
def test_training_goes_on_as_if_nobody_watched(amp):
    def train(watched: bool) -> tuple[list[torch.Tensor], torch.Tensor]:
        torch.manual_seed(0)
        model = timm.create_model("test_resnet_isqrt", num_classes=3, drop_rate=0.2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        monitor = ConditioningMonitor(model, every=1)
        if watched:
            monitor.attach()
        for _ in range(2):
            with torch.autocast("cpu", torch.bfloat16, enabled=amp):
                loss = model(torch.randn(4, 3, 32, 32)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert math.isnan(monitor.summary()["rank"]) != watched
        return [p.detach() for p in model.state_dict().values()], torch.get_rng_state()

    (with_monitor, random_with), (without, random_without) = train(True), train(False)
    assert all(torch.equal(a, b) for a, b in zip(with_monitor, without, strict=True))
    assert torch.equal(random_with, random_without)


def test_copies_of_a_watched_model_are_not_measured():
    model = pool_model().train()
    with ConditioningMonitor(model, every=1) as monitor:
        copied = copy.deepcopy(model)
        copied(image_with_kappa(1e3))
        ema = ModelEmaV3(nn.Sequential(model, nn.Linear(3, 1).double()))
        ema.module.train()(image_with_kappa(1e3))
        assert math.isnan(monitor.summary()["kappa"])
        model(image_with_kappa(1e4))
        assert monitor.summary()["kappa"] == pytest.approx(1e4, rel=1e-6)


def test_measures_a_compiled_model_without_recompiling():
    torch.compiler.reset()
    model = pool_model().train()
    with ConditioningMonitor(model, every=2) as monitor:
        compiled = torch.compile(model, backend="eager")
        for kappa in (1e2, 1e6, 1e4, 1e6):
            out = compiled(image_with_kappa(kappa))
            assert torch.allclose(out, model.eval()(image_with_kappa(kappa)))
            model.train()
        assert monitor.summary()["kappa"] == pytest.approx((1e2 + 1e4) / 2, rel=1e-6)
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConditioningMonitor(nn.Linear(2, 2)), "no covariance pool"),
        (lambda: ConditioningMonitor(pool_model(), every=0), "at least 1"),
        (lambda: ConditioningMonitor(pool_model(), max_images=0), "at least 1"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(GCPError, match=message):
        make()


FULL = ["epoch", "train_loss", "eval_loss", "eval_top1", "eval_top5", "lr", "method", "kappa", "rank", "under_eps"]


def write_summary(path, epochs=6, switch=4, columns=FULL, offset=0.0):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        for epoch in range(epochs):
            row = {
                "epoch": epoch,
                "train_loss": 2 - 0.1 * epoch,
                "eval_loss": 2.1 - 0.1 * epoch,
                "eval_top1": 40 + 3 * epoch + offset,
                "eval_top5": 70 + 2 * epoch,
                "lr": 0.1 * 0.5**epoch,
                "method": "isqrt" if epoch < switch else "svdpade",
                "kappa": 10.0 ** (8 - epoch),
                "rank": 40 + epoch,
                "under_eps": 0.1,
            }
            writer.writerow(row)
    return path


def pixels(path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def test_curves_show_four_panels_and_the_switch(tmp_path):
    draw_curves(write_summary(tmp_path / "a.csv"), tmp_path / "a.png", title="a run")
    draw_curves(write_summary(tmp_path / "b.csv", switch=2), tmp_path / "b.png", title="a run")
    a, b = pixels(tmp_path / "a.png"), pixels(tmp_path / "b.png")
    assert a.shape == b.shape
    height, width = a.shape[0] // 2, a.shape[1] // 2
    for rows in (slice(0, height), slice(height, None)):
        for cols in (slice(0, width), slice(width, None)):
            assert (a[rows, cols] != 255).any()
            assert (a[rows, cols] != b[rows, cols]).any()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.csv", "a.png", "b.csv", "b.png"]


@pytest.mark.parametrize("missing", ["kappa", "eval_top1", "method"])
def test_curves_do_without_a_column(tmp_path, missing):
    columns = [name for name in FULL if name != missing]
    draw_curves(write_summary(tmp_path / "summary.csv", columns=columns), tmp_path / "curves.png")
    assert pixels(tmp_path / "curves.png").std() > 0


def test_curves_of_a_resumed_run_are_those_of_the_whole_run(tmp_path):
    whole = write_summary(tmp_path / "whole.csv").read_text().splitlines()
    # A resumed run may write its header and an epoch again.
    (tmp_path / "resumed.csv").write_text("\n".join([*whole[:4], whole[0], *whole[3:]]) + "\n")
    draw_curves(tmp_path / "whole.csv", tmp_path / "whole.png")
    draw_curves(tmp_path / "resumed.csv", tmp_path / "resumed.png")
    assert (pixels(tmp_path / "whole.png") == pixels(tmp_path / "resumed.png")).all()


def test_curves_of_one_epoch_and_half_a_line(tmp_path):
    path = write_summary(tmp_path / "summary.csv", epochs=1)
    path.write_text(path.read_text() + "1,1.")
    draw_curves(path, tmp_path / "curves.png")
    assert pixels(tmp_path / "curves.png").std() > 0


def test_a_picture_that_fails_leaves_the_old_one(tmp_path):
    out = tmp_path / "curves.png"
    draw_curves(write_summary(tmp_path / "summary.csv"), out)
    before = out.read_bytes()
    with pytest.raises(GCPError, match="Cannot write"):
        draw_curves(tmp_path / "summary.csv", tmp_path / "absent" / "curves.png")
    (tmp_path / "summary.csv").write_text("epoch,seconds\n0,3\n")
    with pytest.raises(GCPError, match="nothing to draw"):
        draw_curves(tmp_path / "summary.csv", out)
    (tmp_path / "summary.csv").write_text("")
    with pytest.raises(GCPError, match="no row with an epoch"):
        draw_curves(tmp_path / "summary.csv", out)
    with pytest.raises(GCPError, match=r"Cannot read.*absent\.csv"):
        draw_curves(tmp_path / "absent.csv", out)
    assert out.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["curves.png", "summary.csv"]


def test_comparison_of_runs_and_seeds(tmp_path):
    seeds = [write_summary(tmp_path / f"{seed}.csv", epochs=5 + seed, offset=seed) for seed in range(3)]
    out = tmp_path / "comparison.png"
    draw_comparison({"hybrid": seeds, "one run": tmp_path / "0.csv"}, out)
    with_band = pixels(out)
    draw_comparison({"hybrid": seeds[:1], "one run": str(tmp_path / "0.csv")}, out, metric="eval_top1")
    assert (pixels(out) != with_band).any()
    with pytest.raises(GCPError, match="'eval_top9'"):
        draw_comparison({"hybrid": seeds}, out, metric="eval_top9")
    with pytest.raises(GCPError, match="no run"):
        draw_comparison({}, out)
