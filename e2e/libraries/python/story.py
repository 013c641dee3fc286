"""What a bot saw, one JSON object a line."""

import json


def note(event, **fields):
    print(json.dumps({"event": event, **fields}, ensure_ascii=False), flush=True)
