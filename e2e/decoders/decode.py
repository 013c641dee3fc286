"""Decodes recorded messages as discord.py does.

stdin: one WebSocket message per line, in hex; stdout: what each says, likewise.
Arguments: zlib-stream, zstd-stream, or payload where each message is a stream of its own; json or etf.
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


class Payload:
    """A message is a stream from its beginning to its end."""

    def decode(self, message):
        return zlib.decompress(message)


kind, encoding = sys.argv[1:]
stream = {"zlib-stream": ZlibStream, "zstd-stream": ZstdStream, "payload": Payload}[kind]()
for line in sys.stdin:
    said = stream.decode(bytes.fromhex(line))
    if encoding == "json":
        json.loads(said.decode("utf-8"))
    print(said.hex(), flush=True)
