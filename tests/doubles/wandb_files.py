"""Read what an offline W&B run wrote: LevelDB log framing around protobuf records."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

_HEADER = 7
_BLOCK = 32 * 1024


def records(path: Path) -> list[Any]:
    """All records of one .wandb file."""
    from wandb.proto import wandb_internal_pb2

    raw = path.read_bytes()
    assert raw.startswith(b":W&B"), path
    position, partial, found = _HEADER, b"", []
    while position + 7 <= len(raw):
        left = _BLOCK - position % _BLOCK
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", raw[position : position + 7])
        chunk = raw[position + 7 : position + 7 + length]
        if len(chunk) < length:
            break  # A killed process leaves a torn end.
        position += 7 + length
        if kind == 0 and length == 0:
            continue
        partial = chunk if kind in (1, 2) else partial + chunk
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(partial)
            found.append(record)
    return found


def run_of(directory: Path) -> dict[str, Any]:
    """What the one offline run below a trial's directory logged."""
    import wandb

    wandb.teardown()  # The service writes on after finish(); it ends with all on disk.
    files = sorted(directory.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 1, files
    return read_run(files[0])


def read_run(path: Path) -> dict[str, Any]:
    """What one offline run logged; the exit code is None where it was killed."""
    run: dict[str, Any] = {"history": [], "summary": {}, "config": {}, "exit_code": None}
    for record in records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run["id"], run["group"] = record.run.run_id, record.run.run_group
            run["job_type"], run["tags"] = record.run.job_type, list(record.run.tags)
            for item in record.run.config.update:
                run["config"][item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
        elif kind == "history":
            row = {
                item.key or ".".join(item.nested_key): json.loads(item.value_json)
                for item in record.history.item
            }
            run["history"].append(row)
        elif kind == "summary":
            for item in record.summary.update:
                key = item.key or ".".join(item.nested_key)
                run["summary"][key] = json.loads(item.value_json)
        elif kind == "exit":
            run["exit_code"] = record.exit.exit_code
    return run


def table_of(directory: Path, name: str) -> list[dict[str, Any]]:
    """The rows of a table that the one offline run below a directory logged."""
    (path,) = directory.glob(f"wandb/offline-run-*/files/media/table/{name}_*.table.json")
    table = json.loads(path.read_text(encoding="utf-8"))
    return [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
