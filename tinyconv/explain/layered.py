"""A drawing of a directed graph in layers: boxes in rows, every edge downwards, no edge through a box.

Source: Sugiyama, Tagawa and Toda, "Methods for visual understanding of hierarchical system structures", 1981. Four
steps: each node takes the row just above the first that uses it; an edge over several rows is cut into pieces by a
bend in each of them, so that it has a place of its own there; the rows are ordered so that few edges cross; places are
moved towards their neighbours. Own code instead of Graphviz: it is a program that ``pip`` does not install, which a
student's laptop lacks, and a tape needs no more than this.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

_GAP = 16.0  # pixels between two places of a row
_SWEEPS = 30  # of either kind; more change nothing in the networks of tinyconv.models
_STRAIGHT = 8.0  # how much straighter a piece between two bends wants to be than one between two boxes
_SIDE = 0.1  # a node stands below the source with the longest history; the others, such as weights, hardly move it

#: (source, target) by the numbers of the nodes; several edges may join the same two.
Pair = tuple[int, int]


@dataclass(frozen=True)
class Drawing:
    """``rows`` from the top, each the numbers of its nodes from left to right; ``x``, the middle of each node;
    ``bends``, for each edge its x in each of the rows that it passes, from the top; ``width`` of the whole.
    """

    rows: list[list[int]]
    x: list[float]
    bends: list[list[float]]
    width: float


def draw(widths: Sequence[float], edges: Sequence[Pair]) -> Drawing:
    """Places for nodes that are so wide and joined like that; ``edges`` lead from lower to higher numbers."""
    ranks = _ranks(len(widths), edges)
    places, chains = _cut(widths, edges, ranks)
    rows = _ordered(_Rows(ranks, chains, places))
    x = _moved(rows, [*widths, *[0.0] * (places - len(widths))], chains, len(widths))
    left = min(x[n] - width / 2 for n, width in enumerate(widths))
    left = min([left, *x[len(widths) :]])
    x = [at - left for at in x]
    return Drawing(
        [[n for n in row if n < len(widths)] for row in rows],
        x[: len(widths)],
        [[x[place] for place in chain[1:-1]] for chain in chains],
        max([x[n] + width / 2 for n, width in enumerate(widths)] + x[len(widths) :]),
    )


def spread(
    wanted: Sequence[float],
    apart: Sequence[float],
    weights: Sequence[float],
    low: float = -math.inf,
    high: float = math.inf,
) -> list[float]:
    """The places in order, at least ``apart`` from the one before, nearest to ``wanted`` (weighted least squares).

    ``apart`` has one entry less than ``wanted``. All places lie from ``low`` to ``high`` if there is room. Without the
    distances this is isotonic regression, which pooling adjacent violators solves.
    """
    offsets = [0.0]
    for distance in apart:
        offsets.append(offsets[-1] + distance)
    pools: list[tuple[float, float, int]] = []  # mean, weight, length
    for want, offset, weight in zip(wanted, offsets, weights):
        pool = (want - offset, weight, 1)
        while pools and pools[-1][0] > pool[0]:
            mean, before, length = pools.pop()
            total = before + pool[1]
            pool = ((mean * before + pool[0] * pool[1]) / total, total, length + pool[2])
        pools.append(pool)
    means = [mean for mean, _, length in pools for _ in range(length)]
    top = max(low, high - offsets[-1])
    return [min(max(mean, low), top) + offset for mean, offset in zip(means, offsets)]


# --------------------------------------------------------------------------------------------------
# The four steps


def _ranks(count: int, edges: Sequence[Pair]) -> list[int]:
    """The row of each node, as near to what uses it as it can stand; the last row is what nothing uses."""
    above = [0] * count  # rows from the end
    for source, target in sorted(edges, key=lambda edge: -edge[1]):  # all that uses a target comes before it
        above[source] = max(above[source], above[target] + 1)
    return [max(above, default=0) - rows for rows in above]


def _cut(widths: Sequence[float], edges: Sequence[Pair], ranks: list[int]) -> tuple[int, list[list[int]]]:
    """How many places there are, bends included, and each edge as the chain of its places. Extends ``ranks``."""
    places, chains = len(widths), []
    for source, target in edges:
        between = range(ranks[source] + 1, ranks[target])
        chains.append([source, *range(places, places + len(between)), target])
        ranks.extend(between)
        places += len(between)
    return places, chains


class _Rows:
    """The places of each row, and the neighbours of a place in the rows above and below it."""

    def __init__(self, ranks: list[int], chains: list[list[int]], places: int) -> None:
        self.rows: list[list[int]] = [[] for _ in range(max(ranks, default=-1) + 1)]
        for place, rank in enumerate(ranks):
            self.rows[rank].append(place)
        self.above: list[list[int]] = [[] for _ in range(places)]
        self.below: list[list[int]] = [[] for _ in range(places)]
        for chain in chains:
            for upper, lower in pairwise(chain):
                self.above[lower].append(upper)
                self.below[upper].append(lower)

    def crossings(self) -> int:
        """How many pairs of edges cross between two rows."""
        total = 0
        for upper, lower in pairwise(self.rows):
            column = {place: c for c, place in enumerate(lower)}
            ends = [end for place in upper for end in sorted(column[below] for below in self.below[place])]
            total += sum(a > b for i, a in enumerate(ends) for b in ends[i + 1 :])
        return total


def _ordered(graph: _Rows) -> list[list[int]]:
    """The best of some sweeps down and up, in which each row is sorted by the mean of its neighbours' columns."""
    best, fewest = [list(row) for row in graph.rows], graph.crossings()
    for sweep in range(2 * _SWEEPS):
        down = sweep % 2 == 0
        neighbours = graph.above if down else graph.below
        pairs = list(pairwise(graph.rows if down else graph.rows[::-1]))
        for fixed, row in pairs:
            column = {place: c for c, place in enumerate(fixed)}
            mean = {
                place: sum(column[n] for n in neighbours[place]) / len(neighbours[place])
                if neighbours[place]
                else c * len(fixed) / len(row)  # a place without neighbours stays about where it is
                for c, place in enumerate(row)
            }
            row.sort(key=mean.__getitem__)
        crossings = graph.crossings()
        if crossings < fewest:
            best, fewest = [list(row) for row in graph.rows], crossings
    return best


