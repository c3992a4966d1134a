"""The command line `curriculum`. Imports neither kopf nor torch at start."""
