import json
from multiprocessing.reduction import ForkingPickler

import pytest

from llava.conversation import conv_templates
from llava.errors import UserError
from llava.train.samples import PackedSamples, PictureError, check_sample, name_of, pictures_of, read_samples

V1 = conv_templates["v1"]


def sample(*values: str, **fields) -> dict:
    turns = [{"from": ("human", "gpt")[number % 2], "value": value} for number, value in enumerate(values)]
    return {"conversations": turns, **fields}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1}', "{path} holds a JSON dict; it must hold a list of samples"),
        (b"[]", "{path} holds an empty list; training needs at least one sample"),
        (b'[\n{"id": 1},\n]', "{path} is not JSON: "),
        (
            b'{"id": 1}\n{"id": 2}',
            "{path} is not JSON: Extra data at line 2, column 1; it must hold one list of samples",
        ),
        (b'["\xff"]', "{path} is not UTF-8 text (invalid start byte at byte 2); save it as UTF-8"),
    ],
)
def test_files_that_are_no_list_of_samples(tmp_path, content, message):
    path = tmp_path / "data.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_samples(path)
    assert str(error.value).startswith(message.format(path=path))


def test_missing_file_is_named(tmp_path):
    with pytest.raises(
        UserError, match=r"cannot read .*none\.json \(No such file or directory\); --data_path must name"
    ):
        read_samples(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (sample("<image>\nWhat?", "A cup."), "its text has <image> but it has no 'image'; add the picture's path"),
        (sample("<image>", "a", "<image>", "b", image="x.png"), "2 turns have <image> but it has 1 image; list one"),
        (sample("<image>", "a", image=["x.png", "y.png"]), "it has 2 images but 1 <image>; each image needs one"),
        (sample("<image><image><image>", "a", image=["x.png", "y.png"]), "it has 2 images but 3 <image>; each"),
        (sample("What?", "a", image=None), "its image is None; it must be a path or a list of paths"),
        (sample("What?", "a", image=""), "its image is ''; it must be a path or a list of paths"),
        (sample("What?", "a", image=[]), r"its image is \[\]; it must be a path or a list of paths"),
        (sample("What?", "a", image=["x.png", 3]), r"its image is \['x.png', 3\]; it must be a path"),
    ],
)
def test_pictures_that_do_not_fit_the_text(broken, message):
    with pytest.raises(PictureError, match=message):
        check_sample(broken, V1)


def test_structure_comes_before_pictures():
    with pytest.raises(UserError, match="it is a str; a sample must be an object with 'conversations'"):
        check_sample("hello", V1)
    with pytest.raises(UserError, match="its conversations must be a list") as error:
        check_sample({"image": ""}, V1)
    assert not isinstance(error.value, PictureError)


@pytest.mark.parametrize(
    "fine",
    [
        sample("Write RSS.", "<channel><image></image></channel>"),
        sample("What?", "A cup.", image="x.png"),
        sample("<image>\n<image>\nWhat?", "A cup.", image="x.png"),
        sample("<image>\nWhat?", "A cup.", image=["x.png"]),
        sample("<image> or", "yes", "<image>?", "no", image=["x.png", "y.png"]),
    ],
)
def test_what_fits(fine):
    check_sample(fine, V1)


def test_captions_have_one_picture():
    with pytest.raises(PictureError, match="it has 2 images; the plain template takes one picture and its caption"):
        check_sample(sample("<image><image>", "a", image=["x.png", "y.png"]), conv_templates["plain"])


def test_names_and_pictures():
    assert name_of("d.json", 3, {"id": "x"}) == "d.json, sample 3 (id 'x')"
    assert name_of("d.json", 3, ["id"]) == "d.json, sample 3"
    assert pictures_of({}) == []
    assert pictures_of({"image": "x.png"}) == ["x.png"]
    assert pictures_of({"image": ["x.png", "y.png"]}) == ["x.png", "y.png"]


def test_packed_samples_read_as_they_were_and_share_their_memory():
    samples = [sample("Où?", "世界 😀 \ud83d", id=number) for number in range(3)] + [{"id": None}]
    packed = PackedSamples(samples)
    assert len(packed) == 4
    assert list(packed) == samples
    assert packed[-1] == samples[-1]
    with pytest.raises(IndexError, match="sample 4 of 4"):
        packed[4]
    sent = ForkingPickler.dumps(packed)
    assert len(sent) < 1500, "a spawned worker is sent handles of the tensors, not their content"
    assert len(json.dumps(samples)) < len(packed._bytes) + 1500
