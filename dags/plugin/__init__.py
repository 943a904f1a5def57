"""Pages inside the Airflow UI: coverage of tables and partitions, and VMs with their lineage."""

URL_PREFIX = "/loopfm"
