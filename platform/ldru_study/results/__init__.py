"""The store: exact counts in write-once Parquet files; no torch, no ray."""
