"""What people look at: coverage, one partition, models and their lineage, as plain data for a page or a terminal."""
