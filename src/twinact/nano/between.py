"""Points between two phrases: between which, and which of them are kept for measuring."""

import zlib
from collections.abc import Sequence
from itertools import combinations

from twinact.world.meanings import meanings
from twinact.world.pose import PartialPose, distance

_MEASURED_OF = 10


def between_pairs(phrases: Sequence[str], *, measured: bool) -> list[tuple[str, str]]:
    """Pairs of phrases of one meaning that name the same joints and ask for clearly different angles.

    Args:
        phrases: To choose from; pairs keep their order.
        measured: Whether to give the tenth of all pairs, by a hash of their words, that no training sees, or the rest.
    """
    table = meanings()
    single = [phrase for phrase in phrases if len(table[phrase]) == 1]
    return [
        (a, b)
        for a, b in combinations(single, 2)
        if (zlib.crc32(f"{a}|{b}".encode()) % _MEASURED_OF == 0) == measured
        and _clearly_apart(table[a][0], table[b][0])
    ]


def _clearly_apart(a: PartialPose, b: PartialPose) -> bool:
    there, here = a.targets, b.targets
    if there.keys() != here.keys():
        return False
    return any(distance(n, there[n].value, here[n].value) > 2 * here[n].tolerance for n in here)
