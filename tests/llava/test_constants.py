from llava import constants


def test_values_that_checkpoints_and_harnesses_rely_on() -> None:
    expected = {
        "CONTROLLER_HEART_BEAT_EXPIRATION": 30,
        "DEFAULT_IMAGE_PATCH_TOKEN": "<im_patch>",
        "DEFAULT_IMAGE_TOKEN": "<image>",
        "DEFAULT_IM_END_TOKEN": "<im_end>",
        "DEFAULT_IM_START_TOKEN": "<im_start>",
        "IGNORE_INDEX": -100,
        "IMAGE_PLACEHOLDER": "<image-placeholder>",
        "IMAGE_TOKEN_INDEX": -200,
        "LOGDIR": ".",
        "WORKER_HEART_BEAT_INTERVAL": 15,
    }
    assert {name: getattr(constants, name) for name in dir(constants) if name.isupper()} == expected
