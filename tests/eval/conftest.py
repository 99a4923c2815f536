import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grocery")
    rng = np.random.default_rng(0)
    for split, number in (("train", 20), ("val", 2), ("test", 3)):
        lines = []
        for label, name in enumerate(("Apple", "Milk")):
            for i in range(number):
                path = folder / split / name / f"{name}_{i:03}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 256, (40, 30 + 10 * label, 3), dtype=np.uint8)).save(path)
                lines.append(f"{path.relative_to(folder)}, {label}, 0")
        (folder / f"{split}.txt").write_text("\n".join(lines) + "\n")
    names = "Class Name (str),Class ID (int),Coarse Class Name (str),Coarse Class ID (int)\n"
    (folder / "classes.csv").write_text(names + "Apple,0,Food,0\nMilk,1,Food,0\n")
    return folder
