"""Whole curricula on real kubelets."""
