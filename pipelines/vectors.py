"""A space's vectors out of table fm_outputs."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from feature_store.spaces import SpaceRecord
from models.alignment import Floats
from models.codec import Codes, unpack


def packed_codes(rows: pa.Table, space: SpaceRecord) -> Codes:
    """Column ``z`` of N rows as bytes [N, code_bytes]."""
    packed = b"".join(rows["z"].cast(pa.binary()).to_pylist())
    return np.frombuffer(packed, np.uint8).reshape(-1, space.code_bytes)


def vectors(codes: Codes, space: SpaceRecord) -> Floats:
    """Packed codes [N, bytes] -> values [N, dim]."""
    return np.asarray(unpack(codes, space.bits), np.float64)
