"""Memory, time, energy and money of a phase before its first step: pure functions.

Each formula states its units and where it comes from. Bytes are bytes, GiB is 2**30 of them and
GB is 1e9; rates are per second; tokens are counted once, by position.
"""
