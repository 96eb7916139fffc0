"""Names and numbers shared by every part of LLaVA; third-party harnesses import them from here."""

# In prompts, each stands for one image or frames its place.
DEFAULT_IMAGE_TOKEN = "<image>"
IMAGE_PLACEHOLDER = "<image-placeholder>"
DEFAULT_IM_START_TOKEN, DEFAULT_IM_END_TOKEN = "<im_start>", "<im_end>"
DEFAULT_IMAGE_PATCH_TOKEN = "<im_patch>"

# In token ids and labels. No row of the embedding table has these numbers.
IMAGE_TOKEN_INDEX = -200  # one image
IGNORE_INDEX = -100  # a position that the loss skips

# In serving.
LOGDIR = "."
WORKER_HEART_BEAT_INTERVAL = 15  # seconds
CONTROLLER_HEART_BEAT_EXPIRATION = 30  # seconds
