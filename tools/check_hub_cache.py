"""Tests quern and huggingface_hub on one cache: each must read what the other downloaded.

    python3 tools/check_hub_cache.py target/release/quern

Needs: pip install huggingface_hub. Serves fixtures/bookworm-4m on this machine; makes no network requests.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

MODEL = Path(__file__).resolve().parent.parent / "fixtures" / "bookworm-4m"
REPO, COMMIT = "quern/bookworm", "0123456789abcdef0123456789abcdef01234567"
FILES = {p.name: p.read_bytes() for p in sorted(MODEL.iterdir())} | {"LICENSE": b"words\n"}
LARGE = {"model.safetensors", "tokenizer.model"}
asked = []


def git(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def etag(name):
    return hashlib.sha256(FILES[name]).hexdigest() if name in LARGE else git(FILES[name])


def entry(name):
    size = len(FILES[name])
    lfs = {"lfs": {"oid": etag(name), "size": size, "pointerSize": 134}} if name in LARGE else {}
    return {"type": "file", "path": name, "size": size, "oid": git(FILES[name])} | lfs


class Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, body, headers=()):
        self.send_response(200)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self):
        path = self.path.split("?")[0]
        asked.append((self.command, path))
        name = path.rsplit("/", 1)[1]
        if path.startswith(f"/api/models/{REPO}/tree/"):
            self.answer(json.dumps([entry(n) for n in FILES]).encode())
        elif path.startswith(f"/api/models/{REPO}"):
            siblings = [{"rfilename": n} for n in FILES]
            self.answer(json.dumps({"id": REPO, "sha": COMMIT, "siblings": siblings}).encode())
        elif path.startswith(f"/{REPO}/resolve/") and name in FILES:
            self.answer(FILES[name], [("ETag", f'"{etag(name)}"'), ("X-Repo-Commit", COMMIT)])
        else:
            self.send_error(404)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


def downloads():
    return sorted({p.rsplit("/", 1)[1] for m, p in asked if m == "GET" and "/resolve/" in p})


def run(command, home, offline):
    asked.clear()
    env = os.environ | {"HF_HOME": home, "HF_ENDPOINT": ENDPOINT, "HF_HUB_OFFLINE": "1" if offline else "0"}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


def python(home, offline):
    code = f"import huggingface_hub as h; print(h.snapshot_download({REPO!r}, allow_patterns=['*.json', '*.model', '*.safetensors']))"
    return Path(run([sys.executable, "-c", code], home, offline))


def same(folder):
    for name, data in FILES.items():
        if name != "LICENSE":
            assert (folder / name).read_bytes() == data, name


server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
threading.Thread(target=server.serve_forever, daemon=True).start()
ENDPOINT = f"http://127.0.0.1:{server.server_port}"
QUERN = sys.argv[1]

with tempfile.TemporaryDirectory() as home:
    model = Path(run([QUERN, "pull", REPO], home, False))
    assert len(downloads()) == 6, downloads()
    same(model.parent)
    assert python(home, True) == model.parent
    assert python(home, False) == model.parent
    assert downloads() == [], downloads()
    print("huggingface_hub reads what quern pulled, offline and online, and fetches nothing")

with tempfile.TemporaryDirectory() as home:
    folder = python(home, False)
    same(folder)
    model = Path(run([QUERN, "pull", REPO], home, True))
    assert model == folder / "model.safetensors"
    run([QUERN, "inspect", REPO, "--check"], home, True)
    assert Path(run([QUERN, "pull", REPO], home, False)) == model
    assert downloads() == [], downloads()
    print("quern reads what huggingface_hub pulled, offline and online, and fetches nothing")

with tempfile.TemporaryDirectory() as home:
    blobs = Path(home) / "hub" / "models--quern--bookworm" / "blobs"
    blobs.mkdir(parents=True)
    name = etag("model.safetensors")
    (blobs / f"{name}.incomplete").write_bytes(FILES["model.safetensors"][:100_000])
    same(Path(run([QUERN, "pull", REPO], home, False)).parent)
    left = [p.name for p in blobs.iterdir() if p.name.endswith(".incomplete")]
    assert left == [], left
    print("a part that an older huggingface_hub left is resumed")
