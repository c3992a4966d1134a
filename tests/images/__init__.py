"""The project's own images for the test cluster, and the torch environment beside them."""
