"""DINOv2's vision transformer as LLaVA's eye (Oquab et al. 2023, "DINOv2", section 4)."""

from collections.abc import Iterable

from torch import Tensor, nn
from transformers import Dinov2Config, Dinov2Model

from llava.mm_utils import load_image_processor
from llava.model.multimodal_encoder.tower import VisionTower


class Dinov2VisionTower(VisionTower):
    """A frozen DINOv2; arguments as for the base class.

    It looks at pictures of the size to which its image processor crops, which need not be the size it was trained at:
    positions are interpolated to that grid. Hidden states are the blocks' outputs, before the final layer norm.
    """

    config_class = Dinov2Config
    model_class = Dinov2Model

    def _embed(self, images: Tensor) -> Tensor:
        return self.vision_tower.vision_model.embeddings(images)

    def _blocks(self) -> Iterable[nn.Module]:
        return self.vision_tower.vision_model.encoder.layer

    def _run_block(self, block: nn.Module, hidden: Tensor) -> Tensor:
        return block(hidden)

    @property
    def image_size(self) -> int:
        processor = self.image_processor if self.is_loaded else load_image_processor(self.vision_tower_name)
        return processor.crop_size["height"]
