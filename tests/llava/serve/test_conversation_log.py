import datetime
import hashlib
import json

from PIL import Image

from llava.serve.conversation_log import ConversationLog
from llava.serve.dialogue import add_question, answered, new_dialogue

GLASS = Image.new("RGBA", (4, 4), (255, 0, 0, 10))


def test_upstreams_layout(tmp_path):
    log = ConversationLog(tmp_path / "logs")
    state = answered(add_question(new_dialogue(), "What?", GLASS, "Default"), "Glass.")
    for _ in range(2):
        log.chat(state, "m", 1.23456789, 2.0, [GLASS], "127.0.0.1")
    log.vote(state, "upvote", "m", 3.0, "127.0.0.1")
    today = str(datetime.date.today())
    chat, _, vote = map(json.loads, (tmp_path / "logs" / f"{today}-conv.json").read_text().splitlines())
    md5 = hashlib.md5(GLASS.tobytes()).hexdigest()
    assert list(chat) == ["tstamp", "type", "model", "start", "finish", "state", "images", "ip"]
    assert (chat["type"], chat["start"], chat["images"], chat["ip"]) == ("chat", 1.2346, [md5], "127.0.0.1")
    assert chat["state"] == json.loads(json.dumps(state.dict()))
    assert list(vote) == ["tstamp", "type", "model", "state", "ip"]
    stored = list((tmp_path / "logs" / "serve_images" / today).iterdir())
    assert [file.name for file in stored] == [f"{md5}.jpg"]
    assert Image.open(stored[0]).mode == "RGB"


def test_switched_off_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = add_question(new_dialogue(), "What?", GLASS, "Default")
    ConversationLog(None).chat(state, "m", 1.0, 2.0, [GLASS], "127.0.0.1")
    ConversationLog(None).vote(state, "flag", "m", 1.0, "127.0.0.1")
    assert list(tmp_path.iterdir()) == []
