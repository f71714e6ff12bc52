"""The live page: read-only, on loopback, for as long as somebody watches.

browser --state, every two seconds--> server, which looks whether files of the runs have changed
browser --sections, charts, groups--> server, which reads what is asked for, and nothing ahead

A page elsewhere in the browser can send requests here under a name of its own that it lets point to loopback: every
request whose Host is not loopback's is refused. Nothing is ever written, and nothing runs but the page's own scripts.
"""

import asyncio
import json
import math
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from aiohttp import web

from tpo_dist.errors import UsageError
from tpo_dist.programs.group_log import GROUPS
from tpo_dist.report.charts import charts_of, update_of
from tpo_dist.report.gather import Picture, gather
from tpo_dist.report.groups import GroupFile, index_of
from tpo_dist.report.page import CHUNK, bokeh_script, chunk_of, own_file, render_live, render_sections

HOST = "127.0.0.1"
_REST_SECONDS = 1.5
"""Between two looks at the files: a hundred requests in that time cost one."""
_LONGEST_SEARCH = 200
_WATCHED = ("config.json", "metrics.jsonl", "faults.jsonl", "summary.json", "evaluations.jsonl", GROUPS)
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "font-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Site:
    """The runs that are shown, and what was last seen of them."""

    def __init__(self, folders: Sequence[Path]) -> None:
        """Raises nothing for damaged runs: their pages say what is wrong."""
        self._folders = folders
        self._files = [GroupFile(folder / GROUPS) for folder in folders]
        self._pictures: list[Picture] = []
        self._charts: list[dict[str, Any]] = []
        self._stamp, self._looked = "", -math.inf
        self._lock = asyncio.Lock()

    async def pictures(self) -> list[Picture]:
        """The newest look at the runs; a new one where files have changed since."""
        async with self._lock:
            if time.monotonic() - self._looked >= _REST_SECONDS:
                stamp = await asyncio.to_thread(self._read_stamp)
                if stamp != self._stamp:
                    self._pictures = await asyncio.to_thread(self._gather)
                    self._charts = await asyncio.to_thread(charts_of, self._pictures)
                    self._stamp = stamp
                self._looked = time.monotonic()
            return self._pictures

    def _gather(self) -> list[Picture]:
        return [gather(folder, groups) for folder, groups in zip(self._folders, self._files, strict=True)]

    def _read_stamp(self) -> str:
        """Other than before where one of the files is."""
        parts = []
        for folder in self._folders:
            for name in _WATCHED:
                try:
                    found = os.stat(folder / name)
                except OSError:
                    continue
                parts.append(f"{name} {found.st_ino} {found.st_size} {found.st_mtime_ns}")
        return "|".join(parts)

    async def page(self, request: web.Request) -> web.Response:
        """The frame of the page."""
        pictures = await self.pictures()
        return _html(render_live(pictures, self._charts))

    async def sections(self, request: web.Request) -> web.Response:
        """What stands in the page as HTML."""
        return _html(await asyncio.to_thread(render_sections, await self.pictures()))

    async def state(self, request: web.Request) -> web.Response:
        """Where the runs are, and a stamp that changes when there is more to fetch."""
        pictures = await self.pictures()
        runs = [
            {
                "word": "unknown" if picture.observed is None else picture.observed.word,
                "step": 0 if picture.observed is None else picture.observed.step,
                "groups": len(picture.groups.entries),
                "generation": picture.groups.generation,
            }
            for picture in pictures
        ]
        return _json({"stamp": self._stamp, "charts": len(self._charts), "runs": runs})

    async def columns(self, request: web.Request) -> web.Response:
        """New data of all charts."""
        return _json(await asyncio.to_thread(update_of, await self.pictures(), self._charts))

    async def chart(self, request: web.Request) -> web.Response:
        """One chart, as BokehJS takes it."""
        await self.pictures()
        return _json(self._charts[_number(request, "chart", len(self._charts))]["item"])

    async def index(self, request: web.Request) -> web.Response:
        """The index of the groups of a run."""
        return _json(index_of((await self._picture(request)).groups.entries))

    async def chunk(self, request: web.Request) -> web.Response:
        """Some groups."""
        picture = await self._picture(request)
        start = CHUNK * _number(request, "chunk", math.ceil(len(picture.groups.entries) / CHUNK))
        return _json(await asyncio.to_thread(chunk_of, picture, picture.groups.entries[start : start + CHUNK]))

    async def search(self, request: web.Request) -> web.Response:
        """The places of the groups in which a text stands."""
        picture, text = await self._picture(request), request.query.get("text", "")
        if not 0 < len(text) <= _LONGEST_SEARCH:
            raise web.HTTPBadRequest(text=f"give a text of 1 to {_LONGEST_SEARCH} characters")
        return _json(await asyncio.to_thread(picture.groups.search, text))

    async def _picture(self, request: web.Request) -> Picture:
        pictures = await self.pictures()
        return pictures[_number(request, "run", len(pictures))]


