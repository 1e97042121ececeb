"""What the leading components of nano's action space hold, of its phrases and of words that are no actions.

python benchmarks/orderings.py benchmarks/results/orderings.json docs/images/orderings.png

For each order of the components, every number of them gives one point: how much of the phrases' variance they keep, and
how much of the other words' energy they let in. All is seen in the embedding table; nothing is drawn.
"""

import argparse
import json
from pathlib import Path

from twinact.backbones import load_words
from twinact.backbones.shipped import model_dir
from twinact.configs import ORDERINGS
from twinact.report.plots import leaks_png
from twinact.space import ActionSpace
from twinact.space.build import SPACE_FILE
from twinact.space.ordering import energy_let_in, reordered, shipped_words

RANKS = (4, 8, 16, 32, 64, 100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("target", type=Path, help="results file")
    parser.add_argument("figure", type=Path, help="picture to write")
    given = parser.parse_args()
    space, tables = ActionSpace.load(model_dir() / SPACE_FILE), load_words("nano").token_tables()
    words = shipped_words(tables)
    curves = {
        ordering: energy_let_in(reordered(space, tables, words, ordering), tables, words) for ordering in ORDERINGS
    }
    rows = {}
    for ordering, shares in curves.items():
        kept, others = (share.mean(dim=0) for share in shares)
        rows[ordering] = {
            str(rank): {"phrases": round(float(kept[rank - 1]), 3), "other words": round(float(others[rank - 1]), 3)}
            for rank in (*RANKS, space.rank)
        }
    given.figure.write_bytes(leaks_png(curves))
    results = {"model": space.model_id, "words": len(words), "mean over slots, by components": rows}
    given.target.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