def _moved(rows: list[list[int]], widths: list[float], chains: list[list[int]], nodes: int) -> list[float]:
    """The x of each place: each row in turn as near to its neighbours as the widths allow."""
    pulls: list[list[tuple[int, float]]] = [[] for _ in widths]
    main = _main(chains, nodes)
    for edge, chain in enumerate(chains):
        for upper, lower in pairwise(chain):
            weight = _STRAIGHT ** ((upper >= nodes) + (lower >= nodes)) * (1 if edge in main else _SIDE)
            pulls[upper].append((lower, weight))
            pulls[lower].append((upper, weight))
    apart = [[(widths[a] + widths[b]) / 2 + _GAP for a, b in pairwise(row)] for row in rows]
    x = [0.0] * len(widths)
    for row, distances in zip(rows, apart):
        middle = sum(distances) / 2
        for place, at in zip(row, spread([-middle] * len(row), distances, [1.0] * len(row), -middle)):
            x[place] = at
    for sweep in range(2 * _SWEEPS):
        for row, distances in list(zip(rows, apart))[:: 1 if sweep % 2 == 0 else -1]:
            weights = [sum(weight for _, weight in pulls[place]) or 1.0 for place in row]
            wanted = [
                sum(x[n] * weight for n, weight in pulls[place]) / total if pulls[place] else x[place]
                for place, total in zip(row, weights)
            ]
            for place, at in zip(row, spread(wanted, distances, weights)):
                x[place] = at
    return x


def _main(chains: list[list[int]], nodes: int) -> set[int]:
    """For each node, the edge from the source that has the longest history."""
    history, found = [0] * nodes, {}
    for edge, chain in sorted(enumerate(chains), key=lambda item: item[1][-1]):
        source, target = chain[0], chain[-1]
        if history[source] + 1 > history[target]:
            history[target], found[target] = history[source] + 1, edge
    return set(found.values())
