"""One file per system, one interface: see `zegment.models.base.SegmentationModel`."""
