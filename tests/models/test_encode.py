import io

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from models.config import FeatureSpec
from models.encode import FeatureEncoder
from models.errors import FeatureMismatchError, ModelConfigError
from models.vocabulary import Vocabulary

SPECS = [
    FeatureSpec(name="item", kind="categorical"),
    FeatureSpec(name="price", kind="numeric"),
    FeatureSpec(name="past", kind="categorical_list", shares="item"),
    FeatureSpec(name="past_age_hours", kind="numeric_list"),
]

ids = hnp.arrays(np.int64, st.integers(0, 200), elements=st.integers(-(2**63), 2**63 - 1) | st.integers(-5, 5))


def rows(item, price=None, past=None, ages=None):
    n = len(item)
    return pa.table(
        {
            "item": pa.array(item, pa.int64()),
            "price": pa.array(price or [1.0] * n, pa.float32()),
            "past": pa.array(past or [[]] * n, pa.list_(pa.int64())),
            "past_age_hours": pa.array(ages or [[]] * n, pa.list_(pa.float32())),
        }
    )


TRAIN = rows([7, 7, 9, None], [1.0, 10.0, 100.0, None], [[9, 5], [5], [], None], [[1.0, 2.0], [3.0], [], None])


@given(ids, ids, st.integers(1, 50))
def test_vocabulary_equals_a_dictionary(train, asked, limit):
    vocabulary = Vocabulary.fit(train, limit)
    counts = {int(i): int((train == i).sum()) for i in np.unique(train)}
    kept = sorted(sorted(counts, key=lambda i: (-counts[i], i))[:limit])
    reference = {i: row for row, i in enumerate(kept, start=1)}
    both = np.concatenate([train, asked])
    assert vocabulary.lookup(both).tolist() == [reference.get(int(i), 0) for i in both]
    assert vocabulary.rows == len(kept) + 1


@given(ids, ids)
def test_an_extended_vocabulary_keeps_every_row(first, second):
    old = Vocabulary.fit(first, 100)
    new = old.extend(second, 1000)
    assert np.array_equal(new.ids[: len(old.ids)], old.ids)
    assert (new.lookup(second) > 0).all()
    assert len(np.unique(new.ids)) == len(new.ids)


def test_ids_of_a_list_share_the_rows_of_its_feature():
    encoder = FeatureEncoder.fit(TRAIN, SPECS, 10)
    assert encoder.vocabularies["item"].ids.tolist() == [5, 7, 9]
    encoded = encoder.encode(rows([9, 42, None], past=[[9, 42], None, [5, 7, 7]], ages=[[1.0, 1.0], None, [1.0] * 3]))
    assert encoded.cat[:, 0].tolist() == [3, 0, 0]
    assert encoded.lists["past"].tolist() == [[3, 0], [0, 0], [1, 2]]
    assert encoded.masks["past"].tolist() == [[True, True], [False, False], [True, True]]


def test_null_is_not_the_id_zero():
    encoder = FeatureEncoder.fit(rows([0, 0, 3]), SPECS, 10)
    assert encoder.encode(rows([0, None])).cat[:, 0].tolist() == [1, 0]


def test_numbers_are_logged_and_standardised_and_null_becomes_zero():
    encoder = FeatureEncoder.fit(TRAIN, SPECS, 10)
    logs = np.log1p([1.0, 10.0, 100.0])
    got = encoder.encode(rows([7] * 4, [-10.0, None, float("nan"), 10.0])).num[:, 0]
    expected = (np.array([-np.log1p(10.0), np.log1p(10.0)]) - logs.mean()) / logs.std()
    assert got[[0, 3]] == pytest.approx(expected, abs=1e-5)
    assert got[[1, 2]].tolist() == [0.0, 0.0]


def test_a_constant_feature_is_finite():
    encoder = FeatureEncoder.fit(rows([1, 2], [3.0, 3.0]), SPECS, 10)
    assert np.isfinite(encoder.encode(rows([1, 2], [3.0, 1e30])).num).all()


def test_a_slice_of_a_batch_encodes_as_the_rows_alone():
    encoder = FeatureEncoder.fit(TRAIN, SPECS, 10)
    whole = encoder.encode(TRAIN)
    part = encoder.encode(TRAIN.combine_chunks().to_batches()[0].slice(1, 2))
    assert np.array_equal(part.cat, whole.cat[1:3])
    assert np.array_equal(part.num, whole.num[1:3])
    for name in ("past", "past_age_hours"):
        assert np.array_equal(part.lists[name], whole.lists[name][1:3])
        assert np.array_equal(part.masks[name], whole.masks[name][1:3])


def test_the_state_loads_weights_only_and_encodes_the_same():
    encoder = FeatureEncoder.fit(TRAIN, SPECS, 10)
    file = io.BytesIO()
    torch.save(encoder.to_state(), file)
    file.seek(0)
    loaded = FeatureEncoder.from_state(torch.load(file, weights_only=True))
    one, two = encoder.encode(TRAIN), loaded.encode(TRAIN)
    assert np.array_equal(one.cat, two.cat)
    assert np.array_equal(one.num, two.num)
    assert all(np.array_equal(one.lists[name], two.lists[name]) for name in one.lists)


def test_a_warm_start_keeps_rows_and_statistics_and_adds_new_ids_and_features():
    encoder = FeatureEncoder.fit(TRAIN, SPECS, 10)
    later = rows([8, 1], [5.0, 6.0]).append_column("hour", pa.array([3, 4], pa.int64()))
    warm = encoder.extend(later, [*SPECS, FeatureSpec(name="hour", kind="categorical")], 10)
    assert warm.vocabularies["item"].ids.tolist() == [5, 7, 9, 1, 8]
    assert warm.normalisers == encoder.normalisers
    assert warm.encode(later).cat.tolist() == [[5, 1], [4, 2]]


def test_a_removed_feature_fails_by_name():
    encoder = FeatureEncoder.fit(TRAIN, SPECS, 10)
    with pytest.raises(FeatureMismatchError, match="past_age_hours"):
        encoder.extend(TRAIN, SPECS[:-1], 10)


@pytest.mark.parametrize(("column", "kind"), [("item", "categorical"), ("past", "categorical_list")])
def test_a_missing_column_and_a_wrong_type_name_the_feature(column, kind):
    encoder = FeatureEncoder.fit(TRAIN, SPECS, 10)
    with pytest.raises(FeatureMismatchError, match=f"feature {column}: no such column"):
        encoder.encode(TRAIN.drop_columns([column]))
    text = TRAIN.drop_columns([column]).append_column(column, pa.array(["a"] * 4))
    with pytest.raises(FeatureMismatchError, match=f"feature {column}: got string; a {kind} feature"):
        encoder.encode(text)


def test_a_list_that_shares_no_categorical_feature_is_an_error():
    with pytest.raises(ModelConfigError, match=r"past.*'price'"):
        FeatureEncoder.fit(TRAIN, [SPECS[1], FeatureSpec(name="past", kind="categorical_list", shares="price")], 10)


def test_a_model_saved_before_entities_were_said_can_be_started_from():
    table = pa.table({"user": pa.array([7, 8])})
    old = FeatureEncoder.fit(table, [FeatureSpec(name="user", kind="categorical")], 10)
    new = old.extend(table, [FeatureSpec(name="user", kind="categorical", entity=True)], 10)
    assert new.specs[0].entity
    assert new.vocabularies["user"].rows == old.vocabularies["user"].rows
