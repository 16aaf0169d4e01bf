"""A server that speaks OpenAI's chat protocol, on a thread, with every fault a test asks for."""

import base64
import hashlib
import json
import threading
import time
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Chat:
    """What the server heard, and how it behaves: `reply(request, times this picture was asked)` -> (status, headers, body)."""

    def __init__(self, reply):
        self.reply, self.asked, self.heard, self.lock = reply, Counter(), [], threading.Lock()
        self.now = self.most_at_once = 0
        self.times = []


def completion(words, chances=()):
    body = {"choices": [{"message": {"role": "assistant", "content": words}}]}
    if chances:
        body["choices"][0]["logprobs"] = {"content": [{"token": "x", "logprob": chance} for chance in chances]}
    return 200, {}, json.dumps(body).encode()


@contextmanager
def serving(reply):
    """Yields (url, Chat) of a running server."""
    chat = Chat(reply)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            picture = base64.b64decode(request["messages"][0]["content"][0]["image_url"]["url"].split(",")[1])
            key = hashlib.sha256(picture).hexdigest()
            with chat.lock:
                chat.now += 1
                chat.most_at_once = max(chat.most_at_once, chat.now)
                chat.asked[key] += 1
                chat.times.append(time.monotonic())
                chat.heard.append((self.path, self.headers.get("Authorization"), request, picture))
                times = chat.asked[key]
            try:
                status, headers, body = chat.reply(request, times)
            finally:
                with chat.lock:
                    chat.now -= 1
            try:
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)
            except OSError:
                pass  # whoever asked is gone

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", chat
    finally:
        server.shutdown()
        server.server_close()
