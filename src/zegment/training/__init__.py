"""Training: what is made and checked before it, its steps, and how it survives being stopped."""

from zegment.training.trainer import Observer, Silent, Trainer

__all__ = ["Observer", "Silent", "Trainer"]
