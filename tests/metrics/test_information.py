"""MIC and TIC against a slow implementation that follows the papers step by step, and against an independent one's values."""

import math

import numpy as np
import pytest
import torch

from causalvae_pyro.metrics import characteristic
from causalvae_pyro.metrics.information import MicTic, MicTicMatrix, mic, mic_e, mic_matrix, mic_tic, tic, tic_e
from tests import ROOT

GOLDEN = ROOT.parent / "shared" / "data" / "mic_golden.npz"


# The slow implementation: Python loops over points, nothing shared with the package's.


def slow_cells(size, numerator=3, denominator=5):
    """B for alpha = numerator / denominator, in whole numbers."""
    cells = 4
    while (cells + 1) ** denominator <= size**numerator:
        cells += 1
    return cells


def slow_groups(values):
    """The points in order, those of one value together."""
    groups = []
    for point in sorted(range(len(values)), key=lambda point: values[point]):
        if groups and values[groups[-1][-1]] == values[point]:
            groups[-1].append(point)
        else:
            groups.append([point])
    return groups


def slow_equipartition(groups, parts):
    """The part of each point, walking through the groups as the supplement's EquipartitionYAxis does."""
    part_of, part, filled = {}, 0, 0
    left = sum(len(group) for group in groups)
    desired = left / parts
    for group in groups:
        if filled and abs(filled + len(group) - desired) >= abs(filled - desired):
            part += 1
            filled = 0
            desired = left / (parts - part)
        part_of.update(dict.fromkeys(group, part))
        filled += len(group)
        left -= len(group)
    return part_of


def slow_clumps(x, row_of):
    clumps, previous = [], None
    for group in slow_groups(x):
        rows = {row_of[point] for point in group}
        row = rows.pop() if len(rows) == 1 else object()
        if row == previous:
            clumps[-1].extend(group)
        else:
            clumps.append(list(group))
        previous = row
    return clumps


def slow_optima(x, y, rows, columns, limit):
    """The largest mutual information of grids with y cut into rows, for 2, 3, ... columns of x."""
    size = len(x)
    row_of = slow_equipartition(slow_groups(y), rows)
    clumps = slow_clumps(x, row_of)
    if len(clumps) > limit:
        merged = {}
        part_of = slow_equipartition(clumps, limit)
        for clump in clumps:
            merged.setdefault(part_of[clump[0]], []).extend(clump)
        clumps = list(merged.values())
    counts = [[0] * rows]
    for clump in clumps:
        counts.append(list(counts[-1]))
        for point in clump:
            counts[-1][row_of[point]] += 1
    k = len(clumps)

    def negative_entropy(start, end):
        """Of the rows within a column, times its number of points."""
        cells = [b - a for a, b in zip(counts[start], counts[end], strict=True)]
        return sum(cell * math.log(cell / sum(cells)) for cell in cells if cell)

    column = [[negative_entropy(start, end) for start in range(end)] for end in range(k + 1)]
    entropy = -sum(count / size * math.log(count / size) for count in counts[-1] if count)
    best, found = [None, *(column[t][0] for t in range(1, k + 1))], []
    for number in range(2, columns + 1):
        if number <= k:
            best = [None] * number + [max(best[s] + column[t][s] for s in range(number - 1, t)) for t in range(number, k + 1)]
        found.append(entropy + best[k] / size)
    return found


