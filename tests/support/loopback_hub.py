"""A Hugging Face Hub on the loopback interface, in memory: what huggingface_hub needs to publish and load.

Commits are whole, as the real ones: they hold the files of their parent and what was sent. Large files go by Git LFS,
as with ``HF_HUB_DISABLE_XET=1``.
"""

import base64
import hashlib
import json
import re
import socket
import threading
import urllib.parse
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_loopback"
LARGE = (".safetensors", ".png")


def git_blob(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repo:
    private: bool = False
    commits: dict = field(default_factory=dict)  # commit id -> {path: content}, oldest first

    @property
    def head(self):
        return list(self.commits)[-1]

    def commit(self, changes):
        files = {**(self.commits[self.head] if self.commits else {}), **changes}
        revision = hashlib.sha1(repr((len(self.commits), sorted(files.items()))).encode()).hexdigest()
        self.commits[revision] = {path: content for path, content in files.items() if content is not None}
        return revision


@dataclass
class Fault:
    """An error for requests whose method and path match, a number of times: a status, or None to hang up.

    ``code`` is what the Hub says of the reason in a header, such as GatedRepo.
    """

    method: str
    path: str
    status: int | None
    times: int
    code: str = ""


class LoopbackHub:
    """The server and its switches.

    ``faults`` are answered first; ``foreign`` commits that file of somebody else just before the next commit arrives;
    ``corrupt`` flips a byte of that file in every download; ``lose_answer`` answers the next commit with 500 once it is
    made. ``requests`` holds method and path of all that came.
    """

    def __init__(self):
        self.repos, self.objects, self.requests = {}, {}, []
        self.calm()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def calm(self):
        """Sets every switch back and forgets the requests."""
        self.faults, self.foreign, self.corrupt, self.lose_answer = [], None, None, False
        self.requests.clear()

    def writes(self):
        """The requests that could change something."""
        return [(method, path) for method, path in self.requests if method not in ("GET", "HEAD")]

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: LoopbackHub

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.serve()

    do_HEAD = do_POST = do_PUT = do_GET

    def serve(self):
        hub, path = self.hub, urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = self.chunks()
        hub.requests.append((self.command, path))
        for fault in hub.faults:
            if fault.times and fault.method == self.command and re.search(fault.path, path):
                fault.times -= 1
                if fault.status is None:
                    self.close_connection = True
                    return self.connection.shutdown(socket.SHUT_RDWR)
                reason = {"X-Error-Code": fault.code} if fault.code else {}
                return self.answer(fault.status, {"error": "out of order"}, reason)
        for pattern, method, handle in ROUTES:
            if match := re.fullmatch(pattern, path):
                if method not in (self.command, "GET" if self.command == "HEAD" else ""):
                    continue
                # A login that is no good is refused everywhere; none at all, where something would change.
                if self.headers.get("Authorization") not in (f"Bearer {TOKEN}", *([None] if method != "POST" else [])):
                    return self.answer(401, {"error": "Invalid username or password."})
                return handle(self, body, **match.groupdict())
        return self.answer(404, {"error": "no such route"})

    def chunks(self):
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def answer(self, status, content=b"", headers=()):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **dict(headers)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def missing(self, code):
        self.answer(404, {"error": code}, {"X-Error-Code": code})

    def create(self, body):
        wanted = json.loads(body)
        repo = f"{'spaces/' * (wanted.get('type') == 'space')}{wanted['organization']}/{wanted['name']}"
        there = repo in self.hub.repos
        if not there:
            self.hub.repos[repo] = Repo(private=wanted.get("visibility") == "private" or bool(wanted.get("private")))
            self.hub.repos[repo].commit({".gitattributes": b"*.safetensors filter=lfs\n"})
        self.answer(409 if there else 200, {"url": f"{self.hub.url}/{repo}", "error": "exists"})

    def validate(self, body):
        good = "license: unheard-of" not in json.loads(body)["content"]
        self.answer(
            200 if good else 400, {"errors": [] if good else [{"message": "license: not known"}], "warnings": []}
        )

    def preupload(self, body, repo, revision):
        head = self.hub.repos[repo].commits[self.hub.repos[repo].head]
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                "shouldIgnore": False,
                "oid": self.oid(file["path"], head[file["path"]]) if file["path"] in head else None,
            }
            for file in json.loads(body)["files"]
        ]
        self.answer(200, {"files": files})

    def batch(self, body, repo):
        objects = [
            {**wanted, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{wanted['oid']}"}}}
            if wanted["oid"] not in self.hub.objects
            else wanted
            for wanted in json.loads(body)["objects"]
        ]
        self.answer(200, {"transfer": "basic", "objects": objects})

    def upload(self, body, oid):
        if hashlib.sha256(body).hexdigest() != oid:
            return self.answer(400, {"error": "wrong checksum"})
        self.hub.objects[oid] = body
        return self.answer(200)

    def commit(self, body, repo, revision):
        hub, stored = self.hub, self.hub.repos[repo]
        lines = [json.loads(line) for line in body.splitlines()]
        if hub.foreign:
            stored.commit({hub.foreign: b"somebody else\n"})
            hub.foreign = None
        header, changes = lines[0]["value"], {}
        if header.get("parentCommit") not in (None, stored.head):
            return self.answer(412, {"error": "A commit has happened since. Please refresh and try again."})
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                changes[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                changes[value["path"]] = hub.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                changes[value["path"]] = None
        made = stored.commit(changes)
        if hub.lose_answer:
            hub.lose_answer = False
            return self.answer(500, {"error": "lost"})
        return self.answer(200, {"commitUrl": f"{hub.url}/{repo}/commit/{made}", "commitOid": made})

    def entry(self, path, content):
        if not path.endswith(LARGE):
            return {"rfilename": path, "size": len(content), "blobId": git_blob(content)}
        sha256 = hashlib.sha256(content).hexdigest()
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len(content)}\n".encode()
        lfs = {"sha256": sha256, "size": len(content), "pointerSize": len(pointer)}
        return {"rfilename": path, "size": len(content), "blobId": git_blob(pointer), "lfs": lfs}

    def oid(self, path, content):
        """What a client compares its file with before an upload: git's checksum, of a large file the SHA-256."""
        entry = self.entry(path, content)
        return entry["lfs"]["sha256"] if "lfs" in entry else entry["blobId"]

    def revision_of(self, repo, revision):
        """Commit id, or None once the request is answered."""
        stored = self.hub.repos.get(repo)
        allowed = stored and (not stored.private or self.headers.get("Authorization") == f"Bearer {TOKEN}")
        if not allowed:
            # As the real Hub: who is not logged in learns nothing of what exists.
            self.answer(401, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return None
        found = stored.head if revision in (None, "main") else revision
        if found not in stored.commits:
            self.missing("RevisionNotFound")
            return None
        return found

    def info(self, body, repo, revision=None):
        found = self.revision_of(repo, revision)
        if found is not None:
            stored = self.hub.repos[repo]
            siblings = [self.entry(path, content) for path, content in stored.commits[found].items()]
            told = {
                "_id": "0",
                "id": repo,
                "modelId": repo,
                "sha": found,
                "private": stored.private,
                "siblings": siblings,
            }
            self.answer(200, told)

    def resolve(self, body, repo, revision, path):
        found = self.revision_of(repo, revision)
        if found is None:
            return None
        content = self.hub.repos[repo].commits[found].get(path)
        if content is None:
            return self.missing("EntryNotFound")
        entry = self.entry(path, content)
        etag = entry["lfs"]["sha256"] if "lfs" in entry else entry["blobId"]
        if path == self.hub.corrupt:
            content = content[:-1] + bytes([content[-1] ^ 1])
        return self.answer(200, content, {"X-Repo-Commit": found, "ETag": f'"{etag}"', "Accept-Ranges": "none"})


# A Space is kept under spaces/org/name, as in the addresses of its files.
_REPO, _REVISION = r"(?P<repo>(?:spaces/)?[^/]+/[^/]+)", r"(?P<revision>[^/]+)"
ROUTES = (
    (r"/api/repos/create", "POST", _Handler.create),
    (r"/api/validate-yaml", "POST", _Handler.validate),
    (rf"/api/(?:models/)?{_REPO}/preupload/{_REVISION}", "POST", _Handler.preupload),
    (rf"/{_REPO}\.git/info/lfs/objects/batch", "POST", _Handler.batch),
    (r"/lfs/(?P<oid>[0-9a-f]{64})", "PUT", _Handler.upload),
    (rf"/api/(?:models/)?{_REPO}/commit/{_REVISION}", "POST", _Handler.commit),
    (rf"/api/(?:models/)?{_REPO}", "GET", _Handler.info),
    (rf"/api/(?:models/)?{_REPO}/revision/{_REVISION}", "GET", _Handler.info),
    (rf"/{_REPO}/resolve/{_REVISION}/(?P<path>.+)", "GET", _Handler.resolve),
)
