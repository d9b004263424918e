"""A Python server that keeps its sessions in memory: what Sessions.java is, in Python. Arguments: address, port, name of the cookie, name of the server."""

import secrets
import sys
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ADDRESS, PORT, COOKIE, NAME = sys.argv[1:5]
SESSIONS = {}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        cookie = SimpleCookie(self.headers.get("Cookie", "")).get(COOKIE)
        session = cookie.value if cookie else None
        known = session in SESSIONS
        if not known:
            session = secrets.token_urlsafe(24)
        visits = SESSIONS[session] = SESSIONS.get(session, 0) + 1
        self.send_response(200)
        if self.path == "/login":
            new = secrets.token_urlsafe(24)
            SESSIONS[new] = SESSIONS.pop(session)
            self.send_header("Set-Cookie", f"{COOKIE}={new}; Path=/; HttpOnly")
        elif self.path == "/logout":
            del SESSIONS[session]
            self.send_header("Set-Cookie", f'{COOKIE}=""; expires=Thu, 01 Jan 1970 00:00:00 GMT; Max-Age=0; Path=/')
        elif not known:
            self.send_header("Set-Cookie", f"{COOKIE}={session}; Path=/; HttpOnly; SameSite=Lax")
        page = f"{NAME} python {'known' if known else 'new'} {visits}\n".encode()
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(page)

    do_HEAD = do_POST = do_GET

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024


Server((ADDRESS.strip("[]"), int(PORT)), Handler).serve_forever()
