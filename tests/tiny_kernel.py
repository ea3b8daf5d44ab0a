"A kernel that does as little as a kernel can, so that many can be started at once: python tiny_kernel.py CONNECTION_FILE."
import contextlib
import hashlib
import hmac
import io
import json
import os
import sys
import threading
import uuid
from datetime import UTC, datetime

import zmq

about = json.load(open(sys.argv[1]))
context = zmq.Context()


def bound(kind, name):
    socket = context.socket(kind)
    socket.bind(f"{about['transport']}://{about['ip']}{':' if about['transport'] == 'tcp' else '-'}{about[name + '_port']}")
    return socket


def send(socket, kind, content, parent, idents):
    header = {"msg_id": uuid.uuid4().hex, "session": "tiny", "username": "tiny", "date": datetime.now(UTC).isoformat(), "msg_type": kind, "version": "5.3"}
    parts = [json.dumps(p).encode() for p in (header, parent, {}, content)]
    sign = hmac.new(about["key"].encode(), b"".join(parts), hashlib.sha256).hexdigest().encode()
    socket.send_multipart([*idents, b"<IDS|MSG>", sign, *parts])


def execute(content):
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out): exec(content["code"], names)
        return out.getvalue(), None
    except Exception as e: return out.getvalue(), {"ename": type(e).__name__, "evalue": str(e), "traceback": [f"{type(e).__name__}: {e}"]}


names, count = {"__name__": "__main__"}, 0
shell, control, iopub, stdin, beat = bound(zmq.ROUTER, "shell"), bound(zmq.ROUTER, "control"), bound(zmq.PUB, "iopub"), bound(zmq.ROUTER, "stdin"), bound(zmq.REP, "hb")
threading.Thread(target=lambda: zmq.proxy(beat, beat), daemon=True).start()
poller = zmq.Poller()
for s in (shell, control): poller.register(s, zmq.POLLIN)
while True:
    for socket, _ in poller.poll(1000):
        parts = socket.recv_multipart()
        at = parts.index(b"<IDS|MSG>")
        idents, header, content = parts[:at], json.loads(parts[at + 2]), json.loads(parts[at + 5])
        kind = header["msg_type"]
        send(iopub, "status", {"execution_state": "busy"}, header, [b"status"])
        if kind == "kernel_info_request":
            answer = {"status": "ok", "protocol_version": "5.3", "implementation": "tiny", "implementation_version": "1", "banner": "", "help_links": [],
                      "language_info": {"name": "python", "version": "3", "mimetype": "text/x-python", "file_extension": ".py"}}
        elif kind == "execute_request":
            count += 1
            said, error = execute(content)
            if said: send(iopub, "stream", {"name": "stdout", "text": said}, header, [b"stream"])
            if error: send(iopub, "error", error, header, [b"error"])
            answer = {"status": "error", "execution_count": count, **error} if error else {"status": "ok", "execution_count": count, "payload": [], "user_expressions": {}}
        else: answer = {"status": "ok", "restart": False}
        send(socket, kind.replace("_request", "_reply"), answer, header, idents)
        send(iopub, "status", {"execution_state": "idle"}, header, [b"status"])
        if kind == "shutdown_request":
            context.destroy(linger=200)
            os._exit(0)
    if os.getppid() == 1: os._exit(1)
