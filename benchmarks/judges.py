"""How far the judges can be trusted: figures, and the hardest drawn pictures beside what was read from them.

python benchmarks/judges.py benchmarks/results/judges.json docs/images/judges.png
"""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path

from twinact.bench.calibrate import calibrate, hardest
from twinact.bench.judges import Judges
from twinact.nano import judges_dir
from twinact.workflow import open_model

COUNT, SEED = 2000, 11


def main(results: Path, sheet: Path) -> None:
    """Write both files."""
    backbone = open_model("nano")
    figures, cases = calibrate(Judges.load(judges_dir()), backbone, COUNT, SEED)
    facts = {"date": datetime.now(UTC).date().isoformat(), "model": backbone.model_id, "pictures": COUNT, "seed": SEED}
    results.write_text(json.dumps(facts | figures, indent=2) + "\n")
    hardest(cases).save(sheet, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
