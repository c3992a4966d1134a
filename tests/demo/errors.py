"""The demo's one error: what went wrong, in one line."""


class DemoError(Exception):
    """The demo cannot go on."""
