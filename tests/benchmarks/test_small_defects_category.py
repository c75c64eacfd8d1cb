from pathlib import Path

import pytest
from benchmarks.small_defects import main

from stillwatch.images.layout import scan_category


def test_the_category_is_written_once(tmp_path: Path) -> None:
    folder = tmp_path / "sheet"
    given = [str(folder), "--side", "128", "--train", "2", "--test", "1"]
    main(given)
    category = scan_category(folder)
    assert len(category.train_normals) == 2
    assert len(category.test_normals) == len(category.test_anomalies) == 1
    with pytest.raises(SystemExit, match="sheet: exists already"):
        main(given)
