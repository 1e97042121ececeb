"""The list of action phrases."""

import pytest

from twinact.errors import DataError
from twinact.phrases import Phrase, load_phrases, parse_phrases


def test_phrase_lists_are_parsed():
    parsed = parse_phrases("# Head\nlooking up\n\n# Hand\nhands on hips\n", "list")
    assert parsed == (Phrase("looking up", "Head"), Phrase("hands on hips", "Hand"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("looking up\n", "line 1: phrase 'looking up' has no heading"),
        ("# Head\nlooking  up\n", "line 2.*single spaces"),
        ("# Head\nlooking up \n", "single spaces"),
        ("# Head\nlooking <act>\n", "none of # < >"),
        ("# Head\nnod\n# Hand\nNod\n", "line 4: phrase 'Nod' was already given in line 2"),
        ("# Head\nnod\n# Head\nbow\n", "line 3: heading '# Head' is given twice"),
        ("#\nnod\n", "empty"),
        ("# Head\n# Hand\nwave\n", "no phrases under Head"),
        ("", "no phrases"),
    ],
)
def test_malformed_phrase_lists_are_refused(text, message):
    with pytest.raises(DataError, match=message):
        parse_phrases(text, "list")


def test_shipped_phrases_are_complete():
    phrases = load_phrases()
    counts = {heading: sum(p.heading == heading for p in phrases) for heading in ("Head", "Hand", "Foot", "Body")}
    assert len(phrases) == 832 and counts == dict.fromkeys(counts, 208)
