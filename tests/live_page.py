"""A page that runs in a thread, for as long as a test needs it."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from zegment.segmenter import Segmenter
from zegment.serving.server import Server
from zegment.serving.settings import ServeSettings


@contextmanager
def live(segmenter: Segmenter, settings: ServeSettings) -> Iterator[Server]:
    with Server(segmenter, settings).opened() as opened:
        thread = threading.Thread(target=opened.run)
        thread.start()
        try:
            while not opened.started:
                time.sleep(0.02)
            yield opened
        finally:
            opened.stop()
            thread.join(20)
    assert not thread.is_alive()
