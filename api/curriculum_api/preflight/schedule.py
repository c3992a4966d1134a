"""Who meets whom: rounds of disjoint pairs, so that no node serves two measurements at once.

All pairs of 20 nodes would be 190 measurements; three rounds are 30, ten at a time, and enough:
a sound node that meets a bad one in one round meets another in the next.
"""

from collections.abc import Iterable

Pair = tuple[int, int]
Round = tuple[Pair, ...]

ALL_PAIRS = 4
"""Gangs of this many nodes and fewer meet all of their pairs."""

OWN_SECONDS = 10.0
"""The longest that a matrix product, or a turn at the storage, may take."""

STORAGE_TURNS = 20
"""Nodes take turns at the storage, which they share; more nodes than this go several at a time."""

STORAGE_SECONDS = 1.5
"""What a turn at the storage takes where it answers at all."""

PAIR_SECONDS = 8.0
"""The longest that one pair may take; a pair that exchanges nothing in it hangs."""

REDUCE_SECONDS = 15.0
"""The longest that the all-reduce may take."""

SLACK_SECONDS = 1.0
"""For each time that all wait for all."""


def rounds(nodes: int, count: int, *, start: int = 0) -> tuple[Round, ...]:
    """`count` rounds of a round-robin tournament over nodes 0 to `nodes` - 1, from round `start`.

    Where the number of nodes is odd one sits out in every round, and a round more is played, so
    that every node has `count` partners. Attempts that start elsewhere meet other pairs.
    """
    if nodes < 2:
        return ()
    places = nodes + nodes % 2
    played = min(places - 1, count + nodes % 2)
    if nodes <= ALL_PAIRS:
        played = places - 1
    return tuple(_round(nodes, places, start + number) for number in range(played))


def apart(pairs: Iterable[Pair]) -> tuple[Round, ...]:
    """These pairs, in rounds in which no node occurs twice."""
    made: list[list[Pair]] = []
    for pair in pairs:
        for fits in made:
            if not any(set(pair) & set(other) for other in fits):
                fits.append(pair)
                break
        else:
            made.append([pair])
    return tuple(tuple(found) for found in made)


def longest_seconds(nodes: int, count: int) -> float:
    """How long the schedule may take where every pair hangs, but none of the storage."""
    turns = min(nodes, STORAGE_TURNS) * STORAGE_SECONDS
    played = rounds(nodes, count)
    pairs = len(played) * (PAIR_SECONDS + SLACK_SECONDS)
    return OWN_SECONDS + turns + pairs + REDUCE_SECONDS + 4 * SLACK_SECONDS


def again_seconds(nodes: int, played: int) -> float:
    """How long it may take to measure some nodes alone, and some rounds of pairs, once more."""
    own = OWN_SECONDS + min(nodes, STORAGE_TURNS) * STORAGE_SECONDS if nodes else 0.0
    return own + played * (PAIR_SECONDS + SLACK_SECONDS) + 2 * SLACK_SECONDS


def _round(nodes: int, places: int, number: int) -> Round:
    """The circle method: the last place stays, the others move on by one a round."""
    last = places - 1
    circle = [(number + place) % last for place in range(last)]
    met = [(last, circle[0])]
    met += [(circle[place], circle[last - place]) for place in range(1, places // 2)]
    return tuple((min(pair), max(pair)) for pair in met if max(pair) < nodes)
