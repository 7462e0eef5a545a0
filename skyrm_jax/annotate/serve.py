"""The server: one process, one store."""

import ipaddress
import signal
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import uvicorn

from skyrm_jax.annotate.app import create_app
from skyrm_jax.annotate.guard import LOOPBACK, Hosts
from skyrm_jax.annotate.login import secret_of
from skyrm_jax.annotate.store import Store
from skyrm_jax.errors import UserError

PATIENCE = 10
"""Seconds that requests in progress get when the server is stopped."""


def serve(store: Store, folder: Path, host: str, port: int, names: Sequence[str]) -> None:
    """Serves a store until it is told to stop (SIGINT or SIGTERM).

    On loopback a name is enough to log in. If others can come here, by the address or because a server in front answers
    to one of `names`, it takes a token.

    Args:
        port: 0: any that is free; a line on standard output tells which.
        names: further host names under which people come here.

    Raises:
        UserError: nobody has a token and it takes one; or the address cannot be had.
    """
    loopback = _is_loopback(host)
    tokens = not loopback or bool(names)
    if tokens and not store.has_tokens():
        raise UserError(
            f"{folder}: others can come to {names[0] if names else host}, so that it takes a token to log in, and nobody "
            "has one; make one with `token NAME`, or use --host 127.0.0.1"
        )
    hosts = Hosts([*LOOPBACK, *names] if loopback else [*LOOPBACK, host, socket.gethostname(), *names], not loopback)
    app = create_app(store, secret_of(folder), hosts, tokens)
    with _listening(host, port) as listener:
        place = f"[{host}]" if ":" in host else host
        print(f"Serving {folder} at http://{place}:{listener.getsockname()[1]}/ (Ctrl-C ends it)", flush=True)
        config = uvicorn.Config(
            app, log_level="warning", server_header=False, lifespan="off", timeout_graceful_shutdown=PATIENCE
        )
        # uvicorn raises the signal once more after it has ended well; then the store is still to be closed.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listening(host: str, port: int) -> socket.socket:
    if not 0 <= port < 65_536:  # getaddrinfo takes larger ones for others
        raise UserError(f"port {port} is none; choose --port from 0 to 65535")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()  # from now on who comes waits, and is not turned away
    except OSError as error:
        raise UserError(f"cannot serve at {host}:{port}: {error}; choose another --host or --port") from None
    return listener
