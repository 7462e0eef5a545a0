"""The routes of the page: what each request does with the store, and what is answered."""

import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from skyrm_jax.annotate.agreement_page import agreement_json, agreement_page
from skyrm_jax.annotate.forms import given_of, read_form
from skyrm_jax.annotate.guard import Guard, Hosts, is_same_origin
from skyrm_jax.annotate.login import DAYS, Session, Sessions
from skyrm_jax.annotate.pages import DONE, REFUSALS, VIEWS, filled_of, messages_of, render, texts_of, written
from skyrm_jax.annotate.store import Store
from skyrm_jax.annotate.values import Refused, Shown
from skyrm_jax.errors import UserError

Form = Mapping[str, str]

RECENT = 100
"""Answers that a person's list holds."""
MOST_PING = 60.0
"""Seconds after which a page says again that somebody is at work there, at most."""


def create_app(store: Store, secret: bytes, hosts: Hosts, tokens: bool) -> ASGIApp:
    """The application.

    Args:
        secret: what cookies are signed with.
        tokens: to log in takes a token; otherwise any name will do, and everybody may see the agreement.
    """
    site = _Site(store, Sessions(store, secret, tokens))
    handlers: dict[Any, Any] = {HTTPException: _failed, Refused: _refused, Exception: _broken}
    handlers[sqlite3.OperationalError] = _busy
    app = Starlette(
        routes=[
            Route("/", site.next),
            Route("/login", site.login, methods=["GET", "POST"]),
            Route("/logout", site.logout, methods=["POST"]),
            Route("/item/{lease}", site.item),
            Route("/raw/{lease}/{part}", site.raw),
            Route("/answer", site.posted(site.answer), methods=["POST"]),
            Route("/explain", site.posted(site.explain), methods=["POST"]),
            Route("/flag", site.posted(site.flag), methods=["POST"]),
            Route("/undo", site.posted(site.undo), methods=["POST"]),
            Route("/ping", site.posted(site.ping), methods=["POST"]),
            Route("/history", site.history),
            Route("/agreement", site.agreement),
            Route("/agreement.json", site.agreement_json),
            Route("/help", site.help),
            Route("/healthz", lambda _: PlainTextResponse("ok")),
            Mount("/static", StaticFiles(directory=Path(__file__).parent / "static")),
        ],
        exception_handlers=handlers,
    )
    return Guard(app, hosts)


