from __future__ import annotations

from pathlib import Path

import pytest

from rmexp.errors import UserError
from rmexp.preferences import read_hub
from rmexp.preferences.read import HUB_ROWS

ROWS = [{"prompt": f"p{n}", "response_a": "ä", "response_b": "b", "preference": "a"} for n in "123"]


def test_rows_of_the_hub_are_kept_and_read_again_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    asked = []

    def load(name: str, config: str | None, **of: object) -> list[dict[str, str]]:
        asked.append((name, config, of["data_dir"], of["split"]))
        if len(asked) > 3:
            raise ConnectionError("no network")
        return ROWS[: len(asked)]

    monkeypatch.setattr(datasets, "load_dataset", load)
    plain = read_hub("owner/name", split="train")
    monkeypatch.setenv(HUB_ROWS, str(tmp_path / "rows"))
    first = read_hub("owner/name", split="train")
    other = read_hub("owner/name", split="train", data_dir="folder")
    assert (len(plain.pairs), len(first.pairs), len(other.pairs)) == (1, 2, 3)
    again = read_hub("owner/name", split="train")
    assert again.pairs == first.pairs
    assert again.fingerprint == first.fingerprint
    assert read_hub("owner/name", split="train", data_dir="folder").pairs == other.pairs
    assert len(asked) == 3
    with pytest.raises(UserError, match="no network"):
        read_hub("owner/name", split="test")
