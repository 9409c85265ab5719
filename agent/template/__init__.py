"""Files rendered from watched values: dependencies, rendering, swapping, the command after."""
