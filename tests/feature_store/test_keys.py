"""Ids of keys."""

from feature_store.keys import key_id_column


def test_one_column_keeps_its_value_and_several_are_hashed_in_declared_order(spark):
    rows = spark.sql("select 7L as user, 9L as item").select(
        key_id_column(["user"]).alias("one"),
        key_id_column(["user", "item"]).alias("pair"),
        key_id_column(["item", "user"]).alias("swapped"),
    )
    found = rows.first()
    assert found["one"] == 7
    assert found["pair"] == spark.sql("select xxhash64(7L, 9L)").first()[0]
    assert found["pair"] != found["swapped"]


def test_a_row_without_one_of_the_columns_has_no_key(spark):
    found = spark.sql("select 7L as user, cast(null as long) as item").select(
        key_id_column(["user", "item"]).alias("pair"), key_id_column(["item"]).alias("one")
    )
    assert found.first() == (None, None)
