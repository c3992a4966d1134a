"""`make demo`: a four-phase curriculum on a real Kubernetes, from nothing to the picture."""
