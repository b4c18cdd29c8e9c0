"""Images of any size through a model, to a label at every pixel, in bounded memory.

windows
    Where windows lie, and how they share pixels.
image
    The picture as the model sees it.
running
    Windows through the model, in which precision and how many at a time.
fields
    Scores of an image, of which any part can be had without the rest.
resizing
    Bilinear resizing of a part.
decisions
    The winner at every pixel, tile by tile.
"""
