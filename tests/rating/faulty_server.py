"""A small OpenAI-compatible server on loopback that answers as a test's script says."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Reply:
    """One answer of the server."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    hang: bool = False
    cut: bool = False  # close the connection within the body
    raw: str | None = None


def completion(text: str, top: dict[str, float] | None = None, **usage: int) -> Reply:
    choice: dict[str, Any] = {
        "index": 0,
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": text},
    }
    if top is not None:
        listed = [{"token": t, "logprob": p, "bytes": None} for t, p in top.items()]
        choice["logprobs"] = {"content": [{**listed[0], "top_logprobs": listed}], "refusal": None}
    body = {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "made",
        "choices": [choice],
        "usage": {"total_tokens": 0, "prompt_tokens": 100, "completion_tokens": 1, **usage},
    }
    return Reply(body=body)


class FaultyServer:
    """Runs in a thread; ``script(text, nth)`` gives the reply to a question asked the nth time."""

    def __init__(self, script: Callable[[str, int], Reply]):
        self._script = script
        self.asked: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.at_once = self.most_at_once = 0
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def __enter__(self) -> FaultyServer:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        self._ready.set()
        await self._stop.wait()
        server.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = int(head.split("content-length:")[1].split("\r\n")[0])
                body = json.loads(await reader.readexactly(length))
                self.at_once += 1
                self.most_at_once = max(self.most_at_once, self.at_once)
                text = body["messages"][0]["content"]
                nth = self.asked.count(text)
                self.asked.append(text)
                self.bodies.append(body)
                reply = self._script(text, nth)
                await asyncio.sleep(0.002)
                self.at_once -= 1
                if reply.hang:
                    await self._stop.wait()
                    return
                payload = (reply.raw if reply.raw is not None else json.dumps(reply.body)).encode()
                headers = {"content-type": "application/json", **reply.headers}
                lines = [f"HTTP/1.1 {reply.status} x", f"content-length: {len(payload)}"]
                lines += [f"{name}: {value}" for name, value in headers.items()]
                writer.write("\r\n".join([*lines, "", ""]).encode())
                writer.write(payload[: len(payload) // 2] if reply.cut else payload)
                await writer.drain()
                if reply.cut:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
