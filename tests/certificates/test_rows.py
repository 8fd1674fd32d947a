"""Identities of rows: dense and sparse agree, and what was seen before is refused beyond what chance explains."""

import numpy as np
import pytest
from scipy import sparse

from corollary.certificates import hash_rows, refuse_seen
from corollary.errors import ReusedRowsError


def test_dense_and_sparse_rows_have_one_identity():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(200, 5)) * (rng.random((200, 5)) < 0.4), rng.integers(0, 2, 200)
    dense = hash_rows(X, y)
    assert (dense == hash_rows(sparse.csr_matrix(X), y)).all()
    assert (dense == hash_rows(np.where(X == 0, -0.0, X), y[:, None])).all()
    assert len(np.unique(np.column_stack([X, y]), axis=0)) == len(np.unique(dense))
    assert (dense != hash_rows(X, 1 - y)).all()
    assert (dense != hash_rows(X[:, ::-1], y))[X[:, 0] != X[:, 4]].all()
    order = rng.permutation(200)
    assert (dense[order] == hash_rows(X[order], y[order])).all()


def test_rows_seen_before_are_refused_but_not_chance():
    rng = np.random.default_rng(1)
    few = hash_rows(rng.integers(0, 3, size=(600, 2)).astype(float), rng.integers(0, 2, 600))  # 18 different rows
    assert "by chance" in refuse_seen(few[:300], few[300:]).checked
    fresh = hash_rows(rng.normal(size=(600, 2)), np.zeros(600))
    assert refuse_seen(fresh[:300], fresh[300:]).checked.startswith("0 of 300")
    with pytest.raises(ReusedRowsError, match="1 of the 301 rows"):
        refuse_seen(np.append(fresh[:300], fresh[-1:]), fresh[300:])
