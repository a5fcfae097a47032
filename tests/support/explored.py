"""Serve a world in a thread, as `pyrovae explore` serves it."""

import contextlib
import threading
import time

from pyrovae.cli.explore.server import Application, listening, uvicorn_server


@contextlib.contextmanager
def served(world):
    """Yield the application, while it is served."""
    with listening() as sock:
        application = Application(world, sock.getsockname()[1])
        server = uvicorn_server(application)
        thread = threading.Thread(target=lambda: server.run(sockets=[sock]), daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield application
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()
