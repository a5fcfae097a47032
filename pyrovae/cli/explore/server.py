"""Serve the page of a world on this machine alone, to whoever has its token.

A request is answered if its path has the token, its Host is this server (another name that
resolves to 127.0.0.1 is refused: DNS rebinding), and its Origin, if it has one, is the page
itself. Questions are POST requests with JSON, which another site cannot send without permission.
The page may connect to nothing but this server, and nothing is written.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import secrets
import socket
from typing import Any, Final

import msgspec

from pyrovae.cli.explore.document import document
from pyrovae.cli.explore.world import World
from pyrovae.data.reading import extra
from pyrovae.weights.sites import one_line

__all__ = ["HOST", "Application", "listening", "serve", "uvicorn_server"]

HOST: Final = "127.0.0.1"

METHODS: Final = ("world", "datum", "decode", "path", "density", "measure", "plane")
"""The questions that the page may ask: methods of `World`."""

LARGEST: Final = 2**20
"""The size of the largest question, in bytes."""

HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Application:
    """The ASGI application of one world.

    Args:
        world: what is shown.
        port: the port that it is served at.
        token: the secret of the URL; a new one by default.
    """

    def __init__(self, world: World, port: int, token: str | None = None) -> None:
        extra("starlette", "explore")
        self.world, self.port = world, port
        self.token = token or secrets.token_urlsafe(24)
        self.page = document(world.title, 'start(new Served(""));', connect="'self'")
        self.one_at_a_time = asyncio.Lock()

    @property
    def url(self) -> str:
        """The address of the page, with the token."""
        return f"http://{HOST}:{self.port}/{self.token}/"

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request of ASGI."""
        from starlette.requests import ClientDisconnect, Request

        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        with contextlib.suppress(ClientDisconnect):
            response = await self._answer(request)
            response.headers.update(HEADERS)
            await response(scope, receive, send)

    async def _answer(self, request: Any) -> Any:
        from starlette.responses import HTMLResponse, PlainTextResponse

        refused = self._refusal(request)
        if refused is not None:
            return PlainTextResponse(refused + "\n", 403)
        name = request.url.path.split("/", 2)[2:]
        if request.method == "GET" and name == [""]:
            return HTMLResponse(self.page)
        if request.method == "POST" and name and name[0] in METHODS:
            return await self._asked(request, name[0])
        return PlainTextResponse("There is no such page.\n", 404)

    def _refusal(self, request: Any) -> str | None:
        """Return why a request is refused; None if it is not."""
        here = {f"{name}:{self.port}" for name in (HOST, "localhost")}
        if request.headers.get("host") not in here:
            return f"This server is {HOST}:{self.port} only."
        origin = request.headers.get("origin")
        if origin is not None and origin != f"http://{request.headers['host']}":
            return "Another site may not ask this server."
        given = request.url.path.split("/")[1].encode()
        if not secrets.compare_digest(given, self.token.encode()):
            return "The address lacks its token: use the one that `pyrovae explore` printed."
        return None

    async def _asked(self, request: Any, name: str) -> Any:
        from starlette.responses import Response

        code, said = await self._said(request, name)
        return Response(msgspec.json.encode(said), code, media_type="application/json")

    async def _said(self, request: Any, name: str) -> tuple[int, Any]:
        """Return the status and the answer to a question, or one line on why there is none."""
        if request.headers.get("content-type") != "application/json":
            return 415, {"error": "a question is application/json"}
        try:
            arguments = json.loads(await _body(request))
            if not isinstance(arguments, list):
                raise TypeError("a question is a list of arguments")
            async with self._turn(name):
                return 200, await asyncio.to_thread(getattr(self.world, name), *arguments)
        except (ValueError, TypeError) as error:
            return 422, {"error": one_line(error)}
        except Exception as error:  # of the user's own programs
            return 500, {"error": f"{type(error).__name__}: {one_line(error)}"}

    def _turn(self, name: str) -> contextlib.AbstractAsyncContextManager[Any]:
        """Return the turn of a question: Pyro's stack of handlers is one for the whole process.

        A plane runs no program, and takes long.
        """
        return contextlib.nullcontext() if name == "plane" else self.one_at_a_time


async def _body(request: Any) -> bytes:
    """Return the body of a request.

    Raises:
        ValueError: if it is too large.
    """
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST:
            raise ValueError(f"a question has {LARGEST:,} bytes at most")
    return body


def listening(port: int = 0) -> socket.socket:
    """Return a socket at a port of this machine alone; any free one for 0.

    Raises:
        OSError: if the port is in use or may not be used.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((HOST, port))
        sock.listen()
    except (OSError, OverflowError) as error:
        sock.close()
        used = getattr(error, "errno", None) == errno.EADDRINUSE
        why = "is in use" if used else f"cannot be used ({one_line(error)})"
        raise OSError(f"port {port} {why}: give another, or 0 for any free one") from error
    return sock


def serve(world: World, *, port: int = 0) -> None:
    """Serve a world until Ctrl-C, and print the address of its page.

    Args:
        world: what is shown.
        port: the port; any free one for 0.

    Raises:
        ValueError: if starlette or uvicorn is not installed.
        OSError: if the port is in use.
    """
    with listening(port) as sock:
        application = Application(world, sock.getsockname()[1])
        server = uvicorn_server(application)
        print(application.url)
        print("open this address in a browser of this machine; Ctrl-C ends it", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[sock])


def uvicorn_server(application: Application) -> Any:
    """Return uvicorn's server of an application, which prints warnings alone.

    Raises:
        ValueError: if uvicorn is not installed.
    """
    uvicorn = extra("uvicorn", "explore")
    config = uvicorn.Config(
        application,
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=2,
    )
    return uvicorn.Server(config)
