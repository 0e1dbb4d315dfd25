"""Study files as validated data; no torch, no ray."""
