"""The trainer: one phase of a curriculum, on one or many processes. Never imports kopf."""
