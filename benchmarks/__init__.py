"""Benchmarks: ``python -m benchmarks.NAME [--conf FILE] [--json FILE]``."""

import models as models  # before torch: how its threads wait
