"""The benchmark of the server measures what it says: every order once, so many clients at a time, and what they saw in a row."""

import os
import threading

import pytest
from test_benchmarks import BENCHMARKS, script


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return script("serve")


def test_each_order_is_drawn_once_by_so_many_clients_at_a_time(serve):
    drawn, all_four = [], threading.Barrier(4)

    def draw(order):
        all_four.wait(60)
        drawn.append(order["seed"])
        return serve.Seen(1.0)

    times = serve.crowd(4, serve.orders(20), draw, [os.getpid()])
    assert sorted(drawn) == list(range(20)) and len(times.seen) == 20
    assert times.wall > 0 and times.memory > 1 and times.cpu >= 0


def test_a_client_that_fails_fails_the_measurement(serve):
    def draw(order):
        raise RuntimeError("refused")

    with pytest.raises(RuntimeError, match="refused"):
        serve.crowd(2, serve.orders(3), draw, [os.getpid()])


def test_orders_are_mixed_and_the_same_each_time(serve):
    orders = serve.orders(64)
    assert orders == serve.orders(64) and orders[:16] == serve.orders(16)
    for name in ("steps", "decoder_steps", "guidance", "decoder_guidance", "width", "height"):
        assert len({order[name] for order in orders}) > 1, name
    assert {(order["width"], order["height"]) for order in serve.sizes_of([(1, orders)])} == set(serve.SIZES)
    assert serve.sizes_of([(1, orders)])[0] == orders[0]


def test_a_row_tells_rate_percentiles_and_previews(serve):
    seen = [serve.Seen(done, done / 2) for done in (1.0, 2.0, 3.0, 9.0)]
    row = serve.Times(4, seen, wall=2.0, cpu=6.0, memory=100.0).row("served")
    assert row == "| served | 4 | 4 | 2.00 | 2.50 | 8.10 | 1.25 | 1.50 | 100 |"
    assert "| none |" in serve.Times(4, [serve.Seen(1.0)] * 2, 2.0, 1.0, 100.0).row("diffusers")


def test_what_is_not_drawing_is_told_before_and_after_it_and_together(serve, capsys):
    serve.tell_overhead([serve.Seen(1.0, before=0.002, after=0.003), serve.Seen(1.0, before=0.004, after=0.005)])
    before, after, both = capsys.readouterr().out.splitlines()
    assert "to the engine" in before and "3.0 ms (median)" in before and "3.9 ms (p95)" in before
    assert "to the client" in after and "4.0 ms (median)" in after and "both" in both and "7.0 ms (median)" in both
