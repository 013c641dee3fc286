"""Decodes a recorded stream as discord.py does.

stdin: one WebSocket message per line, in hex; stdout: what each says, one JSON string per line.
Argument: zlib-stream or zstd-stream.
"""

import json
import sys
import zlib


class ZlibStream:
    """A message is complete when it ends with the mark of a flush."""

    FLUSH = b"\x00\x00\xff\xff"

    def __init__(self):
        self.buffer = bytearray()
        self.context = zlib.decompressobj()

    def decode(self, message):
        self.buffer.extend(message)
        if not message.endswith(self.FLUSH):
            raise ValueError("a message without a flush")
        text = self.context.decompress(self.buffer)
        self.buffer = bytearray()
        return text


class ZstdStream:
    """What a message yields is one payload."""

    def __init__(self):
        import zstandard

        self.context = zstandard.ZstdDecompressor().decompressobj()

    def decode(self, message):
        return self.context.decompress(message)


stream = {"zlib-stream": ZlibStream, "zstd-stream": ZstdStream}[sys.argv[1]]()
for line in sys.stdin:
    text = stream.decode(bytes.fromhex(line)).decode("utf-8")
    json.loads(text)
    print(json.dumps(text), flush=True)
