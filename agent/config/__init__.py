"""Configuration: what may be set, how files and flags are read, what a reload may change."""