class _Site:
    """Functions of requests. Those that are not coroutines run in threads of their own: the store waits for the disk."""

    def __init__(self, store: Store, sessions: Sessions) -> None:
        self._store, self._sessions = store, sessions

    def next(self, request: Request) -> Response:
        session = self._session(request)
        if session is None:
            return RedirectResponse("/login", 303)
        shown = self._store.next(session.annotator.name)
        if shown is None:
            return self._page("done.html.jinja", session, request)
        return self._shown(session, shown, request)

    def item(self, request: Request) -> Response:
        session = self._session(request)
        if session is None:
            return RedirectResponse("/login", 303)
        return self._shown(session, self._store.show(session.annotator.name, request.path_params["lease"]), request)

    def raw(self, request: Request) -> Response:
        session = self._required(request)
        shown = self._store.show(session.annotator.name, request.path_params["lease"])
        message = messages_of(shown).get(request.path_params["part"])
        if message is None:
            raise HTTPException(404)
        return PlainTextResponse(message.content)

    def history(self, request: Request) -> Response:
        session = self._required(request)
        past = self._store.history(session.annotator.name, RECENT)
        return self._page("history.html.jinja", session, request, past=past)

    def help(self, request: Request) -> Response:
        return self._page("help.html.jinja", self._session(request), request)

    def agreement(self, request: Request) -> Response:
        session = self._may_see_agreement(request)
        return self._page("agreement.html.jinja", session, request, **agreement_page(self._store))

    def agreement_json(self, request: Request) -> Response:
        self._may_see_agreement(request)
        return JSONResponse(agreement_json(self._store))

    async def login(self, request: Request) -> Response:
        if request.method != "POST":
            return await run_in_threadpool(self._login_page, request)
        if not is_same_origin(request.headers):
            raise HTTPException(403, "This form came from another site.")
        form = await read_form(request)
        return await run_in_threadpool(self._login, request, form)

    def _login(self, request: Request, form: Form) -> Response:
        try:
            session = self._sessions.begin(form.get("said", "").strip())
        except (Refused, UserError) as error:
            return self._login_page(request, str(error), 400)
        if session is None:
            return self._login_page(request, "This token is not known. Ask whoever gave it to you for a new one.", 401)
        response = RedirectResponse("/", 303)
        response.set_cookie(
            self._sessions.cookie,
            session.cookie,
            max_age=DAYS * 86_400,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return response

    def _login_page(self, request: Request, error: str = "", status: int = 200) -> Response:
        return self._page("login.html.jinja", None, request, status=status, error=error, tokens=self._sessions.tokens)

    async def logout(self, request: Request) -> Response:
        session, _ = await self._form(request)
        self._sessions.end(session)
        response = RedirectResponse("/login", 303)
        response.delete_cookie(self._sessions.cookie)
        return response

    def posted(self, act: Callable[[Request, Session, Form], Response]) -> Callable[[Request], Awaitable[Response]]:
        """The route of a form that changes something: it has to come from a page of ours, by who is logged in.

        What cannot be kept comes back as it was written, with the reason: in the form, if it can be mended there.
        """

        async def route(request: Request) -> Response:
            session, form = await self._form(request)
            return await run_in_threadpool(work, request, session, form)

        def work(request: Request, session: Session, form: Form) -> Response:
            try:
                return act(request, session, form)
            except Refused as refused:
                if _wants_json(request):
                    raise
                return self._returned(session, request, form, refused)

        return route

    def answer(self, request: Request, session: Session, form: Form) -> Response:
        lease = form.get("lease", "")
        recorded = self._store.answer(session.annotator.name, lease, given_of(form))
        revealed = recorded.revealed
        reveals = revealed is not None and (revealed.machine is not None or revealed.opinions)
        return RedirectResponse(f"/item/{lease}?did=answered" if reveals else "/?did=answered", 303)

    def explain(self, request: Request, session: Session, form: Form) -> Response:
        self._store.explain(session.annotator.name, form.get("lease", ""), form.get("why", "").strip())
        return RedirectResponse("/?did=explained", 303)

    def flag(self, request: Request, session: Session, form: Form) -> Response:
        self._store.flag(session.annotator.name, form.get("lease", ""), form.get("why", "").strip())
        return RedirectResponse("/?did=flagged", 303)

    def undo(self, request: Request, session: Session, form: Form) -> Response:
        again = self._store.undo(session.annotator.name, form.get("lease", ""))
        return RedirectResponse(f"/item/{again.lease}?did=undone", 303)

    def ping(self, request: Request, session: Session, form: Form) -> Response:
        """Somebody is at work on an item."""
        self._store.renew(session.annotator.name, form.get("lease", ""))
        return Response(status_code=204)

    def _shown(
        self, session: Session, shown: Shown, request: Request, form: Form | None = None, error: str = ""
    ) -> Response:
        """The page of an item; with what was posted and why it was refused, if it was."""
        form = form or {}
        view = next((view for view in VIEWS if view == request.query_params.get("view")), VIEWS[0])
        return self._page(
            "answered.html.jinja" if shown.answered else "item.html.jinja",
            session,
            request,
            status=409 if error else 200,
            shown=shown,
            texts=texts_of(shown, view),
            # The forms of flags and rationales hold nothing of the answer's.
            filled=filled_of(shown, form if request.url.path == "/answer" else shown.past),
            form=form,
            error=error,
            draft=self._sessions.draft(session, shown.item.item),
            ping_seconds=min(MOST_PING, self._store.options.lease_seconds / 5),
        )

    def _returned(self, session: Session, request: Request, form: Form, refused: Refused) -> Response:
        """What was posted and refused, in its form again if it can be mended there."""
        if refused.reason == "invalid":
            shown = self._store.show(session.annotator.name, form.get("lease", ""))
            return self._shown(session, shown, request, form, str(refused))
        values = {"title": REFUSALS[refused.reason], "message": str(refused), "written": written(form)}
        return self._page("said.html.jinja", session, request, 409, **values)

    def _page(
        self, template: str, session: Session | None, request: Request, status: int = 200, **values: Any
    ) -> Response:
        sees = not self._sessions.tokens or (session is not None and session.annotator.role == "adjudicator")
        html = render(
            template,
            session=session,
            sees_agreement=session is not None and sees,
            progress=None if session is None else self._store.progress(session.annotator.name),
            last=None if session is None else self._store.last(session.annotator.name),
            did=DONE.get(request.query_params.get("did", ""), ""),
            **values,
        )
        return HTMLResponse(html, status)

    def _session(self, request: Request) -> Session | None:
        return self._sessions.find(request.cookies.get(self._sessions.cookie))

    def _required(self, request: Request) -> Session:
        session = self._session(request)
        if session is None:
            raise HTTPException(401, "You are not logged in, or not any more.")
        return session

    def _may_see_agreement(self, request: Request) -> Session:
        session = self._required(request)
        if self._sessions.tokens and session.annotator.role != "adjudicator":
            raise HTTPException(403, "Only adjudicators see how far people agree.")
        return session

    async def _form(self, request: Request) -> tuple[Session, Form]:
        if not is_same_origin(request.headers):
            raise HTTPException(403, "This form came from another site.")
        session = await run_in_threadpool(self._required, request)
        form = await read_form(request)
        if not self._sessions.is_ours(session, form.get("csrf", "")):
            raise HTTPException(403, "This form is not from a page of yours. Open the page again.")
        return session, form


def _wants_json(request: Request) -> bool:
    accept = request.headers.get("accept", "")
    return "application/json" in accept and "text/html" not in accept


def _said(request: Request, status: int, title: str, message: str, reason: str = "") -> Response:
    if _wants_json(request):
        return JSONResponse({"refused": reason or title, "message": message}, status)
    html = render(
        "said.html.jinja",
        **{"title": title, "message": message, "written": {}, "did": ""},
        **{"session": None, "progress": None, "last": None, "sees_agreement": False},
    )
    return HTMLResponse(html, status)


def _failed(request: Request, error: HTTPException) -> Response:
    titles = {401: "Log in first", 403: "Not allowed", 404: "There is no such page"}
    response = _said(request, error.status_code, titles.get(error.status_code, "That did not work"), error.detail)
    response.headers.update(error.headers or {})
    return response


def _refused(request: Request, refused: Refused) -> Response:
    return _said(request, 409, REFUSALS[refused.reason], str(refused), refused.reason)


def _busy(request: Request, error: sqlite3.OperationalError) -> Response:
    if not any(word in str(error) for word in ("locked", "busy")):
        raise error
    message = "Something else, such as an import, has the store. Nothing of this was kept: go back and try again."
    response = _said(request, 503, "The store is busy", message)
    response.headers["retry-after"] = "5"
    return response


def _broken(request: Request, error: Exception) -> Response:
    return _said(request, 500, "Something is broken here", "The server has a fault. What was kept before is kept.")
