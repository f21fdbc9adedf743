"""Groups in a neighbour graph: its weights, eigenvectors and gaps, each against the definition written out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from embedstore.latent import spectral

from .clustered import blobs, nearest


def neighbours(count: int, k: int, seed: int) -> np.ndarray:
    """Rows (n, k) of different others."""
    rng = np.random.default_rng(seed)
    others = [np.delete(np.arange(count), row) for row in range(count)]
    return np.stack([rng.choice(one, k, replace=False) for one in others]).astype(np.int64)


@settings(max_examples=60, deadline=None)
@given(st.integers(3, 25), st.data())
def test_an_edge_weighs_the_share_of_neighbours_in_common_squared(count: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, count - 1))
    near = neighbours(count, k, data.draw(st.integers(0, 1000)))
    sets = [{row, *near[row].tolist()} for row in range(count)]
    expected = np.zeros((count, count))
    for a in range(count):
        for b in range(count):
            if a != b and (b in sets[a] or a in sets[b]):
                expected[a, b] = (len(sets[a] & sets[b]) / len(sets[a] | sets[b])) ** 2
    graph = spectral.shared_neighbours(near)
    np.testing.assert_allclose(graph.toarray(), expected, rtol=1e-6)
    assert graph.nnz == np.count_nonzero(expected)  # no zeros are kept
    assert (graph != graph.T).nnz == 0
    assert (graph.sum(axis=1) > 0).all()  # what the eigenvectors ask for: each node has an edge


@pytest.mark.parametrize("count", [60, 500])  # below 400 all eigenvectors are computed, above some by iteration
def test_the_eigenvectors_are_those_of_the_normalised_matrix(count: int) -> None:
    graph = spectral.shared_neighbours(neighbours(count, 7, seed=count))
    values, vectors = spectral.eigenvectors(graph, 6, seed=3)
    dense = graph.toarray().astype(np.float64)
    scale = 1 / np.sqrt(dense.sum(axis=1))
    normalised = scale[:, None] * dense * scale
    expected, every = np.linalg.eigh(normalised)
    np.testing.assert_allclose(values, expected[::-1][:6], atol=1e-3)
    assert values[0] == pytest.approx(1, abs=1e-4)
    assert (np.diff(values) <= 0).all()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=0), 1, atol=1e-3)
    np.testing.assert_allclose(normalised @ vectors, values * vectors, atol=3e-3)
    # The slowest vibration is known in closed form, so its sign is all that is free.
    slowest = np.abs(every[:, -1])
    np.testing.assert_allclose(np.abs(vectors[:, 0]), slowest, atol=1e-3)
    np.testing.assert_allclose(slowest, np.sqrt(dense.sum(axis=1) / dense.sum()), atol=1e-6)
    again = spectral.eigenvectors(graph, 6, seed=3)
    assert np.array_equal(again[0], values)
    assert np.array_equal(again[1], vectors)


@pytest.mark.parametrize("sizes", [[30, 30, 30], [40, 25, 30, 20, 35]])
def test_parts_without_edges_between_them_have_the_eigenvalue_1_each_and_one_place_each(sizes: list[int]) -> None:
    latents, label = blobs(sizes)
    graph = spectral.shared_neighbours(nearest(latents, 10))
    values, vectors = spectral.eigenvectors(graph, len(sizes) + 3, seed=0)
    np.testing.assert_allclose(values[: len(sizes)], 1, atol=1e-5)
    assert values[len(sizes)] < 0.99
    places = spectral.coordinates(vectors, len(sizes))
    np.testing.assert_allclose(np.linalg.norm(places, axis=1), 1, atol=1e-5)
    alike = places @ places.T  # Ng, Jordan and Weiss: parts are orthogonal, and each is one point
    np.testing.assert_allclose(alike, label[:, None] == label, atol=1e-3)


def test_a_node_of_no_weight_has_a_place() -> None:
    places = spectral.coordinates(np.array([[0.0, 0.0, 1.0], [3.0, 4.0, 0.0]]), 2)
    np.testing.assert_allclose(places, [[0, 0], [0.6, 0.8]])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 1, 1, 0.5, 0.4, 0.35], {3: 0.5}),
        ([1, 0.9, 0.4, 0.35, 0.1, 0.08], {2: 0.5, 4: 0.25}),
        (
            [1, 0.5, 0.375, 0.25],
            {3: 0.125},
        ),  # of two gaps that are alike the later one counts; none comes after the last
        ([1, 0.2, 0.1, 0.05], {}),  # one group is no answer
        ([1, 1, 1, 1], {}),
        ([1, 0.5], {}),
        ([1, 0.9, 0.5], {2: 0.4}),
        ([1], {}),
    ],
)
def test_gaps_are_where_the_eigenvalues_fall_most(values: list[float], expected: dict[int, float]) -> None:
    assert spectral.gaps(np.array(values, dtype=np.float64)) == pytest.approx(expected)


@given(st.lists(st.integers(0, 2**20), min_size=1, max_size=30))
def test_every_suggested_number_has_a_gap_no_smaller_than_both_beside_it(drawn: list[int]) -> None:
    values = np.sort(np.array(drawn))[::-1] / 2**20
    found = spectral.gaps(values)
    assert list(found) == sorted(found)
    for k in range(1, len(values)):
        gap = values[k - 1] - values[k]
        before = values[k - 2] - values[k - 1] if k > 1 else np.inf
        after = values[k] - values[k + 1] if k + 1 < len(values) else -1.0
        assert (k in found) == (k > 1 and gap > 0 and before <= gap and gap > after)
        assert found.get(k, gap) == gap


@given(st.lists(st.integers(1, 200), min_size=1, max_size=6), st.integers(0, 100))
def test_parts_of_less_than_a_fiftieth_of_the_largest_are_left_out(sizes: list[int], seed: int) -> None:
    ends = np.cumsum(sizes)
    part = np.repeat(np.arange(len(sizes)), sizes)
    last = np.isin(np.arange(ends[-1]), ends - 1)
    chain = sparse.diags((~last[:-1]).astype(float), 1)  # each part a chain of its nodes
    order = np.random.default_rng(seed).permutation(ends[-1])
    graph = (chain + chain.T).tocsr()[order][:, order]
    found = spectral.parts(graph)
    expected = (np.array(sizes)[part] * 50 >= max(sizes))[order]
    assert np.array_equal(found >= 0, expected)
    pairs = {(a, b) for a, b in zip(found[expected].tolist(), part[order][expected].tolist(), strict=True)}
    kept = len(np.unique(part[order][expected]))
    assert len(pairs) == kept  # one number a part
    assert {a for a, _ in pairs} == set(range(kept))


def test_every_part_of_a_graph_has_its_own_eigenvalue_of_one() -> None:
    rng = np.random.default_rng(0)
    blocks = []
    for size in (500, 450, 600, 30):  # large ones are iterated on, where one iteration over all of them misses some
        weights = rng.random((size, size)) * (rng.random((size, size)) < 0.1)
        blocks.append(sparse.csr_matrix(weights + weights.T + np.eye(size)))
    graph = sparse.block_diag(blocks, format="csr")
    order = rng.permutation(graph.shape[0])
    values, vectors = spectral.eigenvectors(graph[order][:, order], 6, 0)
    np.testing.assert_allclose(values[:4], 1, atol=1e-3)
    assert values[4] < 0.9
    part = np.repeat(np.arange(4), [block.shape[0] for block in blocks])[order]
    for number in range(4):  # each of those vectors lies in one part alone
        inside = np.abs(vectors[:, number]) > 1e-9
        assert len(np.unique(part[inside])) == 1
