"""Who somebody is: signed cookies, and the tokens in forms that show that a form is ours."""

import hashlib
import hmac
import json
import os
import secrets
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from skyrm_jax.annotate.store import Store
from skyrm_jax.annotate.values import Annotator, Refused
from skyrm_jax.errors import UserError

DAYS = 30
"""How long somebody stays logged in."""


@dataclass(frozen=True, slots=True)
class Session:
    """Somebody who is logged in.

    Attributes:
        cookie: its value, which is in the browser.
        csrf: what every form of theirs holds.
    """

    annotator: Annotator
    cookie: str
    csrf: str


def secret_of(folder: Path) -> bytes:
    """The key that cookies are signed with, in the file `secret` of a store's folder; made if it is not there.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / "secret"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        pass
    else:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
    try:
        secret = bytes.fromhex(path.read_text(encoding="ascii"))
    except ValueError:
        secret = b""
    if len(secret) < 32:
        raise UserError(f"{path}: does not hold a key; remove it to get a new one (everybody has to log in again)")
    return secret


class Sessions:
    """Logs people in and knows them again.

    With `tokens` it takes a token to log in, and a new one ends what the old one began; without, a name is enough. The
    cookie tells no token. Who logs out ends the session, also for copies of its cookie, until the server is started anew.
    """

    def __init__(self, store: Store, secret: bytes, tokens: bool, now: Callable[[], float] = time.time) -> None:
        self._store, self._secret, self._now = store, secret, now
        self.tokens = tokens
        self._ended: set[str] = set()
        # Cookies know no ports: another store's server on this host must not log people out of this one.
        self.cookie = f"annotate_{hashlib.sha256(secret).hexdigest()[:8]}"

    def begin(self, said: str) -> Session | None:
        """A session for who gives this token, or name; None if the token is wrong.

        Raises:
            UserError: the name is none.
        """
        annotator = self._store.annotator_by_token(said) if self.tokens else self._store.annotator(said, create=True)
        if annotator is None:
            return None
        body = json.dumps([annotator.name, self._epoch(annotator.name), secrets.token_urlsafe(16), int(self._now())])
        value = urlsafe_b64encode(body.encode()).decode().rstrip("=")
        return self.find(f"{value}.{self._sign('session', value)}")

    def end(self, session: Session) -> None:
        """Ends a session."""
        self._ended.add(session.cookie)

    def find(self, cookie: str | None) -> Session | None:
        """The session of a cookie; None if there is none, or not any more."""
        if cookie in self._ended:
            return None
        value, _, signature = (cookie or "").partition(".")
        if not hmac.compare_digest(self._sign("session", value).encode(), signature.encode(errors="replace")):
            return None
        name, epoch, _, since = json.loads(urlsafe_b64decode(value + "=" * (-len(value) % 4)))
        if epoch != self._epoch(name) or not 0 <= self._now() - since < DAYS * 86_400:
            return None
        try:
            annotator = self._store.annotator(name)
        except Refused:
            return None
        return Session(annotator, f"{value}.{signature}", self._sign("csrf", value))

    def is_ours(self, session: Session, csrf: str) -> bool:
        """Whether a form came from a page of this session."""
        return hmac.compare_digest(session.csrf.encode(), csrf.encode(errors="replace"))

    def draft(self, session: Session, item: str) -> str:
        """What a browser keeps somebody's draft of an item under; it tells neither of the two."""
        return self._sign("draft", f"{session.annotator.name}\0{item}")[:32]

    def _epoch(self, name: str) -> str:
        """What a session is bound to besides a name: that a name was enough, or the token that was theirs then."""
        return f"token {self._store.epoch(name)}" if self.tokens else "name"

    def _sign(self, use: str, value: str) -> str:
        return hmac.new(self._secret, f"{use}:{value}".encode(errors="replace"), "sha256").hexdigest()
