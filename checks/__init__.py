"""Health checks: what one check is, when it runs, what its result means. Imports nothing of ours."""
