"""AttAnchor for users: switch it on, choose its threshold, look at what it pins where.

``python -m llava.attanchor.calibrate`` and ``python -m llava.attanchor.draw`` are its programs.
"""

from llava.attanchor.switch import add_attanchor_flags, enable_attanchor, given_attanchor_flags, record_attanchor

__all__ = ["add_attanchor_flags", "enable_attanchor", "given_attanchor_flags", "record_attanchor"]
