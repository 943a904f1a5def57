"""A tiny window of fm_inputs and labels whose clicks depend on what the user read before."""

import numpy as np
import pyarrow as pa

from models.config import CodecConfig, FeatureSpec, FmConfig, MlpBlock, TrainConfig
from models.fm_data import FmRows

HEADS = ["home", "video"]
SPECS = [
    FeatureSpec(name="user", kind="categorical"),
    FeatureSpec(name="item", kind="categorical"),
    FeatureSpec(name="quality", kind="numeric"),
    FeatureSpec(name="clicks", kind="categorical_list", shares="item"),
    FeatureSpec(name="clicks_age_hours", kind="numeric_list"),
]
CONFIG = FmConfig(
    embedding_dim=8,
    blocks={"mlp": MlpBlock(units=[16, 8])},
    codec=CodecConfig(dim=8, prefixes=[4, 8]),
    train=TrainConfig(learning_rate=2e-2, learning_rate_decay=0.9, batch_size=64, epochs=5, patience=3, device="cpu"),
)


def window(rows=1500, seed=0, start=0):
    """A user clicks items of the theme (of two) of his past clicks; ``video`` has a label for half of the rows."""
    rng = np.random.default_rng(seed)
    item, user = rng.integers(0, 20, rows), rng.integers(0, 12, rows)
    lengths = rng.integers(0, 6, rows)
    past = [rng.integers(0, 10, n) * 2 + u % 2 for n, u in zip(lengths, user, strict=True)]
    quality = rng.normal(size=rows).astype(np.float32)
    logit = 2.0 * ((item % 2 == user % 2) - 0.5) * 2 + quality - 1
    label = rng.random(rows) < 1 / (1 + np.exp(-logit))
    example_id = rng.permutation(rows) + start
    event_ts = start + np.arange(rows)
    inputs = pa.table(
        {
            "part": pa.array(np.where(np.arange(rows) < rows // 3, "2026-01-01", "2026-01-02")),
            "example_id": pa.array(example_id),
            "user": pa.array(user),
            "item": pa.array(item),
            "event_ts": pa.array(event_ts),
            "arrived_at": pa.array(event_ts),
            "weight": pa.array(np.ones(rows, np.float32)),
            "sampling_rate": pa.array(np.ones(rows, np.float32)),
            "quality": pa.array(quality),
            "clicks": pa.array([list(p) for p in past], pa.list_(pa.int64())),
            "clicks_age_hours": pa.array([list(np.arange(1.0, n + 1)) for n in lengths], pa.list_(pa.float32())),
        }
    )
    video = np.flatnonzero(np.arange(rows) % 2)
    ids, verticals = [example_id, example_id[video]], ["home"] * rows + ["video"] * len(video)
    labels = pa.table(
        {
            "example_id": pa.array(np.concatenate(ids)),
            "vertical": pa.array(verticals),
            "label": pa.array(np.concatenate([label, label[video]]).astype(np.int8)),
            "label_available_at": pa.array(np.concatenate([event_ts, event_ts[video]]) + 10),
        }
    )
    return FmRows(inputs, labels, int(event_ts.max()) + 10)
