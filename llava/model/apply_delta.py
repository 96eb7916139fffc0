"""``python -m llava.model.apply_delta --base A --target B --delta C``: LLaVA = language model + published delta."""

from llava.errors import exit_on_user_error
from llava.model.delta import add_base, delta_parser
from llava.model.utils import auto_upgrade, load_for_saving, save_whole


def apply_delta(base_model_path: str, target_model_path: str, delta_path: str, yes: bool = False) -> None:
    """Write base plus delta, model and tokenizer, to the folder ``target_model_path``."""
    auto_upgrade(delta_path, yes)
    model = load_for_saving(delta_path)
    add_base(model, load_for_saving(base_model_path), +1)
    save_whole(model, tokenizer_from=delta_path, folder=target_model_path)


@exit_on_user_error
def main() -> None:
    args = delta_parser("LLaVA from a language model and a published delta.").parse_args()
    apply_delta(args.base_model_path, args.target_model_path, args.delta_path, args.yes)


if __name__ == "__main__":
    main()
