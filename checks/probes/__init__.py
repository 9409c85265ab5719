"""One probe a file: each asks something once and tells an `Outcome`."""
