"""What every action phrase means in the world: one partial pose, or alternatives where the words leave a choice."""

from collections.abc import Mapping
from functools import cache
from importlib import resources
from types import MappingProxyType

from twinact.errors import DataError
from twinact.world.pose import PartialPose, Pose

Meaning = tuple[PartialPose, ...]


@cache
def meanings() -> Mapping[str, Meaning]:
    """Phrase → its alternatives, in the order of ``meanings.tsv``.

    Each line of the file is ``phrase<TAB>terms``; alternatives are separated by ``|``, terms are those of
    `PartialPose.parse`.

    Raises:
        DataError: A line that cannot be read, or a phrase that occurs twice.
    """
    table: dict[str, Meaning] = {}
    lines = resources.files("twinact.world").joinpath("meanings.tsv").read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        phrase, tab, terms = line.partition("\t")
        if not tab or phrase in table:
            raise DataError(f"meanings.tsv line {number}: {line!r} has no tab or repeats a phrase")
        table[phrase] = tuple(PartialPose.parse(part) for part in terms.split("|"))
    return MappingProxyType(table)


def phrase_holds(phrase: str, pose: Pose) -> bool:
    """Whether a pose is right for a phrase: one of its alternatives holds."""
    return any(meaning.holds(pose) for meaning in meanings()[phrase])
