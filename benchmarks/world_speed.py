"""Pictures a second that the world draws, with scene and caption, on all cores.

python benchmarks/world_speed.py
"""

import json
import os
import platform
import time
from concurrent.futures import ProcessPoolExecutor

import cv2

from twinact.nano.data import described
from twinact.nano.recipe import RECIPE
from twinact.world.draw import draw
from twinact.world.sampling import Part

COUNT = 3000


def work(worker: int) -> int:
    """Sample and draw `COUNT` scenes of the whole world at the size that nano trains on."""
    cv2.setNumThreads(1)
    part = Part()
    for index in range(COUNT):
        draw(described(RECIPE, part, worker * COUNT + index, stream=9).scene, RECIPE.image_size)
    return COUNT


if __name__ == "__main__":
    cores = os.cpu_count() or 1
    with ProcessPoolExecutor(cores) as pool:
        list(pool.map(work, range(cores)))  # warm: imports and caches
        began = time.perf_counter()
        drawn = sum(pool.map(work, range(cores)))
        seconds = time.perf_counter() - began
    print(json.dumps({"pictures per second": round(drawn / seconds), "cores": cores, "size": RECIPE.image_size,
                      "machine": platform.machine()}))  # fmt: skip
