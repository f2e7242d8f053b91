"""A browser's part of JupyterLab: python jupyter_client_script.py URL TOKEN, the code for the kernel on stdin.

Starts a kernel and a terminal by the REST API, talks to both over websockets, saves a notebook, and prints one line of
JSON: what the kernel printed, what the terminal said, which notebooks were there before. Runs in its Python.
"""

from __future__ import annotations

import json
import re
import sys
import urllib.request
import uuid

import websocket

url, token = sys.argv[1:]
LIMIT_S = 120


def rest(method, path, body=None):
    request = urllib.request.Request(
        f"{url}/api/{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"token {token}"},
    )
    with urllib.request.urlopen(request, timeout=LIMIT_S) as answer:
        text = answer.read()
    return json.loads(text) if text else None


def connect(path):
    return websocket.create_connection(f"ws{url[4:]}/{path}?token={token}", timeout=LIMIT_S)


def execute(code):
    kernel = rest("POST", "kernels", {"name": "python3"})
    channel = connect(f"api/kernels/{kernel['id']}/channels")
    header = {"msg_id": uuid.uuid4().hex, "username": "u", "session": uuid.uuid4().hex, "version": "5.3"}
    message = {
        "header": {**header, "msg_type": "execute_request"},
        "parent_header": {},
        "metadata": {},
        "channel": "shell",
    }
    channel.send(json.dumps({**message, "content": {"code": code, "silent": False}}))
    printed = ""
    while True:
        answer = json.loads(channel.recv())
        if answer["parent_header"].get("msg_id") != header["msg_id"]:
            continue
        if answer["msg_type"] == "stream":
            printed += answer["content"]["text"]
        if answer["msg_type"] == "error":
            sys.exit("\n".join(answer["content"]["traceback"]))
        if answer["msg_type"] == "execute_reply":
            assert answer["content"]["status"] == "ok", answer
        if answer["msg_type"] == "status" and answer["content"]["execution_state"] == "idle":
            return printed


def terminal():
    name = rest("POST", "terminals")["name"]
    channel = connect(f"terminals/websocket/{name}")
    channel.send(json.dumps(["stdin", 'echo "<<$HOME $HF_HOME>>"\r']))
    shown = ""
    # Not the echo of what was typed: that begins with <<$.
    while not (found := re.search(r"<<(/[^>]*)>>", re.sub(r"[\r\n]|\x1b\[[?0-9;]*[a-zA-Z]", "", shown))):
        kind, *rest_of_it = json.loads(channel.recv())
        if kind == "stdout":
            shown += rest_of_it[0]
    return found[1]


before = [entry["name"] for entry in rest("GET", "contents/")["content"] if entry["type"] == "notebook"]
kernel = json.loads(execute(sys.stdin.read()))
notebook = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
rest("PUT", "contents/kept.ipynb", {"type": "notebook", "content": notebook})
print(json.dumps({"kernel": kernel, "terminal": terminal(), "notebooks": before}))
