"""Run as a program: score fm_inputs on a Spark cluster; the model's file is gone before any executor asks for it."""

import json
import sys
from pathlib import Path

from feature_store.session import spark_session
from pipelines.infer_spark import fm_outputs_frame
from tests.pipelines.test_infer_spark import DATASET, space_of


def main(master, inputs, model, digest, out):
    spark = spark_session("loopfm-cluster", master=master, memory="512m", conf={"spark.executor.memory": "512m"})
    try:
        frame = fm_outputs_frame(spark, DATASET, spark.read.parquet(inputs), space_of(model, digest), model)
        Path(model).unlink()
        frame.write.parquet(out)
        print(json.dumps({"rows": spark.read.parquet(out).count()}))
    finally:
        spark.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
