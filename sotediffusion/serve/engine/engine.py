"""The engine: orders come and go between steps, and at every tick the runs whose turn it is share one forward.

It holds opened models and live runs and knows no jobs, files or clients; `worker` brings it orders and carries its news away.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import count
from secrets import randbelow

from sotediffusion.diffusion.samplers import SAMPLERS
from sotediffusion.diffusion.schedule import SCHEDULES
from sotediffusion.generate import DONE, STAGE_B, STAGE_C, finish, prepare, preview, settle, step
from sotediffusion.limits import validate
from sotediffusion.models.cascade import Cascade
from sotediffusion.serve.engine import gauge
from sotediffusion.serve.engine.memory import EngineLimits, Footprints
from sotediffusion.serve.engine.orders import STAGE_A, Order, Seat, keys_of, one_by_one, resting_bytes, rows_of
from sotediffusion.serve.engine.pace import Pace
from sotediffusion.serve.engine.residents import Residents
from sotediffusion.serve.engine.rewind import Rewindable, taken_back
from sotediffusion.serve.engine.scheduler import Key, Scheduler
from sotediffusion.types import Event, Picture, Request, UserError

WORK_SHARE = 0.25  # of the memory that stays for work when a model is opened beside another
LIVE = {"cpu": 8}  # pictures under way at a time, where nothing else is said
CLAIM = 8  # orders taken in between two ticks, so that those under way are not kept waiting


@dataclass(frozen=True)
class News:
    """What a tick did to an order: how far it is now, a picture of it that is finished, or why it came to nothing."""

    id: str
    event: Event
    eta: float | None = None  # s
    picture: Picture | None = None
    error: UserError | None = None


class Engine:
    """Step-level continuous batching over one device."""

    def __init__(self, residents: Residents, limits: EngineLimits = EngineLimits(), clock: Callable[[], float] = time.monotonic):
        self.residents, self.limits, self.clock = residents, limits, clock
        self.live = limits.live or LIVE.get(residents.device, 64)
        self.memory = gauge.budget(residents.device) if limits.memory is None else limits.memory
        self.orders: dict[str, Order] = {}
        self.scheduler: Scheduler[Seat] = Scheduler(self._fit)
        self.footprints, self.pace, self.numbers = Footprints(), Pace(), count()
        self.heaviest: dict[str, int] = {}  # bytes that a run of a model held between steps at most

    def add(self, id: str, model: str, request: Request, owner: str = "") -> None:
        """Take an order in, in the place of one of the same id; it begins as soon as there is room. Owners share the places.

        UserError: no such model, or values out of range.
        """
        self.residents.check(model)
        validate(request, SAMPLERS, SCHEDULES)
        self.cancel(id)
        settled = replace(request, seed=randbelow(2**32)) if request.seed is None else request
        self.orders[id] = Order(id, model, one_by_one(settled), owner)

    def cancel(self, id: str) -> None:
        """Forget an order; from the next tick on its rows are free. Unknown ones are over already."""
        order = self.orders.pop(id, None)
        for seat in order.seats if order else []:
            self.scheduler.leave(seat)

    @property
    def idle(self) -> bool:
        return not self.orders

    @property
    def room(self) -> int:
        """How many more orders it should be given now; none while one it has waits to begin.

        One that has begun and waits with its other pictures holds up nobody: others are asked for before it gets a free place.
        """
        if any(not (order.seats or order.done) for order in self.orders.values()):
            return 0
        return min(self.live - len(self.scheduler.line), CLAIM)

    def tick(self) -> list[News]:
        """Begin what there is room for, then take one step with the runs whose turn it is, and finish those that are done."""
        news = self._admit()
        group = self.scheduler.turn()
        return news + self._step(group) if group else news

    def _admit(self) -> list[News]:
        """Begin pictures, those of owners and orders with the fewest under way first, until the next one does not fit."""
        news: list[News] = []
        passed: list[Order] = []  # they wait for a model; no more are taken in meanwhile, so that those who pass are few
        while len(self.scheduler.line) < self.live and (order := self._next(passed)) is not None:
            try:
                if not self._has_model(order):
                    passed.append(order)
                elif not self._fits(order):
                    break
                else:
                    news.append(self._begin(order))
            except UserError as error:
                news.append(self._fail(order, error))
        return news

    def _next(self, passed: list[Order]) -> Order | None:
        """The order that gets the next place: its owner has the fewest pictures under way, then itself, then the oldest."""
        waiting = [order for order in self.orders.values() if order.waiting and order not in passed]
        under_way = Counter(seat.order.owner for seat in self.scheduler.line)
        return min(waiting, key=lambda order: (under_way[order.owner], len(order.seats)), default=None)

    def _has_model(self, order: Order) -> bool:
        """Whether its model is open or may be opened now; for that, models that nobody uses make room."""
        busy = {seat.order.model for seat in self.scheduler.line}
        return self.residents.make_room(order.model, lambda: self._free() - WORK_SHARE * self.memory, busy)

    def _fits(self, order: Order) -> bool:
        if not self.scheduler.line or order.model not in self.residents.opened:  # alone, or nothing is known of it yet
            return True
        return not order.alone and self._needed(order) <= self._free() - self._growth()

    def _needed(self, order: Order) -> float:
        """Bytes for one more run of this order between steps, and for a step of its own."""
        cascade = self.residents.opened[order.model]
        request = settle(cascade, order.waiting[0])
        keys = keys_of(order.model, cascade, request)
        rows = {STAGE_C: rows_of(request.guidance), STAGE_B: rows_of(request.decoder_guidance), STAGE_A: 1}
        step_of_its_own = max((self.footprints.per_row(key) or 0) * rows[phase] for phase, key in keys.items())
        return 2 * self.heaviest.get(order.model, 0) + step_of_its_own

    def _free(self) -> float:
        """Bytes for work. What a run holds counts twice: the batch it goes along in keeps a copy of its conditioning."""
        return self.memory - self.residents.bytes - self._worn() - 2 * sum(seat.resting for seat in self.scheduler.line)

    def _worn(self) -> int:
        """Bytes of weights that LoRA were put into, of live runs and of sets that are kept."""
        live = {id(seat.run.worn.networks): seat.run.worn.bytes for seat in self.scheduler.line}
        kept = {id(worn.networks): worn.bytes for cascade in self.residents.opened.values() for worn in cascade.worn.values()}
        return sum((live | kept).values())

    def _growth(self) -> float:
        """Bytes that live runs may come to hold beyond what they hold now."""
        return sum(2 * max(self.heaviest[seat.order.model] - seat.resting, 0) for seat in self.scheduler.line)

    def _fit(self, key: Key) -> int:
        return min(self.limits.rows, self.footprints.fit(key[:3], self._free()))

    def _begin(self, order: Order) -> News:
        request = order.waiting[0]
        cascade = self.residents.use(order.model)
        with self._enough_memory(request):
            (run,) = prepare(cascade, request, [Rewindable(request.seed or 0)])
        order.waiting.pop(0)
        order.request = run.request
        seat = Seat(order, run, next(self.numbers), self.clock())
        order.seats.append(seat)
        self.scheduler.join(seat)
        self._weigh(seat)
        return self._news(order)

    def _step(self, group: list[Seat]) -> list[News]:
        cascade, key = self.residents.use(group[0].order.model), group[0].kind
        try:
            with self._enough_memory(group[0].run.request):
                self._forward(cascade, group, key)
        except UserError as error:
            return self._refused(group, key, error)
        news: list[News] = []
        for seat in group:
            self._pass(seat, key)
            if self.orders.get(seat.order.id) is not seat.order:
                continue  # a neighbour of the same order has just failed it
            if seat.run.phase not in (key[1], DONE):
                self._weigh(seat)
            if seat.run.phase == DONE:
                news.append(self._finish(cascade, seat))
        moved: dict[str, Seat] = {}
        for seat in group:
            if self.orders.get(seat.order.id) is seat.order and seat.run.phase != DONE:
                moved.setdefault(seat.order.id, seat)
        return news + [self._news(seat.order, self._preview(cascade, seat)) for seat in moved.values()]

    def _refused(self, group: list[Seat], key: Key, error: UserError) -> list[News]:
        """The memory ran out: fewer go next time, one that went by itself begins again with nobody beside it, or fails."""
        self.footprints.refuse(key, sum(seat.rows for seat in group))
        if len(group) > 1:
            return []
        (seat,), order = group, group[0].order
        if len(self.scheduler.line) == 1:
            return [self._fail(order, error)]
        self.scheduler.leave(seat)
        order.seats.remove(seat)
        order.waiting.insert(0, seat.run.request)
        order.alone = True
        return [self._news(order)]

    def _forward(self, cascade: Cascade, group: list[Seat], key: Key) -> None:
        runs, rows = [seat.run for seat in group], sum(seat.rows for seat in group)
        measured = self.footprints.unsure(key, rows) and not any(seat.last_of_prior for seat in group)
        beside = [seat.number for seat in group]
        for seat in group:
            if measured or seat is not group[0] or seat.beside != beside:
                seat.run.crowd = None  # kept by its leader alone and while nobody joins or leaves; measured with what it costs
        group[0].beside = beside
        with taken_back(runs):
            if measured:
                self._measured(key, rows, lambda: step(cascade, runs))
            else:
                step(cascade, runs)

    def _finish(self, cascade: Cascade, seat: Seat) -> News:
        order, request = seat.order, seat.run.request
        key = keys_of(order.model, cascade, request)[STAGE_A]
        pictures: list[Picture] = []
        try:
            with self._enough_memory(request):
                self._measured(key, 1, lambda: pictures.extend(finish(cascade, [seat.run])))
        except UserError as error:
            return self._fail(order, error)
        self._pass(seat, key)
        self.scheduler.leave(seat)
        order.seats.remove(seat)
        order.done += 1
        if order.over:
            del self.orders[order.id]
        return replace(self._news(order), picture=pictures[0])

    def _measured(self, key: Key, rows: int, work: Callable[[], None]) -> None:
        """Do the work; where that tells something new, with an eye on the memory it takes."""
        if not self.footprints.unsure(key, rows):
            return work()
        taken = gauge.peak(self.residents.device, work)
        if taken is not None:
            self.footprints.note(key, rows, taken)

    @contextmanager
    def _enough_memory(self, request: Request) -> Iterator[None]:
        """A full memory as a sentence for whoever asked for too much."""
        try:
            yield
        except Exception as error:
            if not gauge.ran_out(error):
                raise
            size = f"{request.width}x{request.height}"
            raise UserError("size", f"the server's memory is not enough for {size}; ask for a smaller picture") from None

    def _news(self, order: Order, shown: Picture | None = None) -> News:
        cascade = self.residents.opened[order.model]
        event = Event(order.phase, order.step, order.steps, shown)
        return News(order.id, event, order.left(cascade, self.pace))

    def _fail(self, order: Order, error: UserError) -> News:
        event = Event(order.phase, order.step, order.steps)
        self.cancel(order.id)
        error.__context__ = None  # its frames hold tensors
        return News(order.id, event, error=error)

    def _preview(self, cascade: Cascade, seat: Seat) -> Picture | None:
        """A look at the first of an order's pictures, every few steps of Stage C and at its end."""
        run, every = seat.run, self.limits.preview_steps
        over = run.phase == STAGE_B and run.index == 0  # its prior is drawn
        if seat is not seat.order.seats[0] or not every or not (over or (run.phase == STAGE_C and run.index % every == 0)):
            return None
        with suppress(UserError), self._enough_memory(run.request):
            return preview(cascade, run)
        return None

    def _pass(self, seat: Seat, key: Key) -> None:
        now = self.clock()
        self.pace.note(key, now - seat.since)
        seat.since = now

    def _weigh(self, seat: Seat) -> None:
        seat.resting = resting_bytes(seat.run)
        self.heaviest[seat.order.model] = max(seat.resting, self.heaviest.get(seat.order.model, 0))
