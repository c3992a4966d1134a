"""A real Kubernetes on one Linux machine, for the tests and the demo; README.md tells of it."""
