"""Names and numbers shared by every part of LLaVA; third-party harnesses import them from here."""

CONTROLLER_HEART_BEAT_EXPIRATION = 30  # seconds
WORKER_HEART_BEAT_INTERVAL = 15  # seconds
LOGDIR = "."

IGNORE_INDEX = -100  # label of a position that the loss skips
IMAGE_TOKEN_INDEX = -200  # id that stands for one image; no row of the embedding table has it

DEFAULT_IMAGE_TOKEN = "<image>"
DEFAULT_IMAGE_PATCH_TOKEN = "<im_patch>"
DEFAULT_IM_START_TOKEN = "<im_start>"
DEFAULT_IM_END_TOKEN = "<im_end>"
IMAGE_PLACEHOLDER = "<image-placeholder>"
