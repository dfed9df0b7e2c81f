"""Which of an alert's languages a person reads best, by langcodes.

Argument: a file with one JSON array of [language of the device, [languages of the messages, the fallback first]]. Prints one
JSON array of the languages chosen.
"""

import json
import sys

import langcodes

# The largest distance at which langcodes, by default, holds a language to be understood.
DISTANCE_MAX = 25


def chosen(device, messages):
    found, _ = langcodes.closest_match(device, messages, max_distance=DISTANCE_MAX)
    return messages[0] if found == "und" else found


with open(sys.argv[1], encoding="utf-8") as file:
    print(json.dumps([chosen(device or "und", messages) for device, messages in json.load(file)]))
