"""``python -m llava.model.make_delta --base A --target B --delta C``: delta = LLaVA - language model, to publish."""

from llava.errors import exit_on_user_error
from llava.model.delta import add_base, delta_parser
from llava.model.utils import auto_upgrade, load_for_saving, save_whole
from llava.tokenization import load_tokenizer


def make_delta(
    base_model_path: str, target_model_path: str, delta_path: str, hub_repo_id: str | None = None, yes: bool = False
) -> None:
    """Write target minus base to the folder ``delta_path``, and to the hub if a repository is named."""
    auto_upgrade(target_model_path, yes)
    model = load_for_saving(target_model_path)
    add_base(model, load_for_saving(base_model_path), -1)
    save_whole(model, tokenizer_from=target_model_path, folder=delta_path)
    if hub_repo_id is not None:
        model.push_to_hub(hub_repo_id)
        load_tokenizer(target_model_path).push_to_hub(hub_repo_id)


@exit_on_user_error
def main() -> None:
    parser = delta_parser("Difference between a LLaVA and its language model.")
    parser.add_argument("--hub-repo-id", type=str, default=None, help="also push it to this repository of the hub")
    args = parser.parse_args()
    make_delta(args.base_model_path, args.target_model_path, args.delta_path, args.hub_repo_id, args.yes)


if __name__ == "__main__":
    main()
