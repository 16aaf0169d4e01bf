"""Numbers for Prometheus: how long the queue is, how jobs end, how long they wait and draw, what the doors reply."""

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sotediffusion.serve.storage.jobs import Job
from sotediffusion.serve.storage.store import JobStore

KIND = CONTENT_TYPE_LATEST
_SECONDS = (0.1, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800)
_REPLIES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30, 120)


class Metrics:
    """The numbers of one server process; those of jobs are of the whole store."""

    def __init__(self, store: JobStore, worker: Callable[[], bool]):
        """`worker` says whether this server has one with its model open."""
        self._store, self._has_worker = store, worker
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._jobs = Gauge("sote_jobs", "Jobs that wait or run, by state", ["state"], registry=registry)
        self._worker = Gauge("sote_worker_ready", "1 while a worker of this server has its model open", registry=registry)
        self._ended = Counter("sote_jobs_ended", "Jobs that a worker of this machine has ended", ["state", "origin", "model"],
                              registry=registry)  # fmt: skip
        self._pictures = Counter("sote_pictures", "Finished pictures of this machine", ["model"], registry=registry)
        self._waited = Histogram("sote_job_wait_seconds", "From submission to the last start", buckets=_SECONDS,
                                 registry=registry)  # fmt: skip
        self._drawn = Histogram("sote_job_draw_seconds", "From the last start to the end", buckets=_SECONDS,
                                registry=registry)  # fmt: skip
        self._replies = Histogram("sote_http_seconds", "Replies until their last byte, by route", ["route", "method", "status"],
                                  buckets=_REPLIES, registry=registry)  # fmt: skip

    def note(self, job: Job) -> None:
        """A job has ended."""
        self._ended.labels(str(job.state), job.dialect, job.model).inc()
        self._pictures.labels(job.model).inc(len(job.pictures or ()))
        if job.started is not None and job.finished is not None:
            self._waited.observe(max(job.started - job.created, 0))
            self._drawn.observe(max(job.finished - job.started, 0))

    def render(self) -> bytes:
        """All numbers as text. Blocks; StoreDown."""
        for state, count in self._store.depth().items():
            self._jobs.labels(str(state)).set(count)
        self._worker.set(self._has_worker())
        return generate_latest(self.registry)

    def around(self, app: ASGIApp) -> ASGIApp:
        """The app with its replies counted, by route and never by address: those are the callers' own."""

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                return await app(scope, receive, send)
            began, status = time.perf_counter(), 0

            async def sending(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                await send(message)

            try:
                await app(scope, receive, sending)
            finally:
                route = getattr(scope.get("route"), "path", "none")
                labels = (route, scope["method"], str(status))
                self._replies.labels(*labels).observe(time.perf_counter() - began)

        return counted
