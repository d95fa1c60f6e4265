"""A time-stamping authority (RFC 3161) made with openssl, and a server for it."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

CONFIGURATION = """
[req]
distinguished_name = name
prompt = no
[name]
CN = unused
[root]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign
[authority]
extendedKeyUsage = critical,timeStamping
keyUsage = critical,digitalSignature
[stamping]
serial = serial
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256,sha512
accuracy = secs:1
ess_cert_id_alg = sha256
"""


@dataclass(frozen=True)
class TimeAuthority:
    """An authority in a folder: ``root.pem`` is what a receiver pins, ``tsa.pem`` its own certificate."""

    folder: Path

    @property
    def root(self) -> Path:
        """Return the path of its root certificate."""
        return self.folder / "root.pem"

    def stamp(self, data: bytes) -> bytes:
        """Return the time-stamp response for some bytes."""
        (self.folder / "data").write_bytes(data)
        self.openssl("ts", "-query", "-data", "data", "-sha256", "-cert", "-out", "query.tsq")
        return self.answer((self.folder / "query.tsq").read_bytes())

    def answer(self, query: bytes) -> bytes:
        """Return the time-stamp response to a query."""
        (self.folder / "query.tsq").write_bytes(query)
        command = ("ts", "-reply", "-config", "tsa.cnf", "-section", "stamping", "-queryfile", "query.tsq")
        self.openssl(*command, "-signer", "tsa.pem", "-inkey", "tsa.key", "-out", "answer.tsr")
        return (self.folder / "answer.tsr").read_bytes()

    def accepts(self, token: Path, data: Path) -> bool:
        """Return whether openssl accepts a file's time stamp."""
        command = ["openssl", "ts", "-verify", "-in", str(token), "-data", str(data), "-CAfile", str(self.root)]
        return subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 0

    @contextmanager
    def serving(self) -> Iterator[str]:
        """Serve the authority's responses over HTTP and yield the URL."""
        authority = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                query = self.rfile.read(int(self.headers["Content-Length"]))
                body = authority.answer(query) if self.path == "/tsr" else b"no such page"
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/tsr"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    def openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self.folder, capture_output=True, check=True, timeout=60)


def make_authority(folder: Path, name: str) -> TimeAuthority:
    """Make an authority: a root certificate, and a time-stamping certificate that the root signed."""
    folder.mkdir()
    (folder / "tsa.cnf").write_text(CONFIGURATION)
    (folder / "serial").write_text("01\n")
    authority = TimeAuthority(folder)
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-config", "tsa.cnf")
    root = ("-subj", f"/CN={name} root", "-extensions", "root", "-days", "3650", "-keyout", "root.key")
    authority.openssl("req", "-x509", *key, *root, "-out", "root.pem")
    authority.openssl("req", *key, "-subj", f"/CN={name}", "-keyout", "tsa.key", "-out", "tsa.csr")
    issued = ("-extfile", "tsa.cnf", "-extensions", "authority", "-days", "3650", "-out", "tsa.pem")
    authority.openssl("x509", "-req", "-in", "tsa.csr", "-CA", "root.pem", "-CAkey", "root.key", *issued)
    return authority
