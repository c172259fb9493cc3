"""A web server with bad habits, for tests of downloading."""

from __future__ import annotations

import time
from http.server import BaseHTTPRequestHandler

BODY = bytes(range(256)) * 40


class Handler(BaseHTTPRequestHandler):
    """Answers by the path."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        getattr(self, self.path.split("?")[0].strip("/").partition("/")[0] or "file")()

    def head(self, code: int = 200, **fields: object) -> None:
        self.send_response(code)
        self.close_connection = True
        for name, value in fields.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def file(self) -> None:
        self.head(Content_Length=len(BODY), Content_Type="video/mp4")
        self.wfile.write(BODY)

    def unsized(self) -> None:
        self.head()
        self.wfile.write(BODY)

    def chunked(self) -> None:
        self.head(Transfer_Encoding="chunked")
        for begin in range(0, len(BODY), 4096):
            piece = BODY[begin : begin + 4096]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n" if "whole" in self.path else b"")

    def short(self) -> None:
        self.head(Content_Length=len(BODY) * 2)
        self.wfile.write(BODY)

    def claim(self) -> None:
        self.head(Content_Length=10**15)

    def endless(self) -> None:
        self.head()
        try:
            while True:
                self.wfile.write(BODY)
        except OSError:
            pass

    def drip(self) -> None:
        self.head()
        try:
            while True:
                self.wfile.write(b"x")
                time.sleep(0.05)
        except OSError:
            pass

    def drip_head(self) -> None:
        try:
            while True:
                self.wfile.write(b"HTTP/1.1 200 OK\r\nX-A: b\r\n"[:1])
                time.sleep(0.05)
        except OSError:
            pass

    def stall(self) -> None:
        time.sleep(2)

    def page(self) -> None:
        self.head(Content_Type="text/html; charset=utf-8")
        self.wfile.write(b"<html>")

    def packed(self) -> None:
        self.head(Content_Encoding="gzip")

    def missing(self) -> None:
        self.send_error(404, "\x1b[31mNo")

    def loop(self) -> None:
        self.head(302, Location="/loop")

    def nowhere(self) -> None:
        self.head(302)

    def away(self) -> None:
        self.head(302, Location=self.path.partition("?")[2])

    def babble(self) -> None:
        self.wfile.write(b"220 mail server\r\n\r\n")
