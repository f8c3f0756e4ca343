"""What a command says it has written."""

from __future__ import annotations

import pytest

from rmexp.cli import main


def test_compare_says_what_it_wrote_in_place_of(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare", "plain_scorer:LengthScorer", "plain_scorer:ChanceScorer"]
    main(words)
    assert capsys.readouterr().out.splitlines()[-1] == "written: comparison.html"
    main([*words, "out=new.json"])
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "written: new.json",
        "written: comparison.html, in place of the one that was there",
    ]
