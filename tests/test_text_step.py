"""Claims about text in pictures: asked only where tags say so, once, whatever the server does; said in the card's words."""

import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from chat_server import completion, serving
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sotediffusion.config import build, plain
from sotediffusion.curate.text.answers import EndpointSettings, ProseSettings, TextSettings
from sotediffusion.curate.text.endpoint import KEY_VARIABLE, Secret, answer_of, read_key, retry_after
from sotediffusion.curate.text.journal import Journal, forget
from sotediffusion.curate.text.step import ProseStep, TextStep, says, sentences_of, words_of
from sotediffusion.types import UserError

KEY = "sk-very-secret-0123456789"


def see(path):
    """A picture of one grey per path, so that the server can tell them apart."""
    return np.full((40, 60, 3), int(path) * 2, np.uint8)


def rows(count, general=("english text",), rating="general"):
    return pa.RecordBatch.from_pylist([
        {"path": str(i), "sha256": f"{i:064x}", "rating": rating, "general": list(general)} for i in range(count)
    ])  # fmt: skip


def settings(url, **changes):
    endpoint = {"url": url, "backoff": 0.01, "concurrency": 3, "timeout": 5.0} | changes.pop("endpoint", {})
    return TextSettings(backend="endpoint", model="reader", endpoint=EndpointSettings(**endpoint), **changes)


def ask(step, batch):
    step.setup()
    return step.process(batch).to_pylist()


@pytest.mark.parametrize(
    ("answer", "words", "tag"),
    [
        ('The text says "Hello".', "Hello", 'The text says "Hello"'),
        ('The text says, "Hello, world!"\n', "Hello, world!", 'The text says "Hello. world!"'),
        (' The text says "Keep\ncalm."', "Keep\ncalm", 'The text says "Keep calm"'),
        ('The text says "Yes" and "No."', 'Yes" and "No', 'The text says "Yes" and "No"'),
        ("The text says Hello", "Hello", 'The text says "Hello"'),
        ("the text says: stop", "stop", 'The text says "stop"'),
        ('"Hello"', "Hello", 'The text says "Hello"'),
        ("sorry", "sorry", 'The text says "sorry"'),
        ("There is no text in the image.", "", None),
        ("The image features a girl with a hat.", "", None),
        ("None.", "", None),
        ("Nonetheless", "Nonetheless", 'The text says "Nonetheless"'),
        ("  \n", "", None),
    ],
)
def test_answers_are_cleaned_as_the_card_did(answer, words, tag):
    assert words_of(answer, TextSettings().no_reading) == words
    assert says(words) == tag


@given(st.text())
def test_the_tag_of_any_text_is_one_tag_on_one_line(text):
    tag = says(text)
    assert tag is None or (tag.startswith('The text says "') and tag.endswith('"') and "," not in tag and tag.isprintable())
    assert says(None) is None


def test_sentences_become_one_line_and_refusals_none():
    assert sentences_of(" A girl.\n\nShe reads. ", ProseSettings().no_reading) == "A girl. She reads."
    assert sentences_of("I'm sorry, I can't help.", ProseSettings().no_reading) == ""


def test_only_pictures_with_text_are_asked_about(tmp_path):
    with serving(lambda request, times: completion('The text says "hi"', (-0.1, -0.3))) as (url, chat):
        step = TextStep(settings(url), see, tmp_path)
        mixed = pa.RecordBatch.from_pylist([
            {"path": "1", "sha256": "a", "rating": "general", "general": ["1girl"]},
            {"path": "2", "sha256": "b", "rating": "general", "general": ["1girl", "speech_bubble"]},
            {"path": "3", "sha256": "c", "rating": None, "general": None},
        ])  # fmt: skip
        found = ask(step, mixed)
    assert [row["text"] for row in found] == [None, "hi", None]
    assert found[1]["text_confidence"] == pytest.approx(np.exp(-0.2))
    assert sum(chat.asked.values()) == 1
    path, _, request, picture = chat.heard[0]
    assert path == "/v1/chat/completions" and request["model"] == "reader" and request["temperature"] == 0
    assert request["messages"][0]["content"][1] == {"type": "text", "text": "what does the text say?"}
    assert Image.open(BytesIO(picture)).size == (60, 40)


