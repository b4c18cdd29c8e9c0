"""The training of the tiny CLIP of Shapes, from scenes and captions, without a single mask."""

from zegment.shapes_clip.gates import Gates
from zegment.shapes_clip.learning import Step
from zegment.shapes_clip.run import Learnt, learn, train_shapes_clip

__all__ = ["Gates", "Learnt", "Step", "learn", "train_shapes_clip"]
