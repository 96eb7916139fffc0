"""Look a training file over before it costs GPU time.

::

    python -m llava.data.check DATA.json --image-folder DIR [--tokenizer MODEL] [--json REPORT.json]

Every sample is checked for structure, roles and ``<image>`` against pictures; every picture is opened (in parallel).
With a tokenizer, samples are also tokenised as training would: lengths after image expansion, and samples with nothing
to learn.
Exit code 0: training can start; 1: it would fail; 2: the command itself was wrong.
"""

import argparse
import json
import multiprocessing
import os
import random
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from llava.constants import DEFAULT_IMAGE_TOKEN, IGNORE_INDEX, IMAGE_TOKEN_INDEX
from llava.conversation import Conversation, conv_templates
from llava.errors import UserError, exit_on_user_error
from llava.tokenization import load_tokenizer
from llava.train.dataset import encode_text, load_picture
from llava.train.samples import check_sample, pictures_of, read_samples

SHARE_ALL_MASKED = 0.01  # above this, training stops too
WORST = 5
CHUNK = 256
AS_TRAINED = argparse.Namespace(is_multimodal=True, mm_use_im_start_end=False)  # what LLaVA-1.5's recipes set


@dataclass
class Finding:
    """One thing to know about one sample; ``fatal`` stops training."""

    fatal: bool
    line: int
    id: Any
    problem: str


@dataclass
class Report:
    """What the look brought up. Lengths are in tokens, with each picture as many as the projector makes of it."""

    file: str
    samples: int = 0
    text_only: int = 0
    pictures: int = 0
    findings: list[Finding] = field(default_factory=list)
    duplicate_ids: dict[str, int] = field(default_factory=dict)
    tokenised: int = 0
    all_masked: int = 0
    length_histogram: dict[str, int] = field(default_factory=dict)
    longer_than_limit: int = 0
    longest: list[Finding] = field(default_factory=list)

    @property
    def fatal(self) -> int:
        """How many samples would stop training."""
        return sum(finding.fatal for finding in self.findings)

    @property
    def passes(self) -> bool:
        return not self.fatal and self.all_masked <= SHARE_ALL_MASKED * max(self.tokenised, 1)


def read_with_lines(path: str) -> list[tuple[int, Any]]:
    """The list in a JSON file, each entry with the line (from 1) on which it begins. UserError as training's."""
    samples = read_samples(path)
    text = Path(path).read_text(encoding="utf-8")
    skip_value = json.JSONDecoder().raw_decode
    counted, line, position = 0, 1, text.index("[") + 1
    lines = []
    for _ in samples:
        while text[position] in " \t\r\n,":
            position += 1
        line += text.count("\n", counted, position)
        lines.append(line)
        counted = position
        _, position = skip_value(text, position)
    return list(zip(lines, samples, strict=True))


@dataclass(frozen=True)
class Job:
    """What a worker needs to look at samples."""

    template: Conversation
    image_folder: str | None
    open_pictures: bool
    tokenizer: Any
    image_tokens: int


@dataclass
class Look:
    """What one sample turned out to be."""

    problem: str = ""
    pictures: int = 0
    length: int | None = None
    all_masked: bool = False


def look_at(job: Job, entry: tuple[Any, bool]) -> Look:
    """One sample, as training would meet it; the flag says whether to tokenise it."""
    sample, tokenise = entry
    look = Look()
    try:
        check_sample(sample, job.template)
        paths = pictures_of(sample)
        look.pictures = len(paths)
        for path in paths if job.open_pictures else ():
            load_picture(Path(job.image_folder or "", path))
        if tokenise and job.tokenizer is not None:
            encoded = encode_text(sample, job.tokenizer, job.template, AS_TRAINED)
            ids = encoded["input_ids"]
            look.length = len(ids) + (job.image_tokens - 1) * int((ids == IMAGE_TOKEN_INDEX).sum())
            look.all_masked = bool((encoded["labels"] == IGNORE_INDEX).all())
    except UserError as error:
        look.problem = str(error)
    return look


_job: Job


def _start_worker(job: Job) -> None:
    global _job
    _job = job


def _look_at_chunk(chunk: Sequence[tuple[Any, bool]]) -> list[Look]:
    return [look_at(_job, entry) for entry in chunk]


def looks(job: Job, entries: Sequence[tuple[Any, bool]], workers: int) -> Iterator[Look]:
    """All looks in order; ``workers`` processes, with progress."""
    chunks = [entries[start : start + CHUNK] for start in range(0, len(entries), CHUNK)]
    progress = partial(tqdm, total=len(entries), desc="check", unit="sample", disable=None)
    if workers <= 1:
        yield from progress(look_at(job, entry) for entry in entries)
        return
    with multiprocessing.Pool(workers, _start_worker, (job,)) as pool, progress() as bar:
        for chunk in pool.imap(_look_at_chunk, chunks):
            bar.update(len(chunk))
            yield from chunk


