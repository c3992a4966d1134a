"""The environment and the parts of a pod that its network needs, from the profile of its fabric.

A profile is text that a site may write, so it is treated as such: read without trust, rendered in
Jinja2's sandbox, parsed, bounded and checked.
"""