def test_what_is_for_this_machine_passes_no_proxy(tmp_path, monkeypatch):
    with serving(lambda request, times: completion("elsewhere")) as (proxy, passed), \
            serving(lambda request, times: completion("here")) as (url, _):  # fmt: skip
        for name in ("http_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        assert ask(TextStep(settings(url), see, tmp_path), rows(1))[0]["text"] == "here" and not passed.heard


def test_nobody_is_asked_where_nobody_is_named(tmp_path):
    found = ask(TextStep(TextSettings(backend="none"), see, tmp_path), rows(2))
    assert [row["text"] for row in found] == [None, None] and not list(tmp_path.iterdir())


def test_faults_are_tried_again_and_requests_at_once_are_bounded(tmp_path):
    def reply(request, times):
        time.sleep(0.01)
        faults = [(500, {}, b"oops"), (429, {"Retry-After": "0"}, b""), (200, {}, b"not json")]
        return faults[times - 1] if times <= 3 else completion("fine")

    with serving(reply) as (url, chat):
        found = ask(TextStep(settings(url), see, tmp_path), rows(12))
    assert [row["text"] for row in found] == ["fine"] * 12
    assert set(chat.asked.values()) == {4} and 1 < chat.most_at_once <= 3


def test_a_server_that_asks_for_patience_gets_it(tmp_path):
    with serving(lambda request, times: (429, {"Retry-After": "1"}, b"") if times == 1 else completion("ok")) as (url, chat):
        assert ask(TextStep(settings(url), see, tmp_path), rows(1))[0]["text"] == "ok"
        assert chat.times[1] - chat.times[0] >= 1
    with serving(lambda request, times: (429, {"Retry-After": "9000"}, b"")) as (url, _):
        with pytest.raises(UserError, match="9000 s of patience"):
            ask(TextStep(settings(url), see, tmp_path / "other"), rows(1))


def test_retry_after_is_read_as_seconds_or_as_a_date():
    now = datetime(2024, 5, 1, 12, 0, tzinfo=UTC)
    assert retry_after("7", now) == 7
    assert retry_after("Wed, 01 May 2024 12:00:30 GMT", now) == 30
    assert retry_after("Wed, 01 May 2024 11:00:00 GMT", now) == 0
    assert retry_after("soon", now) is None and retry_after(None, now) is None


def test_slow_answers_run_out_of_time_and_are_tried_again(tmp_path):
    again = threading.Event()

    def reply(request, times):
        if times == 1:
            again.wait(60)
        again.set()
        return completion("late")

    with serving(reply) as (url, chat):
        found = ask(TextStep(settings(url, endpoint={"timeout": 2}), see, tmp_path), rows(1))
    assert found[0]["text"] == "late" and list(chat.asked.values()) == [2]


def test_a_server_that_stays_away_stops_the_step_and_nothing_answered_is_lost(tmp_path):
    def reply(request, times):
        return completion("kept") if len(chat.asked) <= 4 else (503, {}, b"")

    with serving(reply) as (url, chat):
        step = TextStep(settings(url, endpoint={"retries": 1, "concurrency": 1}), see, tmp_path)
        with pytest.raises(UserError, match="gave no answer .status 503. after 2 tries"):
            ask(step, rows(8))
        assert len(chat.asked) == 5
        chat.reply = lambda request, times: completion("new")
        found = ask(TextStep(settings(url), see, tmp_path), rows(8))
        assert [row["text"] for row in found] == ["kept"] * 4 + ["new"] * 4
        assert sum(chat.asked.values()) == 6 + 4


def test_a_picture_that_is_refused_says_so_and_the_others_go_on(tmp_path):
    def reply(request, times):
        return (400, {}, b"bad picture") if len(chat.asked) == 2 and times == 1 else completion("ok")

    with serving(reply) as (url, chat):
        found = ask(TextStep(settings(url, endpoint={"concurrency": 1}), see, tmp_path), rows(3))
        assert [row["text"] for row in found] == ["ok", None, "ok"]
        assert found[1]["text_error"] == "refused: status 400: bad picture"
        chat.reply = lambda request, times: (422, {}, b"no such field")
        with pytest.raises(UserError, match="refused 5 pictures one after the other"):
            ask(TextStep(settings(url), see, tmp_path / "other"), rows(9))


@pytest.mark.parametrize("status", [401, 403, 404, 302])
def test_wrong_settings_stop_at_once_and_never_show_the_key(tmp_path, status):
    with serving(lambda request, times: (status, {"Location": "http://127.0.0.1:9/"}, KEY.encode())) as (url, chat):
        step = TextStep(settings(url, endpoint={"concurrency": 1}), see, tmp_path, Secret(KEY))
        with pytest.raises(UserError) as raised:
            ask(step, rows(3))
    assert str(status) in str(raised.value) and KEY not in str(raised.value)
    assert len(chat.heard) == 1 and chat.heard[0][1] == f"Bearer {KEY}"


def test_the_key_comes_from_a_file_or_the_environment_and_is_written_nowhere(tmp_path):
    (tmp_path / "key").write_text(KEY + "\n")
    assert read_key(tmp_path / "key", {}).reveal() == read_key(None, {KEY_VARIABLE: KEY}).reveal() == KEY
    assert read_key(None, {}) is None
    (tmp_path / "empty").write_text("a b\n")
    for broken in ("empty", "missing"):
        with pytest.raises(UserError) as raised:
            read_key(tmp_path / broken, {})
        assert "a b" not in str(raised.value)
    with serving(lambda request, times: (400, {}, b"you sent " + KEY.encode()) if times == 1 else completion("x")) as (url, chat):
        with_file = settings(url, endpoint={"key_file": tmp_path / "key"})
        step = pickle.loads(pickle.dumps(TextStep(with_file, see, tmp_path / "journal", None)))
        found = ask(step, rows(1))
    assert chat.heard[0][1] == f"Bearer {KEY}"
    assert "you sent ***" in found[0]["text_error"]
    shown = repr([Secret(KEY), step.identity(), plain(with_file), found, str(Secret(KEY))])
    assert KEY not in shown and "***" in shown
    assert not [p for p in (tmp_path / "journal").rglob("*") if p.is_file() and KEY in p.read_text()]


@pytest.mark.parametrize("url", ["http://user:pw@host/v1", "http://host/v1?key=1", "ftp://host", "host", ""])
def test_addresses_with_secrets_or_without_a_host_are_refused(tmp_path, url):
    with pytest.raises(UserError, match="text.endpoint.url") as raised:
        TextStep(settings(url), see, tmp_path)
    assert "pw" not in str(raised.value)


def test_what_the_policy_refuses_in_words_drops_the_picture_and_is_forgotten(tmp_path):
    with serving(lambda request, times: completion("A little girl, naked.")) as (url, _):
        found = ask(ProseStep(build(ProseSettings, plain(settings(url)) | {"where": []}), see, tmp_path), rows(1, ("1girl",)))
    assert found[0]["prose"] is None and found[0]["drop_prose"] == "policy"
    assert not [p for p in tmp_path.rglob("*.jsonl") if "girl" in p.read_text()]


def test_prose_asks_about_every_picture_in_its_own_words(tmp_path):
    ours = ProseSettings(backend="endpoint", model="reader")
    with serving(lambda request, times: completion("A cat.\nIt sleeps.")) as (url, chat):
        step = ProseStep(replace(ours, endpoint=EndpointSettings(url=url)), see, tmp_path)
        assert ask(step, rows(2, ()))[1]["prose"] == "A cat. It sleeps."
    assert chat.heard[0][2]["messages"][0]["content"][1]["text"].startswith("Describe")
    with pytest.raises(UserError, match="prose.backend"):
        ProseStep(ProseSettings(backend="ocr"), see, tmp_path)


def test_an_unknown_backend_lists_the_known_ones(tmp_path):
    with pytest.raises(UserError, match="endpoint.*llava.*ocr|ocr"):
        TextStep(TextSettings(backend="gpt"), see, tmp_path)


def test_identity_knows_the_question_and_the_model_not_the_place(tmp_path):
    one = TextStep(settings("http://a:1/v1"), see, tmp_path).identity()
    assert one == TextStep(settings("https://b/v1", endpoint={"concurrency": 50}), see, tmp_path).identity()
    assert one != TextStep(settings("http://a:1/v1", question="?"), see, tmp_path).identity()
    assert json.loads(json.dumps(one)) == one


def test_replies_that_are_no_completion_are_no_answers():
    for text in ("", "[]", "{}", '{"choices": []}', '{"choices": [{"message": {"content": 3}}]}', "null"):
        assert answer_of(text) is None
    assert answer_of('{"choices": [{"message": {"content": "a"}, "logprobs": null}]}').confidence is None


def test_a_torn_line_is_left_out_and_other_processes_answers_are_seen(tmp_path):
    first, second = Journal(tmp_path), Journal(tmp_path)
    first.add("a", {"text": "one"})
    with open(next(tmp_path.glob("*.jsonl")), "ab") as file:
        file.write(b'{"key": "b", "te')
    second.refresh()
    assert second.answers == {"a": {"text": "one"}}
    second.add("c", {"text": "two"})
    first.refresh()
    assert first.answers["c"] == {"text": "two"}


def test_a_disk_that_takes_half_a_line_has_not_got_it_and_later_answers_stay_readable(tmp_path):
    journal, other = Journal(tmp_path), Journal(tmp_path)
    journal.add("a", {"text": "one"})
    (path,) = tmp_path.glob("*.jsonl")
    whole, before = path.stat().st_size, resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (whole + 10, before[1]))
        for _ in range(2):
            with pytest.raises(UserError, match="cannot be written"):
                journal.add("b", {"text": "two"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.stat().st_size == whole and "b" not in journal.answers
    journal.add("c", {"text": "three"})
    other.refresh()
    assert other.answers == {"a": {"text": "one"}, "c": {"text": "three"}}


def test_a_torn_line_with_another_behind_it_is_asked_again_and_forgotten(tmp_path):
    path = tmp_path / "text" / "1.jsonl"
    path.parent.mkdir()
    path.write_text('{"key": "a", "text": "one"}\n{"key": "b", "te{"key": "c", "text": "two"}\n{"key": "d", "text": "three"}\n')
    journal = Journal(path.parent)
    journal.refresh()
    assert journal.answers == {"a": {"text": "one"}, "d": {"text": "three"}}
    forget(tmp_path, {"d"})
    assert path.read_text() == '{"key": "a", "text": "one"}\n'


CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_text_step as t
step = t.TextStep(t.settings(sys.argv[1]), t.see, Path(sys.argv[2]))
step.setup()
step.process(t.rows(60))
"""


def test_a_process_killed_in_the_middle_loses_no_answer_it_had(tmp_path):
    def reply(request, times):
        time.sleep(0.03)
        while sum(chat.asked.values()) > 30 and process.poll() is None:  # it is not done before it is killed
            time.sleep(0.01)
        return completion("first" if process.poll() is None else "second")

    with serving(reply) as (url, chat):
        code = CHILD.format(tests=str(Path(__file__).parent))
        process = subprocess.Popen([sys.executable, "-c", code, url, str(tmp_path)])
        deadline = time.monotonic() + 300
        while len(kept := [line for p in tmp_path.rglob("*.jsonl") for line in p.read_text().splitlines()]) < 10:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        found = ask(TextStep(settings(url), see, tmp_path, Secret(KEY)), rows(60))
        after = [key for _, key, *_ in chat.heard].count(f"Bearer {KEY}")  # what the killed one asked may be heard only now
    texts = [row["text"] for row in found]
    assert texts.count("first") >= len(kept) and set(texts) == {"first", "second"}
    assert after == texts.count("second")  # none that was kept was asked again