def slow_characteristic(x, y, c=15, cells=None):
    """M of the 2011 paper and [M] of the 2016 one, ``{(columns, rows): value}``."""
    x, y = list(map(float, x)), list(map(float, y))
    cells = cells or slow_cells(len(x))
    first, second = {}, {}
    for rows in range(2, cells // 2 + 1):
        most = cells // rows
        of_y, of_x = slow_optima(x, y, rows, most, c * most), slow_optima(y, x, rows, most, c * most)
        for columns in range(2, most + 1):
            first[columns, rows] = max(of_y[columns - 2], first.get((columns, rows), 0))
            first[rows, columns] = max(of_x[columns - 2], first.get((rows, columns), 0))
        # The axis that is cut into equal parts has the more cells, x of two with as many.
        fewer = min(rows, most)
        if fewer < most:
            of_y, of_x = slow_optima(x, y, rows, fewer, c * fewer), slow_optima(y, x, rows, fewer, c * fewer)
        for columns in range(2, fewer + 1):
            second[rows, columns] = of_x[columns - 2]
            if columns < rows:
                second[columns, rows] = of_y[columns - 2]
    return tuple({shape: value / math.log(min(shape)) for shape, value in matrix.items()} for matrix in (first, second))


def slow_scores(x, y, **options):
    """MIC, TIC, MIC_e and TIC_e."""
    first, second = slow_characteristic(x, y, **options)
    assert first.keys() == second.keys()
    return [f(list(m.values())) for m in (first, second) for f in (max, lambda values: sum(values) / len(values))]


def fast_scores(x, y, **options):
    return [f(x, y, **options) for f in (mic, tic, mic_e, tic_e)]


FUNCTIONS = {
    "linear": lambda x, r: x,
    "parabola": lambda x, r: x**2,
    "sine": lambda x, r: np.sin(4 * x),
    "fast sine": lambda x, r: np.sin(15 * x),
    "step": lambda x, r: (x > 0.3).astype(float),
    "circle": lambda x, r: np.sqrt(np.abs(1 - x**2)) * r.choice([-1, 1], len(x)),
    "exponential": lambda x, r: np.exp(-3 * x),
    "independent": lambda x, r: r.normal(size=len(x)),
}


def make(function, size, noise=0.0, ties="", seed=0):
    """A sample of a function; ``ties`` names the variables to round."""
    rng = np.random.default_rng([seed, size, list(FUNCTIONS).index(function), int(100 * noise)])
    x = rng.uniform(-1, 1, size)
    y = FUNCTIONS[function](x, rng) + noise * rng.normal(size=size)
    return np.round(4 * x) if "x" in ties else x, np.round(3 * y) if "y" in ties else y


CASES = [
    ("linear", 20, 0.0, ""),
    ("linear", 25, 0.3, ""),
    ("linear", 32, 0.5, ""),
    ("linear", 33, 1.0, "x"),
    ("linear", 64, 0.2, "y"),
    ("linear", 100, 0.3, "xy"),
    ("linear", 243, 0.4, ""),
    ("linear", 2000, 0.0, ""),
    ("parabola", 21, 0.1, ""),
    ("parabola", 40, 0.0, "x"),
    ("parabola", 80, 0.3, ""),
    ("parabola", 150, 0.1, "y"),
    ("parabola", 300, 0.2, ""),
    ("sine", 24, 0.0, ""),
    ("sine", 50, 0.2, "xy"),
    ("sine", 97, 0.5, ""),
    ("sine", 200, 0.3, "x"),
    ("sine", 1000, 0.3, ""),
    ("fast sine", 60, 0.0, ""),
    ("fast sine", 120, 0.1, "y"),
    ("fast sine", 250, 0.3, ""),
    ("step", 22, 0.0, ""),
    ("step", 45, 0.0, "x"),
    ("step", 90, 0.3, ""),
    ("step", 180, 0.5, "xy"),
    ("step", 2000, 0.0, "x"),
    ("circle", 30, 0.0, ""),
    ("circle", 70, 0.1, "x"),
    ("circle", 140, 0.2, "y"),
    ("circle", 350, 0.1, ""),
    ("exponential", 28, 0.5, "y"),
    ("exponential", 110, 2.0, ""),
    ("exponential", 220, 1.0, "x"),
    ("exponential", 1200, 0.1, "xy"),
    ("independent", 20, 0.0, "xy"),
    ("independent", 35, 0.0, ""),
    ("independent", 75, 0.0, "x"),
    ("independent", 160, 0.0, "y"),
    ("independent", 1461, 0.0, ""),
    ("independent", 600, 0.0, "xy"),
]


@pytest.mark.thorough
@pytest.mark.parametrize("case", CASES, ids=str)
def test_agrees_with_the_slow_implementation(case, monkeypatch):
    function, size, noise, ties = case
    x, y = make(*case)
    assert (len(set(x)) < size, len(set(y)) < size) == ("x" in ties, "y" in ties or (function == "step" and not noise))
    expected = slow_scores(x, y)
    assert fast_scores(x, y) == pytest.approx(expected, abs=1e-12, rel=0)
    # Where work is split must not matter; at the package's own sizes small samples are in one piece.
    if size <= 350:
        for name, value in {"_BLOCK": 5, "_COSTS": 700, "_TABLE": 90, "_POINTS": 900}.items():
            monkeypatch.setattr(characteristic, name, value)
        assert fast_scores(x, y) == pytest.approx(expected, abs=1e-12, rel=0)


@pytest.mark.parametrize("c", [1, 2, 7, 100])
def test_limit_on_clumps(c):
    for ties in ("", "x", "y"):
        x, y = make("sine", 90, 0.4, ties)
        assert fast_scores(x, y, c=c) == pytest.approx(slow_scores(x, y, c=c), abs=1e-12, rel=0)


@pytest.mark.parametrize(("alpha", "fraction"), [(0.4, (2, 5)), (0.5, (1, 2)), (0.75, (3, 4)), (1.0, (1, 1))])
def test_number_of_cells(alpha, fraction):
    # 1024 ** 0.6 is 63.999... in floating point; the exact 64 holds.
    assert slow_cells(1024) == 64
    for size in (16, 32, 81):
        x, y = make("sine", size, 0.4)
        expected = slow_scores(x, y, cells=slow_cells(size, *fraction))
        assert fast_scores(x, y, alpha=alpha) == pytest.approx(expected, abs=1e-12, rel=0)


def test_at_least_four_cells():
    # 8 ** 0.6 is 3.5: the only grid is 2 x 2.
    x = np.arange(8.0)
    assert fast_scores(x, x) == pytest.approx([1, 1, 1, 1], abs=1e-12)
    y = np.array([0, 1, 0, 1, 0, 1, 0, 1.0])
    first, second = slow_characteristic(x, y)
    assert list(first) == list(second) == [(2, 2)]
    # The best cut of x leaves one point, of the other row, on one side.
    value = math.log(2) - (7 / 8) * -(3 / 7 * math.log(3 / 7) + 4 / 7 * math.log(4 / 7))
    assert mic(x, y) == pytest.approx(value / math.log(2), abs=1e-12)


def golden():
    """Pairs with their MIC and TIC: an independent implementation's where its file is, else those of the slow one above."""
    if GOLDEN.is_file():
        with np.load(GOLDEN) as data:
            return [(data[f"x{k}"], data[f"y{k}"], expected) for k, expected in enumerate(data["refs"])]
    ties, noises = ("", "x", "y", "xy", ""), (0.0, 0.1, 0.3, 1.0, 3.0)
    pairs = [
        make(kind, size, noise, tied)
        for kind, sizes in (("sine", (9, 31, 64, 110, 160)), ("linear", (12, 40, 75, 128, 170)))
        for size, noise, tied in zip(sizes, noises, ties, strict=True)
    ]
    return [(x, y, slow_scores(x, y)[:2]) for x, y in pairs]


def test_agrees_with_another_implementation():
    pairs = golden()
    assert len(pairs) == 10
    for x, y, expected in pairs:
        np.testing.assert_allclose([mic(x, y), tic(x, y)], expected, rtol=0, atol=1e-9)


INCREASING = {
    "exp": np.exp,
    "cube": lambda v: v**3,
    "affine": lambda v: 3 * v - 7,
    "ranks": lambda v: np.unique(v, return_inverse=True)[1],
}


@pytest.mark.parametrize("name", INCREASING)
@pytest.mark.parametrize("ties", ["", "x", "y", "xy"])
def test_increasing_maps_change_nothing(name, ties):
    x, y = make("sine", 130, 0.3, ties)
    expected = fast_scores(x, y)
    assert fast_scores(INCREASING[name](x), y) == pytest.approx(expected, abs=1e-12, rel=0)
    assert fast_scores(x, INCREASING[name](y)) == pytest.approx(expected, abs=1e-12, rel=0)


def test_decreasing_maps_change_little():
    # Exactly nothing where 2 to 5 rows divide 60 points without rest, nothing is tied and no clumps are merged.
    x, y = make("sine", 60, 0.3)
    assert fast_scores(-x, y, c=30) == pytest.approx(fast_scores(x, y, c=30), abs=1e-12, rel=0)
    assert fast_scores(x, -y, c=30) == pytest.approx(fast_scores(x, y, c=30), abs=1e-12, rel=0)
    # Otherwise rows and super-clumps, filled from below, meet other points.
    for size, ties in ((61, ""), (60, "x"), (60, "y"), (500, "")):
        x, y = make("sine", size, 0.3, ties)
        change = np.abs(np.array(fast_scores(-x, -y)) - fast_scores(x, y))
        assert 1e-6 < change.max() < 0.08, (size, ties, change)


@pytest.mark.parametrize("ties", ["", "x", "y", "xy"])
def test_the_order_of_the_samples_does_not_matter(ties):
    x, y = make("parabola", 130, 0.2, ties)
    order = np.random.default_rng(0).permutation(130)
    assert fast_scores(x[order], y[order]) == pytest.approx(fast_scores(x, y), abs=1e-12, rel=0)


@pytest.mark.parametrize("ties", ["", "x", "xy"])
def test_symmetry(ties):
    x, y = make("parabola", 150, 0.2, ties)
    assert mic(x, y) == pytest.approx(mic(y, x), abs=1e-12, rel=0)
    assert tic(x, y) == pytest.approx(tic(y, x), abs=1e-12, rel=0)
    # Those of 2016 are symmetric but for square grids.
    assert mic_e(x, y) == pytest.approx(mic_e(y, x), abs=0.05)
    assert tic_e(x, y) == pytest.approx(tic_e(y, x), abs=0.02)
    (one, other) = (slow_characteristic(*pair)[1] for pair in ((x, y), (y, x)))
    assert all(one[a, b] == pytest.approx(other[b, a], abs=1e-12) for a, b in one if a != b)


def test_fixed_points():
    rng = np.random.default_rng(0)
    x = rng.normal(size=1461)
    assert [mic(x, x), mic_e(x, x)] == pytest.approx([1, 1], abs=1e-12)
    assert tic(x, x) == pytest.approx(1, abs=1e-6)
    # With equal parts on one axis, cells of equal size on the other cannot always be had.
    assert tic_e(x, x) == pytest.approx(1, abs=0.02)
    # As many points in every row: exact.
    assert fast_scores(np.arange(60), np.arange(60))[:3] == pytest.approx([1, 1, 1], abs=1e-12)
    scores = mic_matrix(rng.normal(size=(1461, 2)), rng.normal(size=(1461, 3)))
    assert scores.mic.shape == scores.tic.shape == (2, 3)
    assert np.abs(scores.mic - 0.12).max() < 0.02
    assert np.abs(scores.tic - 0.042).max() < 0.006


def test_constants_tell_nothing():
    for size in (50, 200):
        x, constant = np.random.default_rng(0).normal(size=size), np.ones(size)
        for pair in ((x, constant), (constant, x), (0 * constant, constant)):
            assert fast_scores(*pair) == [0, 0, 0, 0]
    scores = mic_matrix(np.stack([x, constant], 1), np.stack([constant, x, -x], 1))
    assert (scores.mic > 0).tolist() == (scores.tic > 0).tolist() == [[False, True, True], [False, False, False]]


def test_values_stay_in_their_range():
    # One ulp above 1 without care.
    for size in range(8, 60):
        x = np.arange(size)
        assert all(0 <= value <= 1 for value in fast_scores(x, x) + fast_scores(x, x % 2))


@pytest.mark.parametrize("equicharacteristic", [False, True])
def test_the_matrix_holds_the_pairs(equicharacteristic, monkeypatch):
    columns = [
        make(name, 210, noise, ties)[1] for name, noise, ties in (("sine", 0.1, ""), ("step", 0.2, "y"), ("circle", 0, ""))
    ]
    x = make("linear", 210)[0]
    z, u = np.stack([x, columns[0]], 1), np.stack([columns[1], columns[2], x], 1)
    scores = mic_matrix(z, u, equicharacteristic=equicharacteristic)
    assert isinstance(scores, MicTicMatrix)
    one, other = (mic_e, tic_e) if equicharacteristic else (mic, tic)
    for i in range(2):
        for j in range(3):
            assert scores.mic[i, j] == pytest.approx(one(z[:, i], u[:, j]), abs=1e-12)
            assert scores.tic[i, j] == pytest.approx(other(z[:, i], u[:, j]), abs=1e-12)
    # In several pieces.
    monkeypatch.setattr(characteristic, "_POINTS", 900)
    again = mic_matrix(z, u, equicharacteristic=equicharacteristic)
    np.testing.assert_allclose(again, scores, rtol=0, atol=1e-12)
    options = mic_matrix(z, u, alpha=0.5, c=3, equicharacteristic=equicharacteristic)
    assert options.mic[1, 0] == pytest.approx(one(z[:, 1], u[:, 0], alpha=0.5, c=3), abs=1e-12)


def test_concepts_are_averaged_over_their_dimensions():
    rng = np.random.default_rng(0)
    u = rng.normal(size=(100, 3))
    z = u[..., None] + 0.5 * rng.normal(size=(100, 3, 4))
    scores = mic_matrix(z, u)
    np.testing.assert_array_equal(scores.mic, mic_matrix(z.mean(2), u).mic)
    summary = mic_tic(z, u)
    assert isinstance(summary, MicTic)
    assert summary.mic == pytest.approx(np.diagonal(scores.mic).mean(), abs=1e-12)
    assert summary.tic == pytest.approx(np.diagonal(scores.tic).mean(), abs=1e-12)
    assert summary.mic > scores.mic.mean() + 0.2
    equal = mic_tic(z, u, alpha=0.5, c=3, equicharacteristic=True)
    expected = mic_matrix(z, u, alpha=0.5, c=3, equicharacteristic=True)
    assert equal.tic == pytest.approx(np.diagonal(expected.tic).mean(), abs=1e-12)


def test_tensors_and_arrays_agree():
    x, y = (torch.from_numpy(v) for v in make("sine", 100, 0.2))
    expected = fast_scores(x.numpy(), y.numpy())
    assert fast_scores(x, y.requires_grad_()) == expected
    assert fast_scores(x.tolist(), y.tolist()) == expected
    assert all(type(value) is float for value in expected)
    z, u = torch.rand(50, 2, 3), torch.rand(50, 2)
    scores = mic_matrix(z, u)
    np.testing.assert_array_equal(scores, mic_matrix(z.double().numpy(), u.numpy()))
    assert scores.mic.dtype == scores.tic.dtype == np.float64
    # Ties of half precision, whole numbers and truth values.
    for kind in (torch.bfloat16, torch.float16, torch.int64, torch.bool):
        rounded = (3 * x).to(kind)
        assert mic(rounded, y) == mic(rounded.double().numpy(), y)


def test_the_same_every_time():
    z, u = (np.random.default_rng(seed).normal(size=(300, 3)) for seed in (0, 1))
    before = z.copy(), u.copy()
    np.testing.assert_array_equal(mic_matrix(z, u), mic_matrix(z, u))
    np.testing.assert_array_equal((z, u), before)


X = np.arange(20.0)
BAD_PAIRS = {
    "too few": ((X[:7], X[:7]), {}, "x: got 7 samples; expected at least 8"),
    "empty": ((X[:0], X[:0]), {}, "x: got 0 samples; expected at least 8"),
    "lengths": ((X, X[:10]), {}, "y: got 10 samples for 20 of x; expected as many"),
    "2-D": ((X[:, None], X), {}, r"x: got shape \[20, 1\]; expected 1-D"),
    "scalar": ((X, 1.0), {}, r"y: got shape \[\]; expected 1-D"),
    "nan": ((X, np.where(X == 3, np.nan, X)), {}, "y: got 1 NaN or infinite values; expected finite numbers"),
    "infinite": ((np.where(X < 2, np.inf, X), X), {}, "x: got 2 NaN or infinite values; expected finite numbers"),
    "text": ((X, ["a"] * 20), {}, "y: got values of type <U1; expected real numbers"),
    "complex": ((X + 1j, X), {}, "x: got values of type complex128; expected real numbers"),
    "alpha 0": ((X, X), {"alpha": 0.0}, "alpha: got 0.0; expected more than 0 and at most 1"),
    "alpha above 1": ((X, X), {"alpha": 1.1}, "alpha: got 1.1; expected more than 0 and at most 1"),
    "alpha nan": ((X, X), {"alpha": math.nan}, "alpha: got nan; expected more than 0 and at most 1"),
    "c 0": ((X, X), {"c": 0}, "c: got 0; expected a whole number of at least 1"),
    "c nan": ((X, X), {"c": math.nan}, "c: got nan; expected a whole number of at least 1"),
    "c not whole": ((X, X), {"c": 1.5}, "c: got 1.5; expected a whole number of at least 1"),
}


@pytest.mark.parametrize("name", BAD_PAIRS)
@pytest.mark.parametrize("function", [mic, tic, mic_e, tic_e])
def test_errors_of_pairs(function, name):
    arguments, options, message = BAD_PAIRS[name]
    with pytest.raises(ValueError, match=message):
        function(*arguments, **options)
    if name in ("nan", "infinite", "complex", "lengths"):
        with pytest.raises(ValueError, match=message):
            function(*map(torch.as_tensor, arguments), **options)


Z = np.random.default_rng(0).normal(size=(20, 3))
BAD_MATRICES = {
    "too few": ((Z[:5], Z[:5]), {}, "z: got 5 samples; expected at least 8"),
    "lengths": ((Z, Z[:10]), {}, "u: got 10 samples for 20 of z; expected as many"),
    "1-D z": ((Z[:, 0], Z), {}, r"z: got shape \[20\]; expected 2-D or 3-D"),
    "3-D u": ((Z, Z[..., None]), {}, r"u: got shape \[20, 3, 1\]; expected 2-D"),
    "no concepts": ((Z[:, :0], Z), {}, r"z: got shape \[20, 0\]; expected no empty dimension"),
    "nan": ((Z, np.where(Z > 1, np.nan, Z)), {}, r"u: got \d+ NaN or infinite values; expected finite numbers"),
    "alpha": ((Z, Z), {"alpha": -1}, "alpha: got -1; expected more than 0 and at most 1"),
}


@pytest.mark.parametrize("name", BAD_MATRICES)
@pytest.mark.parametrize("function", [mic_matrix, mic_tic])
def test_errors_of_matrices(function, name):
    arguments, options, message = BAD_MATRICES[name]
    with pytest.raises(ValueError, match=message):
        function(*arguments, **options)


def test_a_summary_needs_a_label_for_each_concept():
    with pytest.raises(ValueError, match="z: got 3 concepts for 2 labels; expected one for each"):
        mic_tic(Z, Z[:, :2])


def test_tic_of_few_classes_has_a_ceiling_below_one():
    found = {}
    for size in (200, 1461, 20000):
        half = np.arange(size) % 2
        cells = int(size**0.6)
        shapes = [(x, y) for x in range(2, cells) for y in range(2, cells) if x * y <= cells]
        # No grid tells more than the class, whatever logarithm it is divided by.
        expected = np.mean([math.log(2) / math.log(min(shape)) for shape in shapes])
        found[size] = tic(half, half)
        assert found[size] == pytest.approx(expected, abs=1e-3)
        assert mic(half, half) == pytest.approx(1, abs=1e-3)
    assert found[200] > found[1461] > found[20000]
    assert found[1461] == pytest.approx(0.69, abs=0.005)
    several = np.arange(1461) % 5
    assert found[1461] < mic_tic(several[:, None], several[:, None]).tic < 0.97
