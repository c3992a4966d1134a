"""The one error people see: a single line that says what, where and what to do."""


class ClusterError(Exception):
    """The cluster cannot do what was asked; the message is one line and names the way out."""
