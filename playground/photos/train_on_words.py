"""Stage 1 without the language model: image tokens are to be the words that their patches show.

What ``align`` does for ``mlp2x_gelu`` by itself, for any projector and by LLaVA's trainer: its scripts, flags, data and
order. The loss is the squared distance of a patch's token from the sum of its words' embeddings, in their variance. It
asks every patch of a picture about everything it shows, where a caption asks for a few words of all patches together;
what several layers have to say is learned in a minute. Samples are questions, so that a projector that reads them can.
"""

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from llava.constants import IMAGE_TOKEN_INDEX
from llava.model.multimodal_projector.registry import take_auxiliary_loss
from llava.train.llava_trainer import LLaVATrainer
from llava.train.train import main
from playground.photos import language_model, text


class WordsTrainer(LLaVATrainer):
    """LLaVATrainer with that loss, over samples of the photo set."""

    @cached_property
    def words(self) -> dict[str, Tensor]:
        """``[N, D]`` by the name of the picture."""
        data = Path(self.train_dataset.data_path).parent
        side = self.model.get_vision_tower().num_patches_per_side
        table = self.model.get_input_embeddings().weight.detach().float()
        scenes = text.read_scenes(data, "train").values()
        grids = [text.grid_of(scene, data, side, self.processing_class) for scene in scenes]
        return {
            f"{scene.id}.jpg": language_model.embed_grids([grid], table)[0]
            for scene, grid in zip(scenes, grids, strict=True)
        }

    @cached_property
    def variance(self) -> Tensor:
        return torch.stack([*self.words.values()]).var()

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """The scalar loss of a batch whose samples have one picture each."""
        samples = [self.train_dataset.list_data_dict[index] for index in inputs["indices"]]
        wanted = torch.stack([self.words[sample["image"]] for sample in samples])
        ids = inputs["input_ids"]
        embeds = model.prepare_inputs_labels_for_multimodal(
            ids, None, inputs["attention_mask"], None, inputs["labels"], inputs["images"]
        )[4]
        first = (ids == IMAGE_TOKEN_INDEX).int().argmax(dim=1)
        places = rearrange(first, "b -> b 1") + torch.arange(wanted.shape[1])
        said = embeds[torch.arange(len(ids))[:, None], places]
        distance = (said.float() - wanted).square().mean() / self.variance
        auxiliary = take_auxiliary_loss(model.get_model().mm_projector)
        return distance if auxiliary is None else distance + auxiliary


if __name__ == "__main__":
    main("eager", WordsTrainer)
