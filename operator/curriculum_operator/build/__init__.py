"""From a decision to Kubernetes objects, as data: one file per kind. Pure."""