def make_app(folders: Sequence[Path], port: Callable[[], int]) -> web.Application:
    """The site as an application. `port`: the one it is served on, once that is known."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        allowed = {f"{name}:{port()}" for name in (HOST, "localhost")}
        if request.headers.get("Host", "") not in allowed:
            answer: web.StreamResponse = web.Response(status=403, text="this page answers to loopback names alone")
        else:
            try:
                answer = await handler(request)
            except web.HTTPException as error:
                answer = web.Response(status=error.status, text=error.text or error.reason)
        answer.headers.update(_HEADERS)
        return answer

    site = Site(folders)
    app = web.Application(middlewares=[guard])
    app.router.add_get("/", site.page)
    app.router.add_get("/page.js", _file("page.js", "text/javascript"))
    app.router.add_get("/page.css", _file("page.css", "text/css"))
    app.router.add_get("/bokeh.js", _bokeh)
    app.router.add_get("/sections", site.sections)
    app.router.add_get("/state", site.state)
    app.router.add_get("/charts", site.columns)
    app.router.add_get("/charts/{chart}", site.chart)
    app.router.add_get("/groups/{run}/index", site.index)
    app.router.add_get("/groups/{run}/chunk/{chunk}", site.chunk)
    app.router.add_get("/groups/{run}/search", site.search)
    return app


async def serve(folders: Sequence[Path], port: int, ready: Callable[[str], None]) -> None:
    """Serve until cancelled. `port`: 0 for any that is free. `ready` is told the address.

    Raises UsageError where the port is taken.
    """
    bound = port
    runner = web.AppRunner(make_app(folders, lambda: bound), access_log=None)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, HOST, port).start()
        except OSError as error:
            reason = f"cannot be listened on ({error.strerror})"
            raise UsageError(f"--port {port}", reason, "give another, or 0 for any that is free") from None
        bound = int(runner.addresses[0][1])
        ready(f"http://{HOST}:{bound}/")
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def _file(name: str, kind: str) -> Handler:
    async def answer(request: web.Request) -> web.Response:
        return _compressed(web.Response(text=own_file(name), content_type=kind, charset="utf-8"))

    return answer


async def _bokeh(request: web.Request) -> web.Response:
    return _compressed(web.Response(text=bokeh_script(), content_type="text/javascript", charset="utf-8"))


def _number(request: web.Request, name: str, below: int) -> int:
    """A number in the path. Raises HTTPNotFound for one that is not below the bound."""
    text = request.match_info[name]
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) < below):
        raise web.HTTPNotFound(text=f"there is no {name} {text[:20]}")
    return int(text)


def _html(text: str) -> web.Response:
    return _compressed(web.Response(text=text, content_type="text/html", charset="utf-8"))


def _json(value: Any) -> web.Response:
    text = json.dumps(_finite(value), separators=(",", ":"), allow_nan=False)
    return _compressed(web.Response(text=text, content_type="application/json", charset="utf-8"))


def _finite(value: Any) -> Any:
    """NaN is no JSON; null is."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list | tuple) else value


def _compressed(response: web.Response) -> web.Response:
    response.enable_compression()
    return response
