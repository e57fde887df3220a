"""A local server with the part of the protocol of the Hugging Face hub that sets need: repositories in memory."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import re
import threading
from contextlib import contextmanager

import yaml

TOKEN = "hf_test"
WORDS = {
    "license": {"mit", "cc-by-4.0"},
    "task_categories": {"image-classification", "graph-ml"},
    "size_categories": {"n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M"},
}
_REPO = r"/api/datasets/(?P<repo>[^/]+/[^/]+)"


def _list(value):
    return value if isinstance(value, list) else [value]


class FakeHub:
    """Repositories by name: private or not, and commits as pairs (id, files by path), the newest last.

    Attributes:
        repos: Repositories by name, each with its visibility and its commits.
        log: Requests as texts "METHOD path".
        stored: Large files by SHA-256.
        large: Suffixes of the files that are uploaded as large ones.
        tamper: Function of (path, content) that changes what is sent.
        fail: Texts of requests that end with status 500, each once.
    """

    def __init__(self):
        self.repos, self.log, self.stored, self.fail = {}, [], {}, []
        self.large = ()
        self.tamper = lambda path, content: content
        self.commit_id = None

    def files(self, repo, revision="main"):
        commits = self.repos[repo]["commits"]
        found = [files for oid, files in commits if revision in (oid, "main")]
        return found[-1]

    def add(self, repo, files, private=False):
        commits = self.repos.setdefault(repo, {"private": private, "commits": []})["commits"]
        commits.append((hashlib.sha1(f"{repo}{len(commits)}".encode()).hexdigest(), dict(files)))
        return commits[-1][0]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def reply(self, content, status=200, **headers):
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def fault(self, status, code):
        self.reply({"error": code}, status, X_Error_Code=code, X_Error_Message=code)

    def handle_request(self):
        hub, self.hub = self.server.hub, self.server.hub
        path = self.path.split("?")[0]
        length = int(self.headers.get("Content-Length") or 0)
        chunked = self.headers.get("Transfer-Encoding") == "chunked"
        body = self.chunks() if chunked else self.rfile.read(length)
        request = f"{self.command} {path}"
        hub.log.append(request)
        for text in [t for t in hub.fail if t in request]:
            hub.fail.remove(text)
            return self.reply(b"", 500)
        routes = {
            r"POST /api/repos/create": self.create,
            r"POST /api/validate-yaml": self.validate,
            rf"GET {_REPO}(?:/revision/(?P<revision>.+))?": self.info,
            rf"GET {_REPO}/tree/(?P<revision>[^/]+)": self.tree,
            rf"POST {_REPO}/preupload/.+": self.preupload,
            rf"POST {_REPO}/commit/.+": self.commit,
            r"POST /datasets/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch": self.batch,
            r"PUT /store/(?P<digest>\w+)": self.store,
            r"GET /store/(?P<digest>\w+)": self.give,
            r"(?:GET|HEAD) /datasets/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)": self.resolve,
        }
        for pattern, route in routes.items():
            if match := re.fullmatch(pattern, request):
                self.authorised = self.headers.get("Authorization") == f"Bearer {TOKEN}"
                return route(body, **match.groupdict())
        return self.fault(404, "NotFound")

    do_GET = do_POST = do_PUT = do_HEAD = handle_request

    def chunks(self):
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def create(self, body):
        if not self.authorised:
            return self.reply({"error": "Invalid username or password."}, 401)
        asked = json.loads(body)
        repo = f"{asked['organization']}/{asked['name']}"
        if asked["organization"] == "stranger":
            return self.reply({"error": "You don't have the rights to create a repository here"}, 403)
        assert asked["type"] == "dataset"
        address = {"url": self.address(f"datasets/{repo}")}
        if repo in self.hub.repos:
            return self.reply({"error": "exists", **address}, 409)
        private = bool(asked.get("private")) or asked.get("visibility") == "private"
        self.hub.add(repo, {".gitattributes": b""}, private)
        return self.reply(address)

    def validate(self, body):
        """The check of a card by the hub: YAML, and words of its own lists."""
        head = yaml.safe_load(json.loads(body)["content"].split("---\n")[1])
        wrong = [name for name, words in WORDS.items() if not {*_list(head.get(name, []))} <= words]
        errors = [{"message": f'"{name}" must be one of a list'} for name in wrong]
        return self.reply({"errors": errors, "warnings": []}, 400 if errors else 200)

    def info(self, body, repo, revision=None):
        found = self.hub.repos.get(repo)
        if found is None or (found["private"] and not self.authorised):
            return self.fault(401 if not self.authorised else 404, "RepoNotFound")
        ids = [oid for oid, _ in found["commits"]]
        if revision not in (None, "main", *ids):
            return self.fault(404, "RevisionNotFound")
        oid = revision if revision in ids else ids[-1]
        files = self.hub.files(repo, oid)
        sha = oid if self.hub.commit_id is None else self.hub.commit_id
        siblings = [{"rfilename": name} for name in files]
        return self.reply({"id": repo, "sha": sha, "private": found["private"], "siblings": siblings, "tags": []})

    def tree(self, body, repo, revision):
        files = self.hub.files(repo, revision)
        return self.reply([{"type": "file", "path": p, "size": len(c), "oid": "0" * 40} for p, c in files.items()])

    def preupload(self, body, repo):
        modes = {True: "lfs", False: "regular"}
        files = [
            {
                "path": f["path"],
                "uploadMode": modes[f["path"].endswith(self.hub.large or ("?",))],
                "shouldIgnore": False,
            }
            for f in json.loads(body)["files"]
        ]
        return self.reply({"files": files})

    def batch(self, body, repo):
        objects = [
            {"oid": o["oid"], "size": o["size"], "authenticated": True}
            | (
                {}
                if o["oid"] in self.hub.stored
                else {"actions": {"upload": {"href": self.address("store/" + o["oid"])}}}
            )
            for o in json.loads(body)["objects"]
        ]
        return self.reply({"transfer": "basic", "objects": objects}, Content_Type="application/vnd.git-lfs+json")

    def address(self, path):
        return f"http://127.0.0.1:{self.server.server_port}/{path}"

    def store(self, body, digest):
        assert hashlib.sha256(body).hexdigest() == digest
        self.hub.stored[digest] = body
        return self.reply(b"")

    def give(self, body, digest):
        return self.reply(self.hub.tamper(digest, self.hub.stored[digest]))

    def commit(self, body, repo):
        lines = [json.loads(line) for line in body.splitlines()]
        assert lines[0]["key"] == "header"
        if lines[0]["value"].get("parentCommit") not in (None, self.hub.repos[repo]["commits"][-1][0]):
            return self.reply({"error": "A commit has happened since. Please refresh and try again."}, 412)
        files = dict(self.hub.files(repo))
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.stored[value["oid"]]
            else:
                del files[value["path"]]
        oid = self.hub.add(repo, files)
        address = self.address(f"datasets/{repo}/commit/{oid}")
        return self.reply({"success": True, "commitOid": oid, "commitUrl": address, "hookOutput": ""})

    def resolve(self, body, repo, revision, path):
        if self.hub.repos[repo]["private"] and not self.authorised:
            return self.fault(401, "RepoNotFound")
        files = self.hub.files(repo, revision)
        if path not in files:
            return self.fault(404, "EntryNotFound")
        digest = hashlib.sha256(files[path]).hexdigest()
        if digest in self.hub.stored:
            return self.reply(b"", 302, Location=self.address(f"store/{digest}"), X_Repo_Commit=revision)
        content = self.hub.tamper(path, files[path])
        return self.reply(content, X_Repo_Commit=revision, ETag=f'"{hashlib.sha1(content).hexdigest()}"')


@contextmanager
def running_hub():
    """Give a fake hub and the address of its server, which ends with the block."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.hub, server.daemon_threads = FakeHub(), True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server.hub, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
