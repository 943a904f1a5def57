"""What the compiled pooling computes by itself, against numpy; tests/models/test_vm_serving.py has it whole."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from models.history_kernel import exp, log1p


@settings(deadline=None)  # the first call compiles
@given(st.floats(-59, 88, width=32))
def test_exp(x: float) -> None:
    np.testing.assert_allclose(exp(np.float32(x)), np.exp(np.float64(np.float32(x))), rtol=4e-7)


def test_exp_of_what_is_far_below_is_nearly_nothing_and_no_denormal_number() -> None:
    assert 1e-30 < exp(np.float32(-1e4)) < 1e-25


@settings(deadline=None)
@given(st.floats(0, 2**24, width=32))
def test_log1p(x: float) -> None:
    np.testing.assert_allclose(log1p(np.float32(x)), np.log1p(np.float64(np.float32(x))), rtol=4e-7, atol=1e-7)
