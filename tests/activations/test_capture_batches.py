"""Packing of rows into batches, against every way there is."""

from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from trimtab.activations.batches import pack

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=7)


def cost(lengths: list[int], batches: list[list[int]], each: int) -> int:
    return sum(len(b) * max(lengths[i] for i in b) + each for b in batches)


def partitions(rows: list[int]) -> list[list[list[int]]]:
    """Every way to put the rows in batches."""
    if not rows:
        return [[]]
    first, rest = rows[0], rows[1:]
    found = []
    for size in range(len(rest) + 1):
        for others in combinations(rest, size):
            left = [row for row in rest if row not in others]
            found += [[[first, *others], *more] for more in partitions(left)]
    return found


@settings(max_examples=60, deadline=None)
@given(lengths=LENGTHS, budget=st.integers(1, 150), each=st.integers(0, 50))
def test_no_other_batches_cost_less(lengths, budget, each):
    def allowed(batch: list[int]) -> bool:
        return len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget

    ways = [way for way in partitions(list(range(len(lengths)))) if all(map(allowed, way))]
    found = pack(lengths, budget, each)
    assert all(map(allowed, found))
    assert sorted(i for batch in found for i in batch) == list(range(len(lengths)))
    assert cost(lengths, found, each) == min(cost(lengths, way, each) for way in ways)


@given(lengths=st.lists(st.integers(1, 500), min_size=1, max_size=80))
@settings(max_examples=20, deadline=None)
def test_the_longest_rows_come_first(lengths):
    # The largest batch shows at once whether memory suffices.
    widths = [max(lengths[i] for i in batch) for batch in pack(lengths, 2000, 32)]
    assert widths == sorted(widths, reverse=True)