def check(
    path: str,
    image_folder: str | None = None,
    tokenizer: Any = None,
    *,
    template: str = "v1",
    model_max_length: int = 2048,
    image_tokens: int = 576,
    sample_size: int | None = 20_000,
    workers: int = 1,
) -> Report:
    """Look at all samples of ``path``; tokenise ``sample_size`` of them (None = all), chosen by a fixed seed.

    Without an image folder pictures are not opened. UserError when the file is no list of samples.
    """
    entries = read_with_lines(path)
    chosen = set(range(len(entries)))
    if sample_size is not None and sample_size < len(entries):
        chosen = set(random.Random(0).sample(range(len(entries)), sample_size))
    job = Job(conv_templates[template], image_folder, image_folder is not None, tokenizer, image_tokens)
    report = Report(path, samples=len(entries))
    lengths: list[tuple[int, int]] = []
    work = [(sample, index in chosen) for index, (_, sample) in enumerate(entries)]
    for index, look in enumerate(looks(job, work, workers)):
        line, sample = entries[index]
        own_id = sample.get("id") if isinstance(sample, dict) else None
        report.pictures += look.pictures
        report.text_only += not look.pictures and not look.problem
        if look.problem:
            report.findings.append(Finding(True, line, own_id, look.problem))
        elif look.all_masked:
            report.all_masked += 1
            report.findings.append(Finding(False, line, own_id, "nothing of it is trained: no answer has text"))
        if look.length is not None:
            lengths.append((look.length, index))
    report.tokenised = len(lengths)
    report.longer_than_limit = sum(length > model_max_length for length, _ in lengths)
    report.length_histogram = histogram([length for length, _ in lengths], model_max_length)
    for length, index in sorted(lengths, reverse=True)[:WORST]:
        line, sample = entries[index]
        report.longest.append(Finding(False, line, sample.get("id"), f"{length} tokens"))
    ids = Counter(str(sample["id"]) for _, sample in entries if isinstance(sample, dict) and "id" in sample)
    report.duplicate_ids = {own_id: count for own_id, count in ids.most_common() if count > 1}
    return report


def histogram(lengths: Sequence[int], limit: int) -> dict[str, int]:
    """Counts in eighths of the limit, and of what is longer."""
    step = max(limit // 8, 1)
    counts = Counter(min((length - 1) // step, 8) for length in lengths)
    names = [f"{i * step + 1}-{(i + 1) * step}" for i in range(8)]
    return {name: counts.get(i, 0) for i, name in enumerate([*names, f"over {8 * step}"])}


def as_text(report: Report, limit: int) -> str:
    """The report for people."""
    lines = [
        f"{report.file}: {report.samples:,} samples, {report.text_only:,} text only, {report.pictures:,} pictures",
    ]
    if report.tokenised:
        share = f" of {report.tokenised:,} tokenised"
        lines.append(f"length in tokens, pictures included (model_max_length {limit}){share}:")
        widest = max(report.length_histogram.values())
        for name, count in report.length_histogram.items():
            lines.append(f"  {name:>12} {count:>9,} {'#' * round(40 * count / max(widest, 1))}")
        lines.append(f"longer than {limit}, would be cut: {report.longer_than_limit:,}{share}")
        lines.append(f"nothing to learn (all labels masked): {report.all_masked:,}{share}")
        lines += [f"  longest: line {worst.line}, id {worst.id!r}: {worst.problem}" for worst in report.longest]
    if report.duplicate_ids:
        example, count = next(iter(report.duplicate_ids.items()))
        lines.append(
            f"ids that occur more than once: {len(report.duplicate_ids):,}, such as {example!r} ({count} times)"
        )
    worst = sorted(report.findings, key=lambda finding: not finding.fatal)[:WORST]
    lines += [f"  line {finding.line}, id {finding.id!r}: {finding.problem}" for finding in worst]
    if report.passes:
        lines.append("training can start")
    else:
        reasons = [f"{report.fatal:,} samples break a rule"] if report.fatal else []
        if report.all_masked > SHARE_ALL_MASKED * max(report.tokenised, 1):
            reasons.append(f"{report.all_masked / report.tokenised:.0%} of the samples teach nothing")
        lines.append(f"training would fail: {' and '.join(reasons)}; mend them and check again")
    return "\n".join(lines)


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", help="JSON list of samples")
    parser.add_argument("--image-folder", help="root of the samples' pictures; without it they are not opened")
    parser.add_argument("--tokenizer", help="folder or hub name of the language model; without it nothing is tokenised")
    parser.add_argument("--version", default="v1", help="conversation template (default: v1)")
    parser.add_argument("--model-max-length", type=int, default=2048)
    parser.add_argument("--image-tokens", type=int, default=576, help=f"tokens an {DEFAULT_IMAGE_TOKEN} becomes")
    parser.add_argument("--all", action="store_true", help="tokenise every sample, not 20,000 of them")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", metavar="FILE", help="write the report here too; - for standard output alone")
    return parser


@exit_on_user_error
def main(argv: list[str] | None = None) -> None:
    args = _arguments().parse_args(argv)
    if args.version not in conv_templates:
        raise UserError(f"--version is {args.version!r}; it must be one of {', '.join(conv_templates)}")
    if args.image_folder is not None and not Path(args.image_folder).is_dir():
        raise UserError(f"--image-folder {args.image_folder} does not exist; give the folder that holds the pictures")
    tokenizer = None
    if args.tokenizer is not None:
        tokenizer = load_tokenizer(args.tokenizer, model_max_length=sys.maxsize)
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.unk_token or tokenizer.eos_token
    report = check(
        args.data,
        args.image_folder,
        tokenizer,
        template=args.version,
        model_max_length=args.model_max_length,
        image_tokens=args.image_tokens,
        sample_size=None if args.all else 20_000,
        workers=args.workers,
    )
    if args.json is not None:
        record = json.dumps(asdict(report) | {"passes": report.passes}, indent=1, ensure_ascii=False)
        if args.json == "-":
            print(record)
        else:
            Path(args.json).write_text(record + "\n", encoding="utf-8")
    if args.json != "-":
        print(as_text(report, args.model_max_length))
    sys.exit(0 if report.passes else 1)


if __name__ == "__main__":
    main()
