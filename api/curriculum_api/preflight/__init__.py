"""Preflight: what a gang measures of its nodes before its first step, and what follows from it.

    figures.py     the checks, their units, and the documents that carry what was measured
    floors.py      what a class expects of its nodes
    schedule.py    who meets whom in which round, and how long all of it may take
    diagnose.py    figures and floors to verdicts

All of it is pure: the trainer measures, the operator and `curriculum doctor` judge by the same
words.
"""
