"""What the leading components of nano's action space hold, of its phrases and of words that are no actions.

python benchmarks/orderings.py benchmarks/results/orderings.json docs/images/orderings.png

For each order of the components, every number of them gives one point: how much of the phrases' variance they keep, and
how much of the other words' energy they let in. All is seen in the embedding table; nothing is drawn.
"""

import argparse
import json
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt

from twinact.backbones import load_words
from twinact.backbones.shipped import model_dir
from twinact.configs import ORDERINGS
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
    figure, axes = plt.subplots(figsize=(5.2, 3.6), layout="constrained")
    rows = {}
    for ordering in ORDERINGS:
        kept, others = (
            share.mean(dim=0) for share in energy_let_in(reordered(space, tables, words, ordering), tables, words)
        )
        axes.plot(kept, others, label=ordering)
        for rank in RANKS:
            axes.plot(kept[rank - 1], others[rank - 1], "k.", markersize=4)
            axes.annotate(str(rank), (kept[rank - 1], others[rank - 1]), fontsize=7, xytext=(3, -8),
                          textcoords="offset points")  # fmt: skip
        rows[ordering] = {
            str(rank): {"phrases": round(float(kept[rank - 1]), 3), "other words": round(float(others[rank - 1]), 3)}
            for rank in (*RANKS, space.rank)
        }
    axes.set(xlabel="phrases' variance kept", ylabel="other words' energy let in", xlim=(0, 1.02), ylim=(0, 0.85))
    axes.legend(frameon=False)
    figure.savefig(given.figure, dpi=110)
    results = {"model": space.model_id, "words": len(words), "mean over slots, by components": rows}
    given.target.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
